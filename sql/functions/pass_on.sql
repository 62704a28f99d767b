-- notifier.pass_on: tell on the channel what was committed since a position, many notifications in one NOTIFY. While many write,
-- this is done for them: a writer that NOTIFYs holds a lock of the whole server while its commit waits for the disk.
--   _generation   what notifier.become_relay returned
--   _epoch        the epoch of the positions
--   _told         up to where the relay has told, with rows
--   _read         up to where it has read: newer than _told when nothing was found since
--   returns       one row: the new position, and how many rows are new (1,001 stands for more)
--   raises        55000 when another instance is the relay, or another epoch has begun
-- NOTIFYs arrays of payloads, and behind them in the same transaction {"beat","epoch","since","position"}: all that is visible in
-- `position` and not in `since` stands before it. So an instance whose own position is `since` or newer has heard all up to
-- `position`, whoever says so and whenever. Where not all can be told it says {"read":true} instead, and claims nothing.
-- Used by: the relay (src/relay.rs), on a session without synchronous commit: nobody waits for a disk behind this NOTIFY.
create or replace function notifier.pass_on(_generation bigint, _epoch text, _told pg_snapshot, _read pg_snapshot)
returns table ("position" text, new_rows bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
-- As in notifier.stream.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off as $$
#variable_conflict use_column
declare
  -- More than so many are read faster than they are told.
  _most     constant integer := 1000;
  _running  xid8[] := array(select pg_snapshot_xip(pass_on._read));
  _position pg_snapshot;
  _payloads text[];
  _payload  text;
  _batch    text;
  _beat     text;
  _whole    boolean;
  _channel  text;
begin
  perform notifier.is_relay(pass_on._generation);
  if pass_on._epoch is distinct from (select e.token from notifier.epoch e order by e.number desc limit 1) then
    raise exception 'another epoch has begun' using errcode = 'object_not_in_prerequisite_state';
  end if;

  -- One statement, and so one snapshot: the rows, and the position they are read at.
  select pg_current_snapshot(), array(
    select notifier.payload(n)
    from (
      select * from (
        select * from notifier.notification where xid >= pg_snapshot_xmax(pass_on._read)
        union all
        select * from notifier.notification where xid = any (_running)
      ) n
      order by n.id
      limit _most + 1
    ) n
    order by n.id)
  into _position, _payloads;
  new_rows := cardinality(_payloads);
  "position" := _position::text;

  if new_rows > 0 and pg_notification_queue_usage() < 0.25 then
    _channel := (select s.value from notifier.setting s where s.name = 'channel');
    _beat := json_build_object('beat', 'relay', 'epoch', pass_on._epoch, 'since', pass_on._told::text, 'position', "position")::text;
    _whole := new_rows <= _most and octet_length(_beat) <= 7999;
    if new_rows <= _most then
      foreach _payload in array _payloads loop
        if octet_length(_payload) > 7997 then
          _whole := false;
        elsif _batch is null then
          _batch := _payload;
        elsif octet_length(_batch) + octet_length(_payload) > 7996 then
          perform pg_notify(_channel, '[' || _batch || ']');
          _batch := _payload;
        else
          _batch := _batch || ',' || _payload;
        end if;
      end loop;
      if _batch is not null then
        perform pg_notify(_channel, '[' || _batch || ']');
      end if;
    end if;
    perform pg_notify(_channel, case when _whole then _beat else '{"read":true}' end);
  end if;
  return next;
end
$$;
