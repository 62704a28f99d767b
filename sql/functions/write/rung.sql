-- notifier.rung: whether somebody listens now. A transaction that NOTIFYed holds a database-wide lock while it commits, so
-- writers do it only while the relay asks for it by holding the bell (an advisory lock). The bell is latency only: whatever
-- goes wrong here, the service finds the rows within two seconds.
--   returns   whether to NOTIFY
-- Used by: notifier.record, notifier.arm, notifier.work, and notifier.record_one, which looks at the bell itself. The key is that of
-- notifier.hang_bell.
create or replace function notifier.rung() returns boolean
language plpgsql as $$
begin
  if coalesce(current_setting('notifier.doorbell', true), '') <> '' then
    case notifier.doorbell()
      when 'off' then return false;
      when 'on' then return pg_notification_queue_usage() < 0.25;
      else null;
    end case;
  end if;
  -- The bell in one expression: between two statements a cancel would leave the lock behind in a pooled session. A full queue
  -- would fail the COMMIT.
  return case when pg_try_advisory_lock_shared(7809647138214477426)
              then not pg_advisory_unlock_shared(7809647138214477426) else true end
    and pg_notification_queue_usage() < 0.25;
exception when others then
  return false;   -- out of shared memory for the lock, say
end
$$;
