-- notifier.arm: note that rows want to be looked at later. Only ever adds: duplicates collapse when the timer fires. Those of a
-- statement that arms more than 1,000 are put aside in arrays, and the service makes rows of them.
--   _event         the timer
--   _keys, _dues   one element each a row
-- Leaves lock_timeout at 0, as notifier.record does.
-- Used by: the generated trigger functions (outside their exception blocks).
create or replace function notifier.arm(_event text, _keys jsonb[], _dues timestamptz[]) returns void
language plpgsql as $$
declare
  _size constant integer := cardinality(arm._keys);
  _id   bigint;
  _last bigint[];
  _due  timestamptz;
begin
  if _size > 1000 and notifier.set_aside('timers', (
    select array_agg(jsonb_build_object('event', arm._event, 'keys', to_jsonb(arm._keys[f.first : f.last]),
      'dues', to_jsonb(arm._dues[f.first : f.last])))
    from (select s.first, s.first + greatest(2000, _size / 50) - 1 as last
          from generate_series(1, _size, greatest(2000, _size / 50)) as s(first)) f))
  then
    return;
  end if;

  _id := notifier.reserve_number('notifier.timer', 'notifier.timer_id_seq');
  if _id is not null and _size = 1 then
    _due := arm._dues[1];
    insert into notifier.timer (id, event, key, due_at) overriding system value values (_id, arm._event, arm._keys[1], _due);
  elsif _id is null then
    if not notifier.set_aside('timer', (
      select array_agg(jsonb_build_object('event', arm._event, 'key', t.key, 'due_at', t.due_at))
      from (select unnest(arm._keys) as key, unnest(arm._dues) as due_at) t))
    then
      raise warning 'notifier: % timers of % lost, since every table of ours is locked', _size, arm._event;
    end if;
    return;
  else
    _last := notifier.keep_lastval();
    insert into notifier.timer (event, key, due_at)
    select arm._event, unnest(arm._keys), unnest(arm._dues);
    perform notifier.put_back_lastval(_last);
    _due := (select min(t.due_at) from (select unnest(arm._dues) as due_at) t);
  end if;

  -- The service looks once a second when the next timer is due: only a nearer one has to be announced.
  if _due < clock_timestamp() + interval '2 seconds' and notifier.rung() then
    perform notifier.announce(array[json_build_object('due', extract(epoch from _due - clock_timestamp()))::text]);
  end if;
end
$$;
