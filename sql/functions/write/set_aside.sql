-- notifier.set_aside: keep what could not, or should not, be written to its table; the service moves it there.
--   _kind      as the table's column: of 'timers' each record is many of them, in arrays
--   _records   what notifier.work makes rows of
--   returns    whether they are kept: not where even notifier.spill is locked, or gone
-- Used by: notifier.record, notifier.arm, notifier.send, notifier.keep_fault.
create or replace function notifier.set_aside(_kind text, _records jsonb[]) returns boolean
language plpgsql
set lock_timeout = '50ms' as $$
declare
  _waited constant text := coalesce(current_setting('notifier.waited', true), '');
  _last   bigint[];
begin
  if _waited <> '' then
    perform set_config('lock_timeout', case _waited when 'once' then '25ms' else '1ms' end, true);
  end if;
  _last := notifier.keep_lastval();
  begin
    lock table notifier.spill in row exclusive mode;
    perform nextval('notifier.spill_id_seq');
  exception when serialization_failure or deadlock_detected then raise;
  when others then
    if sqlstate = '55P03' then
      perform set_config('notifier.waited', 'twice', true);
    end if;
    return false;
  end;
  set local lock_timeout = 0;   -- see notifier.reserve_number
  insert into notifier.spill (kind, record) select set_aside._kind, unnest(set_aside._records);
  perform notifier.put_back_lastval(_last);
  return true;
end
$$;
