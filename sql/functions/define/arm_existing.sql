-- notifier.arm_existing: have the service arm the rows that a timer finds in its table, from the beginning.
--   _event    the timer
--   returns   what is done, for whoever asked
-- Used by: notifier.define, notifier.resume_event.
create or replace function notifier.arm_existing(_event text) returns text
language sql volatile as $$
  insert into notifier.backfill (event) values (arm_existing._event)
  on conflict (event) do update set pass = 1, after_key = null, barrier = null, not_before = '-infinity'
  returning format('%s: rows that are there are armed by the service, the next 24 hours first', event)
$$;
