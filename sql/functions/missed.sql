-- notifier.missed: a page of what a user's socket missed between two positions, for a socket that lagged. Paging inside one
-- position is exact and holds no transaction open while the socket is slow.
--   _user      the user
--   _after     positions whose rows the socket has had: what is visible in any of them is left out
--   _within    the position to read up to
--   _after_id  the last id of the page before, or 0
--   _limit     how many at most; 256 KiB of them at most, but always one
--   returns    notifications by id; none when there are no more
-- Used by: the session's catch-up (src/session.rs).
create or replace function notifier.missed(_user text, _after pg_snapshot[], _within pg_snapshot, _after_id bigint, _limit integer)
returns table (notification text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off as $$
#variable_conflict use_column
begin
  return query
    select p.payload
    from (
      select page.id, page.payload, sum(octet_length(page.payload)) over (order by page.id) - octet_length(page.payload) as before
      from (
        select n.id, notifier.payload(n) as payload
        from notifier.notification n
        where n.user_id = missed._user and n.id > missed._after_id
          and pg_visible_in_snapshot(n.xid, missed._within)
          and not exists (select from unnest(missed._after) as a where pg_visible_in_snapshot(n.xid, a))
        order by n.id
        limit missed._limit
      ) page
    ) p
    where p.before < 262144
    order by p.id;
end
$$;
