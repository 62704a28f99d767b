-- notifier.reserve: take the locks an insert needs before the insert, where waiting for them can still be given up.
-- Whoever holds a lock on our tables costs an application's transaction one lock_timeout, once: from then on the
-- transaction writes to notifier.spill, which nobody locks. (The setting notifier.waited remembers that it has had its wait,
-- here or for a table that a query reads; somebody who locks notifier.spill as well costs it half a wait more.) The insert itself then has no limit: what is left to wait for
-- is the growth of the table, a lock every writer of a busy table takes its turn at, and giving up would fail the write.
--   _tables     what to lock, ready for `lock table`: with `only`, since locking the other leaves would make emptying an
--               old one wait for every writer
--   _sequence   what their ids come from
--   returns     true: insert there; false: notifier.set_aside, since they are locked, or somebody took them away
-- Used by: notifier.record, notifier.arm, notifier.send.
create or replace function notifier.reserve(_tables text, _sequence text) returns boolean
language plpgsql
set lock_timeout = '50ms' as $$
begin
  if coalesce(current_setting('notifier.spilling', true), '') = 'on' then
    return false;
  end if;
  if coalesce(current_setting('notifier.waited', true), '') <> '' then
    perform set_config('lock_timeout', '1ms', true);
  end if;
  execute 'lock table ' || reserve._tables || ' in row exclusive mode';
  perform nextval(reserve._sequence::regclass);   -- locks it to the end of the transaction
  return true;
exception when serialization_failure or deadlock_detected then raise;
when others then
  perform set_config('notifier.spilling', 'on', true);
  if sqlstate = '55P03' and coalesce(current_setting('notifier.waited', true), '') = '' then
    perform set_config('notifier.waited', 'once', true);
  end if;
  return false;
end
$$;
