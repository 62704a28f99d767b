-- notifier.revocations: who was revoked since a position, read by the same rule as notifications: see notifier.read_on.
--   _after    a position, or null: just tell the present one
--   returns   one row: the new position; the users; and of each the latest of these revocations, in seconds since 1970
-- Used by: the listener (src/listener.rs), about once a second. From a position of its own, which no stretch that the relay tells moves.
create or replace function notifier.revocations(_after pg_snapshot)
returns table ("position" text, revoked_users text[], revoked_at double precision[])
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set max_parallel_workers_per_gather = 0
set jit = off as $$
#variable_conflict use_column
declare
  _running xid8[] := array(select pg_snapshot_xip(revocations._after));
begin
  return query
    select pg_current_snapshot()::text, coalesce(array_agg(u.user_id), '{}'), coalesce(array_agg(u.revoked_at), '{}')
    from (
      select r.user_id::text as user_id, extract(epoch from max(r.revoked_at))::double precision as revoked_at
      from (
        select user_id, revoked_at from notifier.revocation where xid >= pg_snapshot_xmax(revocations._after)
        union all
        select user_id, revoked_at from notifier.revocation where xid = any (_running)
      ) r
      group by r.user_id
    ) u;
end
$$;
