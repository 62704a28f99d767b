-- notifier.pass_on: tell on the channel what was committed since a position, many notifications in one NOTIFY. While many write,
-- this is done for them: a writer that NOTIFYs holds a lock of the whole server while its commit waits for the disk.
--   _generation   what notifier.become_relay returned
--   _epoch        the epoch of the positions
--   _told         up to where the relay has told, with rows
--   _read         up to where it has read: newer than _told when nothing was found since
--   returns       one row: the new position, and how many rows are new (251 stands for more)
--   raises        55000 when another instance is the relay, or another epoch has begun
-- NOTIFYs arrays of payloads, and last in the same transaction {"told","epoch","since","position"} with the rest of them in `told`:
-- all that is visible in `position` and not in `since` stands in it and before it. So an instance whose own position is `since` or
-- newer has heard all up to `position`, whoever says so and whenever. Where not all can be told it says {"read":true} instead,
-- and claims nothing.
-- Used by: the relay (src/relay.rs), on a session without synchronous commit: nobody waits for a disk behind this NOTIFY.
create or replace function notifier.pass_on(_generation bigint, _epoch text, _told pg_snapshot, _read pg_snapshot)
returns table ("position" text, new_rows bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
-- As in notifier.read_on.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off as $$
#variable_conflict use_column
declare
  -- More than so many are read faster than they are told.
  _most     constant integer := 250;
  _running  xid8[] := array(select pg_snapshot_xip(pass_on._read));
  _position pg_snapshot;
  _payloads text[];
  _payload  text;
  _batch    text;
  _claim    text;
  _whole    boolean;
  _channel  text;
begin
  perform notifier.is_relay(pass_on._generation);
  if pass_on._epoch is distinct from (select e.token from notifier.epoch e order by e.number desc limit 1) then
    raise exception 'another epoch has begun' using errcode = 'object_not_in_prerequisite_state';
  end if;

  -- Nobody has begun or ended since: asked every few milliseconds, and to look at sixteen leaves takes ten times as long.
  if pg_current_snapshot()::text = pass_on._read::text then
    "position" := pass_on._read::text;
    new_rows := 0;
    return next;
    return;
  end if;

  -- One statement, and so one snapshot: the rows, and the position they are read at. Payloads are made where they are told.
  with n as materialized (
    select * from (
      select * from notifier.notification where xid >= pg_snapshot_xmax(pass_on._read)
      union all
      select * from notifier.notification where xid = any (_running)
    ) n
    order by n.id
    limit _most + 1
  )
  select pg_current_snapshot(), c.count, case when c.count <= _most then array(select notifier.payload(n) from n order by n.id) end
  from (
    -- What lies in notifier.bulk is more than that, and never told here.
    select case when exists (select from notifier.bulk b where b.xid >= pg_snapshot_xmax(pass_on._read) or b.xid = any (_running))
                then _most + 1 else (select count(*) from n) end as count
  ) c
  into _position, new_rows, _payloads;
  "position" := _position::text;

  if new_rows > 0 and pg_notification_queue_usage() < 0.25 then
    _channel := (select s.value from notifier.setting s where s.name = 'channel');
    _claim := format('"epoch":"%s","since":"%s","position":"%s"', pass_on._epoch, pass_on._told, "position");
    _whole := new_rows <= _most;
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
    end if;
    if _whole and octet_length(_batch) + octet_length(_claim) <= 7980 then
      perform pg_notify(_channel, '{"told":[' || _batch || '],' || _claim || '}');
    else
      if _batch is not null then
        perform pg_notify(_channel, '[' || _batch || ']');
      end if;
      if not _whole then
        perform pg_notify(_channel, '{"read":true}');
      elsif octet_length(_claim) <= 7980 then
        -- With some four hundred transactions running even this is too long: all is told, and each instance reads once a second.
        perform pg_notify(_channel, '{"told":[],' || _claim || '}');
      end if;
    end if;
  end if;
  return next;
end
$$;
