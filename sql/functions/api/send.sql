-- notifier.send: tell one user something, for code that wants to say it itself.
--   user_id   who is told
--   level     success, error, warning or info
--   message   the text, as it is
--   data      a JSON object for the frontend
--   event     a name the frontend can tell it by
--   send_at   when; null or a past time is now
--   key       a name of its own, for what may have to be taken back: of those sent later under one key only the last call's counts,
--             and notifier.cancel_send takes it back
--   raises    22023 for a wrong level, data that is no object, an infinite send_at, or a user_id or key of 0 or more than 255 bytes;
--             22004 for a missing message or user
-- Used by: applications and DBAs; roles that are members of notifier_sender.
create or replace function notifier.send(
  user_id text, level text, message text, data jsonb default '{}', event text default 'message', send_at timestamptz default null,
  key text default null
) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '50ms' as $$   -- of notifier.reserve_number
declare
  _data constant jsonb := coalesce(send.data, '{}');
begin
  perform notifier.checked_level(send.level);
  if send.user_id is null or send.message is null or send.event is null then
    raise exception 'user_id and message must be given, and event not be null' using errcode = 'null_value_not_allowed',
      hint = 'select notifier.send(user_id => ''42'', level => ''info'', message => ''Hello.'')';
  end if;
  if octet_length(send.user_id) not between 1 and 255 then
    raise exception 'user_id has % bytes', octet_length(send.user_id) using errcode = 'invalid_parameter_value',
      hint = 'Give 1 to 255: an index has to hold it.';
  end if;
  if octet_length(send.key) not between 1 and 255 then
    raise exception 'key has % bytes', octet_length(send.key) using errcode = 'invalid_parameter_value',
      hint = 'Give 1 to 255, or leave it out: booking-7-reminder';
  end if;
  if not isfinite(send.send_at) then
    raise exception 'send_at is %', send.send_at using errcode = 'invalid_parameter_value', hint = 'Give an instant, or null for now.';
  end if;
  if jsonb_typeof(_data) <> 'object' then
    raise exception 'data is a JSON %', jsonb_typeof(_data) using errcode = 'invalid_parameter_value',
      hint = 'Give an object: {"reason": "card declined"}';
  end if;
  if send.send_at > clock_timestamp() then
    perform notifier.schedule(send.send_at, send.key, send.user_id, send.event, send.level, send.message, _data);
  else
    if send.key is not null then
      perform notifier.cancel_send(send.key);
    end if;
    perform notifier.record(send.event, send.level, array[send.user_id], array[send.message], array[_data]);
  end if;
end
$$;
