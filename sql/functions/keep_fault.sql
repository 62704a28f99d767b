-- notifier.keep_fault: remember that an event failed, at most once for each event and transaction, and never fail itself.
--   _event, _sqlstate, _message   what failed, and how Postgres said it
-- Used by: the generated functions, in their exception handlers.
create or replace function notifier.keep_fault(_event text, _sqlstate text, _message text) returns void
language plpgsql as $$
declare
  _kept text := coalesce(current_setting('notifier.faulted', true), '');
  _mark text := '[' || keep_fault._event || ']';
begin
  if position(_mark in _kept) > 0 then
    return;
  end if;
  perform set_config('notifier.faulted', _kept || _mark, true);
  begin
    insert into notifier.fault_record (event, sqlstate, message)
    values (keep_fault._event, keep_fault._sqlstate, keep_fault._message);
  exception when others then
    raise warning 'notifier: a fault of event % could not be kept: % (%)',
      keep_fault._event, keep_fault._message, keep_fault._sqlstate;
  end;
end
$$;
