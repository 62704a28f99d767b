-- notifier.missed: pages of what sockets missed between two positions, many sockets in one question. Paging inside one position
-- is exact and holds no transaction open while a socket is slow.
--   _users      whose, one element a socket, as in all arrays here
--   _after      what is visible in this position the socket has had
--   _within     the position to read up to: that of the first page, or null for the present one
--   _after_ids  the last id of the page before, or 0
--   _limit      how many at most for each; 64 KiB of them at most, but always one
--   returns     one row a socket, in order: the position read up to, and notifications by id; none when there are no more
-- Used by: the catch-up (src/catch_up.rs).
create or replace function notifier.missed(_users text[], _after text[], _within text[], _after_ids bigint[], _limit integer)
returns table ("position" text, notifications text[])
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off as $$
#variable_conflict use_column
declare
  _bulk constant notifier.notification[] := notifier.in_bulk(missed._users);   -- null, nearly always
begin
  return query
    with bulk as materialized (select * from notifier.bulk_parts(_bulk))
    select r.within::text, coalesce(w.notifications, '{}')
    from (
      select a.user_id, a.after, coalesce(a.within, pg_current_snapshot()) as within, a.after_id, a.nth
      from unnest(_users, _after::pg_snapshot[], _within::pg_snapshot[], _after_ids)
           with ordinality as a(user_id, after, within, after_id, nth)
    ) r
    left join bulk k on k.user_id = r.user_id
    cross join lateral (
      select array_agg(p.payload order by p.id) filter (where p.before < 65536) as notifications
      from (
        select page.id, page.payload,
               sum(octet_length(page.payload)) over (order by page.id) - octet_length(page.payload) as before
        from (
          select m.id, m.payload
          from (
            (select n.id, notifier.payload(n) as payload
             from notifier.notification n
             -- Order and bounds name user_id, so that no plan walks the primary key and looks whose rows these are.
             where n.user_id <= r.user_id and (n.user_id, n.id) > (r.user_id, r.after_id)
               and pg_visible_in_snapshot(n.xid, r.within) and not pg_visible_in_snapshot(n.xid, r.after)
               and (n.until is null or n.until > clock_timestamp())
             order by n.user_id, n.id
             limit _limit)
            union all
            (select n.id, notifier.payload(n.bulk)
             from (
               select b.id, b as bulk
               from unnest(_bulk[k.first : k.last]) b
               where b.id > r.after_id
                 and pg_visible_in_snapshot(b.xid, r.within) and not pg_visible_in_snapshot(b.xid, r.after)
                 and (b.until is null or b.until > clock_timestamp())
               order by b.id
               limit _limit
             ) n)
          ) m
          order by m.id
          limit _limit
        ) page
      ) p
    ) w
    order by r.nth;
end
$$;
