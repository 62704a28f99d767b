-- notifier.record_one: notifier.record for what nearly every write tells, one notification, in as few instructions as it can be done,
-- and with as little to compile: the application waits for both, for the second with each new connection. The row goes into the leaf of its
-- day by statements that name it. Through the partitioned table, and with a statement put together for the leaf, it would take
-- 60,000 instructions more, so there are sixteen of the two that differ.
--   _event, _level, _user, _message, _data   the notification
--   returns   its id; 0 where it was put aside
-- Leaves lock_timeout at 0, as notifier.record does. Locks, number and lastval() are as notifier.reserve_number says.
-- Used by: the generated functions (outside their exception blocks), where notifier.waited is not set.
do $do$
declare
  _leaf  text;
  _parts text[];
  _trees text[];   -- the lock, and the insert
begin
  foreach _leaf in array array[$lock$
      lock table only notifier.notification, notifier.notification_%1$s in row exclusive mode;
$lock$, $insert$
    insert into notifier.notification_%1$s (id, slot, created_at, user_id, event, level, message, data)
    values (_id, %1$s, _now, _user, _event, _level, _message, _data);
$insert$] loop
    _parts := array(select format(_leaf, s) from generate_series(0, 15) s);
    -- Of each two parts one is made that asks which of them it is, until there is but one: four questions instead of sixteen.
    for _level in 0..3 loop
      _parts := array(
        select format(E'\n  if _slot < %s then%s  else%s  end if;\n', (2 * n - 1) << _level, _parts[2 * n - 1], _parts[2 * n])
        from generate_series(1, cardinality(_parts) / 2) n);
    end loop;
    _trees := _trees || _parts;
  end loop;
  execute format($function$
create or replace function notifier.record_one(_event text, _level text, _user text, _message text, _data jsonb) returns bigint
language plpgsql as $body$
declare
  _now     constant timestamptz := clock_timestamp();
  _slot    constant smallint := notifier.slot(_now);
  _id      bigint;
  _bare    boolean;   -- whether lastval() is not to be kept
  _xid     xid8;
  _payload text;
begin
  loop
    begin%s
      if _bare then
        _id := case when set_config('lock_timeout', '0', true) is not null then nextval('notifier.notification_id') end;
      else
        -- Arguments are evaluated before the call and in their order: lastval(), the two numbers, then lastval() is put back.
        _id := case when setval('notifier.others_last', lastval(), nextval('notifier.notification_id') is not null
          and nextval('notifier.others_last') is not null) is not null and set_config('lock_timeout', '0', true) is not null
          then currval('notifier.notification_id') end;
      end if;
      exit;
    exception when serialization_failure or deadlock_detected then raise;
    when others then
      -- A session that has no lastval() yet, or from a sequence that our owner may not read, goes without.
      if sqlstate in ('55000', '42501', '42P01') and _bare is null then
        _bare := true;
      else
        _id := notifier.reserve_number('only notifier.notification, notifier.notification_' || _slot, 'notifier.notification_id', sqlstate);
        if _id is null then
          perform notifier.record(_event, _level, array[_user], array[_message], array[_data]);
          return 0;
        end if;
        exit;
      end if;
    end;
  end loop;
%s
  -- As notifier.rung: looked at when the row is written, and what goes wrong here undoes no row. The rarer question comes second.
  begin
    if (case when current_setting('notifier.doorbell', true) <> '' then false
             when pg_try_advisory_lock_shared(7809647138214477426) then pg_advisory_unlock_shared(7809647138214477426)
             else false end)
    then
      return _id;
    elsif (case when current_setting('notifier.doorbell', true) <> '' then not notifier.rung()
                else pg_notification_queue_usage() >= 0.25 end)
    then
      return _id;
    end if;
  exception when others then
    return _id;
  end;
  if octet_length(_message) <= 7999 and pg_column_size(_data) <= 7999 then
    _xid := pg_current_xact_id();   -- in a variable, and the payload's function is inlined
    _payload := notifier.payload(row(_id, _slot, _xid, _user, _event, _level, _message, _data, _now,
      null, null, null, null)::notifier.notification);
  end if;
  perform notifier.announce(array[case when octet_length(_payload) <= 7999 then _payload else '{"read":true}' end]);
  return _id;
end
$body$$function$, _trees[1], _trees[2]);
end
$do$;
