-- notifier.put_back_lastval: let lastval() give a number again. It gives what the session has last seen of the sequence it last took
-- from: that is made a sequence of ours, and then told to the session as its value.
--   _last   what notifier.keep_lastval returned
-- Used by: notifier.record, notifier.arm, notifier.set_aside, notifier.keep_fault, when they have written.
create or replace function notifier.put_back_lastval(_last bigint[]) returns void
language plpgsql as $$
begin
  if put_back_lastval._last <> '{}' then
    perform nextval('notifier.others_last'), setval('notifier.others_last', put_back_lastval._last[1]);
  end if;
exception when lock_not_available or undefined_table then
  null;
end
$$;
