-- notifier.undelivered: what a user has not been told yet, for a socket that opens.
--   _user     the user
--   _window   how far back
--   _limit    how many at most: the newest
--   returns   one row: the position it was read at, how many are unread (1000 stands for more), how many more are
--             undelivered than were returned, the time, and the notifications in order of id
-- Used by: the session's catch-up (src/session.rs).
create or replace function notifier.undelivered(_user text, _window interval, _limit integer)
returns table ("position" text, unread integer, more bigint, server_time text, notifications text[])
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off as $$
#variable_conflict use_column
declare
  _since timestamptz := clock_timestamp() - undelivered._window;
  _slots smallint[] := array(
    select distinct notifier.slot(d) from generate_series(_since, clock_timestamp() + interval '24 hours', interval '24 hours') as d);
begin
  return query
    with waiting as (
      select n.*
      from unnest(_slots) as s(slot)
      join notifier.notification n on n.slot = s.slot
      where n.user_id = undelivered._user and n.created_at >= _since
        and n.delivered_at is null and n.summarized_at is null and n.read_at is null
        and (n.until is null or n.until > clock_timestamp())
    ), newest as (
      select * from waiting order by id desc limit undelivered._limit
    )
    select pg_current_snapshot()::text,
           (select count(*)::integer from (select from notifier.notification n
                                           where n.user_id = undelivered._user and n.read_at is null limit 1000) u),
           (select count(*) from waiting) - (select count(*) from newest),
           to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
           (select coalesce(array_agg(notifier.payload(row(
              n.id, n.slot, n.xid, n.user_id, n.event, n.level, n.message, n.data, n.created_at, n.until,
              n.delivered_at, n.summarized_at, n.read_at)::notifier.notification) order by n.id), '{}') from newest n);
end
$$;
