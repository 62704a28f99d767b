-- notifier.revoked: when users were revoked last.
--   _users    the users
--   returns   a row for each element, in order: seconds since 1970; null for who never was
-- Used by: the verification of a credential that no socket opens with, notifier.authenticate.
create or replace function notifier.revoked(_users text[]) returns setof double precision
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off as $$
begin
  return query
    select (select extract(epoch from max(r.revoked_at))::double precision from notifier.revocation r where r.user_id = u.user_id)
    from unnest(revoked._users) with ordinality as u(user_id, place)
    order by u.place;
end
$$;
