-- notifier.announce: send payloads on the secret channel. What goes wrong here undoes no row and fails no write.
--   _payloads   JSON texts of at most 7,999 bytes: NOTIFY refuses 8,000, and the whole transaction with it
-- Used by: notifier.record, notifier.record_one, notifier.arm, notifier.work.
create or replace function notifier.announce(_payloads text[]) returns void
language plpgsql
set lock_timeout = '50ms' as $$   -- for notifier.setting, which notifier.reserve_number did not lock
begin
  if coalesce(current_setting('notifier.waited', true), '') <> '' then
    perform set_config('lock_timeout', '1ms', true);
  end if;
  perform pg_notify(s.value, p.payload)
  from notifier.setting s, unnest(announce._payloads) as p(payload)
  where s.name = 'channel';
exception
  when serialization_failure or deadlock_detected then
    raise;
  when lock_not_available then
    -- Waited once; the rest of the transaction does not.
    perform set_config('notifier.doorbell', 'off', true), set_config('notifier.waited', 'once', true);
  when others then
    null;
end
$$;
