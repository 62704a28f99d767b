-- notifier.send: tell one user something, for code that wants to say it itself.
--   user_id   who is told
--   level     success, error, warning or info
--   message   the text, as it is
--   data      a JSON object for the frontend
--   event     a name the frontend can tell it by
--   send_at   when; null or a past time is now
--   raises    22023 for a wrong level, data that is no object or an infinite send_at, 22004 for a missing
--             message, 23514 for a user_id of 0 or more than 255 bytes
-- Used by: applications and DBAs; roles that are members of notifier_sender.
create or replace function notifier.send(
  user_id text, level text, message text, data jsonb default '{}', event text default 'message', send_at timestamptz default null
) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '50ms' as $$
declare
  _user notifier.user_key := send.user_id;
begin
  perform notifier.checked_level(send.level);
  if _user is null or send.message is null or send.event is null then
    raise exception 'user_id and message must be given, and event not be null' using errcode = 'null_value_not_allowed',
      hint = 'select notifier.send(user_id => ''42'', level => ''info'', message => ''Hello.'')';
  end if;
  if not isfinite(send.send_at) then
    raise exception 'send_at is %', send.send_at using errcode = 'invalid_parameter_value', hint = 'Give an instant, or null for now.';
  end if;
  if jsonb_typeof(send.data) <> 'object' then
    raise exception 'data is a JSON %', jsonb_typeof(send.data) using errcode = 'invalid_parameter_value',
      hint = 'Give an object: {"reason": "card declined"}';
  end if;
  if send.send_at > clock_timestamp() then
    insert into notifier.scheduled (send_at, user_id, event, level, message, data)
    values (send.send_at, _user, send.event, send.level, send.message, coalesce(send.data, '{}'));
  else
    perform notifier.record(send.event, send.level, array[_user::text], array[send.message], array[coalesce(send.data, '{}')]);
  end if;
end
$$;
