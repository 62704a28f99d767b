-- notifier.arm: note that rows want to be looked at later. Only ever adds: duplicates collapse when the timer fires.
--   _event         the timer
--   _keys, _dues   one element each a row
-- Used by: the generated trigger functions (outside their exception blocks).
create or replace function notifier.arm(_event text, _keys jsonb[], _dues timestamptz[]) returns void
language plpgsql as $$
begin
  if not notifier.reserve('notifier.timer') then
    insert into notifier.spill (kind, record)
    select 'timer', jsonb_build_object('event', arm._event, 'key', t.key, 'due_at', t.due_at)
    from unnest(arm._keys, arm._dues) as t(key, due_at);
    return;
  end if;

  insert into notifier.timer (event, key, due_at)
  select arm._event, t.key, t.due_at from unnest(arm._keys, arm._dues) as t(key, due_at);

  perform notifier.announce(null, null, (select min(d) from unnest(arm._dues) as d));
end
$$;
