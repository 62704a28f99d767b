-- notifier.keep_fault: remember that an event failed, at most once for each event and transaction, and never fail itself.
--   _event, _sqlstate, _message   what failed, and how Postgres said it
--   _rearm     whether timers may be missing now: then the service looks at the event's rows again
-- Used by: the generated functions, in their exception handlers, notifier.refuse and notifier.work.
create or replace function notifier.keep_fault(_event text, _sqlstate text, _message text, _rearm boolean default false) returns void
language plpgsql
-- The application has waited for us once already, or is about to: a fault is not worth another wait.
set lock_timeout = '5ms' as $$
declare
  _kept text := coalesce(current_setting('notifier.faulted', true), '');
  _mark text := '[' || keep_fault._event || ']';
  _last bigint[];
begin
  if position(_mark in _kept) > 0 then
    return;
  end if;
  perform set_config('notifier.faulted', _kept || _mark, true);
  _last := notifier.keep_lastval();
  begin
    lock table notifier.fault_record in row exclusive mode;
    set local lock_timeout = 0;   -- see notifier.reserve_number
    insert into notifier.fault_record (event, sqlstate, message)
    values (keep_fault._event, keep_fault._sqlstate, left(keep_fault._message, 500));   -- so that an index holds it
  exception when others or assert_failure then
    -- The application reads this. What Postgres said of the query may name a value that it has no right to.
    raise warning 'notifier: a fault of event % could not be kept: SQLSTATE %', keep_fault._event, keep_fault._sqlstate;
  end;
  perform notifier.put_back_lastval(_last);
  if keep_fault._rearm then
    perform notifier.set_aside('backfill', array[jsonb_build_object('event', keep_fault._event)]);
  end if;
end
$$;
