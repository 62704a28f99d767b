-- notifier.confirm: note when notifications reached a socket of their user. Held rows are left out and nobody is waited for: two
-- devices that confirm the same rows in opposite order would deadlock.
--   _ids, _slots, _created   the notifications: an id may have come back as another row's after a crash, and the time in
--                  microseconds since 1970 when it was created tells
--   returns        one row: how many were undelivered until now, and the ids of those that somebody holds or that are no rows yet,
--                  to be noted later
-- Used by: the confirmations (src/confirmations.rs), many times a second. Planning over 16 leaves takes longer than doing it, so
-- there is one plan for all batches, and `cross join lateral` says that ids lead in it, and never the table. One way down the
-- index finds up to 32 neighbours, since what arrived together was mostly written together.
create or replace function notifier.confirm(_ids bigint[], _slots smallint[], _created bigint[])
returns table (confirmed bigint, held bigint[])
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off as $$
#variable_conflict use_column
declare
  _slot  smallint;
  _rows  tid[];
  _noted bigint;
  _bulk  bigint[];
begin
  -- Asked first: what is made a row of meanwhile is found below, and once more when it comes back.
  if exists (select from notifier.bulk) then
    _bulk := array(select u.id from (select unnest(b.ids) as id from notifier.bulk b) u join unnest(confirm._ids) k(id) on k.id = u.id);
  end if;
  confirmed := 0;
  for _slot in select distinct unnest(confirm._slots) loop
    _rows := array(
      select n.ctid
      from (
        select min(k.id) as first, max(k.id) as last, array_agg(k.id) as ids, array_agg(k.created) as created
        -- Of two rows of one id the older went in a crash: it comes last.
        from (select * from unnest(confirm._ids, confirm._slots, confirm._created) as k(id, slot, created)
              where k.slot = _slot order by k.created desc) k
        group by k.id / 32 order by 1
      ) k
      cross join lateral (
        select s.ctid from notifier.notification s
        where s.slot = _slot and s.id >= k.first and s.id <= k.last and s.delivered_at is null
          and s.created_at = timestamptz 'epoch' + k.created[array_position(k.ids, s.id)] * interval '1 microsecond'
        order by s.id
        for update skip locked
      ) n);
    if _rows <> '{}' then
      -- What is locked stays where it is until this ends. Planned each time, for the leaf alone: a plan over all leaves that is
      -- made while most are empty reads them through.
      execute format('update notifier.notification_%s set delivered_at = clock_timestamp() where ctid = any ($1)', _slot)
      using _rows;
      get diagnostics _noted = row_count;
      confirmed := confirmed + _noted;
    end if;
  end loop;

  held := coalesce(_bulk, '{}');
  if confirmed < cardinality(confirm._ids) then
    -- The others have been confirmed before, or are gone, or somebody holds them.
    for _slot in select distinct unnest(confirm._slots) loop
      held := held || array(
        select n.id
        from (
          select min(k.id) as first, max(k.id) as last, array_agg(k.id) as ids, array_agg(k.created) as created
          from (select * from unnest(confirm._ids, confirm._slots, confirm._created) as k(id, slot, created)
                where k.slot = _slot order by k.created desc) k
          group by k.id / 32
        ) k
        cross join lateral (
          select s.id from notifier.notification s
          where s.slot = _slot and s.id >= k.first and s.id <= k.last and s.delivered_at is null
            and s.created_at = timestamptz 'epoch' + k.created[array_position(k.ids, s.id)] * interval '1 microsecond'
          offset 0
        ) n);
    end loop;
  end if;
  return next;
end
$$;
