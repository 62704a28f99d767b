-- notifier.confirm: note when notifications reached a socket of their user. Rows are locked in one order and held ones are
-- left out: two devices that confirm the same rows in opposite order would deadlock.
--   _ids, _slots, _created   the notifications: an id may have come back as another row's after a crash, and the time in
--                  microseconds since 1970 when it was created tells
--   returns        one row: how many were undelivered until now, and the ids of those that somebody holds, to be noted later
-- Used by: the confirmations (src/confirmations.rs), many times a second. Planning over 16 leaves takes longer than doing it, so
-- there is one plan for all, and none that a large batch would make quadratic.
create or replace function notifier.confirm(_ids bigint[], _slots smallint[], _created bigint[])
returns table (confirmed bigint, held bigint[])
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off as $$
#variable_conflict use_column
declare
  _found  bigint[];
  _leaves smallint[];
begin
  select array_agg(l.id), array_agg(l.slot) into _found, _leaves
  from (
    select n.id, n.slot
    from unnest(confirm._ids, confirm._slots, confirm._created) as k(id, slot, created)
    join notifier.notification n on n.id = k.id and n.slot = k.slot
    where n.delivered_at is null and n.created_at = timestamptz 'epoch' + k.created * interval '1 microsecond'
    order by n.id
    for update of n skip locked
  ) l;
  update notifier.notification n set delivered_at = clock_timestamp()
  from unnest(_found, _leaves) as l(id, slot)
  where n.id = l.id and n.slot = l.slot;
  get diagnostics confirmed = row_count;

  held := '{}';
  if confirmed < cardinality(confirm._ids) then
    -- The others have been confirmed before, or are gone, or somebody holds them.
    held := array(
      select n.id
      from unnest(confirm._ids, confirm._slots, confirm._created) as k(id, slot, created)
      join notifier.notification n on n.id = k.id and n.slot = k.slot
      where n.delivered_at is null and n.created_at = timestamptz 'epoch' + k.created * interval '1 microsecond');
  end if;
  return next;
end
$$;
