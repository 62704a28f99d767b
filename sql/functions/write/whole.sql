-- notifier.whole: names all that a generated function calls outside its exception blocks, and is called by nobody. A generated
-- function mentions it inside them: where one of these is missing, after half a restore, that is a fault and the write succeeds.
-- The body is SQL-standard, so that Postgres refuses to drop what it names, and to restore it without that.
--   returns   nothing of interest
-- Used by: the generated functions.
create or replace function notifier.whole() returns boolean
language sql volatile
return notifier.record(null, null, null, null, null) is null
  and notifier.record_one(null, null, null, null, null) is null
  and notifier.refuse('', null, null, null) is null
  and notifier.arm(null, null, null) is null
  and notifier.keep_fault(null, null, null) is null
  and notifier.reserve_number(null, null, null) is null
  and notifier.set_aside(null, null)
  and notifier.keep_lastval() is null
  and notifier.put_back_lastval(null) is null
  and notifier.slot(null) is null
  and notifier.rung()
  and notifier.announce(null) is null
  and notifier.payload(null) is null;
