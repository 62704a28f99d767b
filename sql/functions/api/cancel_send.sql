-- notifier.cancel_send: take back what notifier.send was told to send later under a key.
--   key       of the call
--   returns   whether something was waiting. What another transaction sends and has not committed yet is not taken back
-- Used by: applications and DBAs; roles that are members of notifier_sender; notifier.send.
create or replace function notifier.cancel_send(key text) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '50ms' as $$   -- of notifier.reserve_number
declare
  _waiting boolean;
begin
  if cancel_send.key is null then
    raise exception 'key is null' using errcode = 'null_value_not_allowed', hint = 'Give the key of the call of notifier.send.';
  end if;
  -- Read only where that waits for nobody: what cannot be looked at is taken back all the same.
  if notifier.reserve_number('notifier.scheduled', 'notifier.scheduled_id_seq') is not null then
    select s.user_id is not null and s.send_at > clock_timestamp() into _waiting
    from notifier.scheduled s where s.key = cancel_send.key order by s.id desc limit 1;
  end if;
  perform notifier.schedule(clock_timestamp(), cancel_send.key);
  return coalesce(_waiting, false);
end
$$;
