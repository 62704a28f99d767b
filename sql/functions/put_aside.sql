-- notifier.put_aside: keep what could not be written to its table; the service moves it there.
--   _kind      'notification', 'timer' or 'backfill'
--   _records   what notifier.work makes rows of
-- Used by: notifier.record, notifier.arm, notifier.keep_fault.
create or replace function notifier.put_aside(_kind text, _records jsonb[]) returns void
language plpgsql
set lock_timeout = '50ms' as $$
begin
  begin
    lock table notifier.spill in row exclusive mode;
    perform nextval('notifier.spill_id_seq');
  exception when lock_not_available then
    -- Somebody locks every table of ours: nothing is left but to let the application go on.
    raise warning 'notifier: % of kind % lost, since notifier.spill is locked too', cardinality(put_aside._records), put_aside._kind;
    return;
  end;
  set local lock_timeout = 0;   -- see notifier.reserve
  insert into notifier.spill (kind, record) select put_aside._kind, unnest(put_aside._records);
end
$$;
