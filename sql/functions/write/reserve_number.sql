-- notifier.reserve_number: take the locks an insert needs before the insert, where waiting for them can still be given up, and its
-- number with them. Whoever holds a lock on our tables costs an application's transaction one lock_timeout, once: from then on the
-- transaction writes to notifier.spill, which nobody locks. (The setting notifier.waited remembers that it has had its wait,
-- here or for a table that a query reads; somebody who locks notifier.spill as well costs it half a wait more.) The insert itself
-- then has no limit, lock_timeout is 0: what is left to wait for is the growth of the table, a lock every writer of a busy table
-- takes its turn at, and giving up would fail the write. lastval() is the application's own afterwards (see notifier.put_back_lastval).
--   _tables     what to lock, ready for `lock table`: with `only`, since locking the other leaves would make emptying an
--               old one wait for every writer
--   _sequence   what their ids come from
--   _failed     the SQLSTATE that notifier.record_one met when it tried the same
--   returns     an id, and lock_timeout is 0; null: notifier.set_aside, since they are locked, or somebody took them away
-- Used by: notifier.record, notifier.record_one, notifier.arm, notifier.schedule, notifier.cancel_send. They run under the lock_timeout of one wait: a SET
-- clause here would cost as much as all of this.
create or replace function notifier.reserve_number(_tables text, _sequence text, _failed text default null) returns bigint
language plpgsql as $$
declare
  _state text := reserve_number._failed;
  _keeps boolean := true;
  _last  bigint;
  _id    bigint;
begin
  if coalesce(current_setting('notifier.spilling', true), '') || coalesce(current_setting('notifier.waited', true), '') <> '' then
    if current_setting('notifier.spilling', true) = 'on' then
      return null;
    end if;
    perform set_config('lock_timeout', '1ms', true);
  end if;
  loop
    if _state in ('55000', '42501', '42P01') and _keeps then
      -- The session has no lastval() yet, or from a sequence that our owner may not read: without it, then.
      _keeps := false;
    elsif _state is not null then
      perform set_config('notifier.spilling', 'on', true);
      if coalesce(current_setting('notifier.waited', true), '') = '' then
        perform set_config('notifier.waited', 'once', true);
      end if;
      return null;
    end if;
    begin
      execute 'lock table ' || reserve_number._tables || ' in row exclusive mode';
      if _keeps then
        _last := lastval();
      end if;
      _id := nextval(reserve_number._sequence::regclass);   -- locks it to the end of the transaction
      if _keeps then
        _last := case when nextval('notifier.others_last') is not null then setval('notifier.others_last', _last) end;
      end if;
      return case when set_config('lock_timeout', '0', true) is not null then _id end;
    exception when serialization_failure or deadlock_detected then raise;
    when others then
      _state := sqlstate;
    end;
  end loop;
end
$$;
