-- notifier.arm: note that rows want to be looked at later. Only ever adds: duplicates collapse when the timer fires.
--   _event         the timer
--   _keys, _dues   one element each a row
-- Used by: the generated trigger functions (outside their exception blocks).
create or replace function notifier.arm(_event text, _keys jsonb[], _dues timestamptz[]) returns void
language plpgsql
set lock_timeout = 0 as $$   -- notifier.reserve has waited
declare
  _due timestamptz;
begin
  if not notifier.reserve('notifier.timer', 'notifier.timer_id_seq') then
    perform notifier.put_aside('timer', array_agg(jsonb_build_object('event', arm._event, 'key', t.key, 'due_at', t.due_at)))
    from (select unnest(arm._keys) as key, unnest(arm._dues) as due_at) t;
    return;
  end if;

  insert into notifier.timer (event, key, due_at)
  select arm._event, unnest(arm._keys), unnest(arm._dues);

  -- The service looks once a second when the next timer is due: only a nearer one has to be announced.
  _due := (select min(t.due_at) from (select unnest(arm._dues) as due_at) t);
  if _due < clock_timestamp() + interval '2 seconds' and notifier.rung() then
    perform notifier.announce(array[json_build_object('due', extract(epoch from _due - clock_timestamp()))::text]);
  end if;
end
$$;
