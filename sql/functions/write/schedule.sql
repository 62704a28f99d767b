-- notifier.schedule: write a row of notifier.scheduled. Only ever adds: which row of a key counts is seen when they are due.
--   _send_at, _key                              when, and the name to take it back by, or null
--   _user, _event, _level, _message, _data      what is told; left out: what was scheduled under the key is taken back
-- Used by: notifier.send, notifier.cancel_send.
create or replace function notifier.schedule(
  _send_at timestamptz, _key text,
  _user text default null, _event text default null, _level text default null, _message text default null, _data jsonb default null
) returns void
language plpgsql
set lock_timeout = '50ms' as $$   -- of notifier.reserve_number
declare
  _id bigint;
begin
  _id := notifier.reserve_number('notifier.scheduled', 'notifier.scheduled_id_seq');
  if _id is not null then
    insert into notifier.scheduled (send_at, key, user_id, event, level, message, data)
    values (_send_at, _key, _user, _event, _level, _message, _data);
    return;
  end if;
  -- Its place among the calls of the key: whoever holds the table need not hold the sequence.
  begin
    set local lock_timeout = '50ms';
    _id := nextval('notifier.scheduled_id_seq');
  exception when lock_not_available or undefined_table then
    null;
  end;
  if not notifier.set_aside('scheduled', array[jsonb_build_object('id', _id, 'send_at', _send_at, 'key', _key, 'user_id', _user,
    'event', _event, 'level', _level, 'message', _message, 'data', _data)])
  then
    raise exception 'every table that this could be kept in is locked' using errcode = 'lock_not_available',
      hint = 'Nothing was sent. See who holds locks on tables of the schema notifier in pg_locks.';
  end if;
end
$$;
