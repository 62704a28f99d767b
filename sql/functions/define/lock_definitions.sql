-- notifier.lock_definitions: one definition at a time, until the transaction ends: two on one table would meet as "tuple concurrently
-- updated".
--   _wait     false: only if nobody else defines just now
--   returns   whether it is held
--   raises    25001 in a transaction whose snapshot is older than its statements: generated from that, functions would leave out what
--             was defined while this waited
-- Used by: notifier.count_faults, notifier.define, notifier.drop_event, notifier.pause_event, notifier.regenerate, notifier.resume_event.
create or replace function notifier.lock_definitions(_wait boolean default true) returns boolean
language plpgsql as $$
begin
  if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    raise exception 'events are defined in a transaction of isolation level %', current_setting('transaction_isolation')
      using errcode = 'active_sql_transaction',
      hint = 'What others define meanwhile has to be seen: begin isolation level read committed, or set default_transaction_isolation.';
  end if;
  if not _wait then
    return pg_try_advisory_xact_lock(7809647138214477428);
  end if;
  perform pg_advisory_xact_lock(7809647138214477428);
  return true;
end
$$;
