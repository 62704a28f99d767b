-- notifier.opened: what sockets that open are told first, many in one question. A socket goes on from its cursor; without one from
-- what its device has had; without that it is told what no socket of its user has confirmed.
--   _users     whose, one element a socket, as in all arrays here
--   _devices   which device, or null
--   _epochs, _positions, _told
--              the cursor: its epoch, its position, and the ids told beside it as '{1,2}'; or null
--   _pages     true: all that the cursor does not see follows page by page (notifier.missed), and nothing is returned for it
--   _window    how far back
--   _limit     how many at most: the newest
--   returns    one row a socket, in order: the position it was read at; what the cursor was worth ('new' without one, 'gap' where
--              something that it does not see may be gone, else 'ok'); how many are unread, and how many more there are than were
--              returned (1000 stands for more, in both); the time; the notifications in order of id; and when the user was last
--              revoked, in seconds since 1970, or null
-- Used by: the catch-up (src/catch_up.rs).
create or replace function notifier.opened(
  _users text[], _devices text[], _epochs text[], _positions text[], _told text[], _pages boolean[], _window interval, _limit integer
)
returns table ("position" text, resume text, unread integer, more bigint, server_time text, notifications text[],
               revoked_at double precision)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
-- The count from the index alone, which holds read_at: a bitmap would fetch the rows, and all of them before it can stop.
set enable_bitmapscan = off
set jit = off as $$
#variable_conflict use_column
declare
  _now   constant timestamptz := clock_timestamp();
  _since constant timestamptz := _now - opened._window;
  _slots constant smallint[] := array(
    select distinct notifier.slot(d) from generate_series(_since, _now + interval '24 hours', interval '24 hours') as d);
  _here  constant pg_snapshot := pg_current_snapshot();
  _bulk  constant notifier.notification[] := notifier.in_bulk(opened._users);   -- null, nearly always
  _epoch notifier.epoch;
  _pruned xid8;
begin
  select e.* into _epoch from notifier.epoch e order by e.number desc limit 1;
  _pruned := (select p.pruned from notifier.progress p);
  return query
    with bulk as materialized (select * from notifier.bulk_parts(_bulk))
    select _here::text, v.resume,
           (select count(*)::integer from (select from notifier.notification n
                                           where n.user_id = r.user_id and n.read_at is null
                                           union all select from generate_series(k.first, k.last)
                                           limit 1000) u),
           -- (least alone would make 1000 of null.)
           case when w.total is null then 0 else least(w.total - coalesce(cardinality(w.newest), 0), 1000) end,
           to_char(_now at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
           coalesce(w.newest, '{}'),
           (select extract(epoch from max(o.revoked_at))::double precision from notifier.revocation o where o.user_id = r.user_id)
    from unnest(_users, _devices, _epochs, _positions::pg_snapshot[], _told, _pages)
         with ordinality as r(user_id, device, epoch, "position", told, pages, nth)
    left join bulk k on k.user_id = r.user_id
    cross join lateral (
      select case
        when r.position is null then 'new'
        when r.epoch <> _epoch.token or pg_snapshot_xmax(r.position) > pg_snapshot_xmax(_here)
          or pg_snapshot_xmin(r.position) <= _pruned then 'gap'
        else 'ok'
      end as resume
    ) v
    left join notifier.device d on v.resume <> 'ok' and d.user_id = r.user_id and d.device = r.device
    cross join lateral (
      select case when v.resume = 'ok' then r.position else (
               -- What it had in an epoch before holds as far as that history went on.
               select p.position from (
                 select d.position union all select e.position from notifier.epoch e where e.number > d.epoch
               ) p order by pg_snapshot_xmax(p.position), pg_snapshot_xmin(p.position) limit 1
             ) end as "position",
             case when v.resume = 'ok' then coalesce(r.told::bigint[], '{}')
                  when d.epoch = _epoch.number then d.told else '{}' end as told
    ) c
    left join lateral (
      select count(*) as total, array_agg(p.payload order by n.id) filter (where n.nth <= _limit) as newest
      from (
        select l.id, l.slot, l.bulk, row_number() over (order by l.id desc) as nth
        from (
          select l.id, l.slot, null::notifier.notification as bulk
          from unnest(_slots) as s(slot)
          cross join lateral (
            select n.id, n.slot from notifier.notification n
            where n.slot = s.slot and n.user_id = r.user_id and n.created_at >= _since and n.read_at is null
              and (n.until is null or n.until > _now)
              and case when c.position is null then n.delivered_at is null and n.summarized_at is null
                       else not pg_visible_in_snapshot(n.xid, c.position) and n.id <> all (c.told) end
            order by n.user_id desc, n.id desc
            limit 1000 + _limit
          ) l
          union all
          (select b.id, b.slot, b from unnest(_bulk[k.first : k.last]) b
           where b.created_at >= _since and (b.until is null or b.until > _now)
             and (c.position is null or not pg_visible_in_snapshot(b.xid, c.position) and b.id <> all (c.told))
           order by b.id desc
           limit 1000 + _limit)
        ) l
      ) n
      left join lateral (
        select notifier.payload(m) as payload from notifier.notification m
        where n.nth <= _limit and m.slot = n.slot and m.id = n.id
        union all
        select notifier.payload(n.bulk) where n.nth <= _limit and n.bulk is distinct from null
      ) p on true
    ) w on not (r.pages and v.resume = 'ok')
    order by r.nth;
end
$$;
