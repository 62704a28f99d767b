-- notifier.unread: how many notifications users have not read.
--   _users    the users
--   returns   a row for each element, in order: its place, from 1, and the number; 1000 stands for as many or more
-- Used by: GET /api/notifications/unread-count (src/http/api.rs), the catch-up (src/catch_up.rs), notifier.mark_read.
create or replace function notifier.unread(_users text[]) returns table (place bigint, unread integer)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
-- From the index alone, which holds read_at: a bitmap would fetch the rows, and all of them before the count can stop.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off as $$
#variable_conflict use_column
declare
  _bulk constant notifier.notification[] := notifier.in_bulk(unread._users);   -- null, nearly always
begin
  return query
    with bulk as materialized (select * from notifier.bulk_parts(_bulk))
    select u.place, (select count(*)::integer from (
      select from notifier.notification n where n.user_id = u.user_id and n.read_at is null
      union all select from generate_series(k.first, k.last)
      limit 1000) c)
    from unnest(unread._users) with ordinality as u(user_id, place)
    left join bulk k on k.user_id = u.user_id
    order by u.place;
end
$$;
