-- notifier.keep_lastval: what lastval() gives the application just now. Our own inserts take numbers from sequences of ours, and an
-- application that asks afterwards for the number of its last row (as some drivers do for it) must not notice.
--   returns   the number in an array; an empty one where the session has taken none yet, or from a sequence that our owner may not read
-- Used by: notifier.record, notifier.arm, notifier.set_aside, notifier.keep_fault, before they write; notifier.reserve_number does the same
-- where it waits anyway.
create or replace function notifier.keep_lastval() returns bigint[]
language plpgsql as $$
begin
  return array[lastval()];
exception when object_not_in_prerequisite_state or insufficient_privilege or undefined_table then
  return '{}';
end
$$;
