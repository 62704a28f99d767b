-- notifier.issue_ticket: keep a ticket that opens one socket. A user has at most 32 unused ones, and the oldest go.
--   _hash                    SHA-256 of the ticket
--   _user                    whose
--   _issued_at               when the credential was issued that it stands for, in seconds since 1970; or null
--   _credential_expires_in   in how many seconds that credential ends; null: not by itself
--   _sealed                  that credential, sealed with the ticket; or null
--   returns                  for how many seconds the ticket is good
-- Used by: POST /api/ws-ticket (src/auth/tickets.rs).
create or replace function notifier.issue_ticket(
  _hash bytea, _user text, _issued_at double precision, _credential_expires_in double precision, _sealed bytea
) returns double precision
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off as $$
declare
  _good_for constant double precision := 30;
begin
  insert into notifier.ticket (hash, user_id, issued_at, credential_expires, sealed, expires_at)
  values (issue_ticket._hash, issue_ticket._user, issue_ticket._issued_at,
          -- What ends in a century does not end.
          case when issue_ticket._credential_expires_in < 3e9
               then clock_timestamp() + make_interval(secs => greatest(issue_ticket._credential_expires_in, 0)) end,
          issue_ticket._sealed, clock_timestamp() + make_interval(secs => _good_for));
  -- Only those that go are locked, and not one that is redeemed this moment. Of two calls at once neither sees the other's: the
  -- next call counts again.
  delete from notifier.ticket t
  where t.hash = any (array(
    select v.hash from notifier.ticket v
    where v.hash = any (array(
      select o.hash from notifier.ticket o where o.user_id = issue_ticket._user order by o.expires_at desc, o.hash offset 32))
    for update skip locked));
  return _good_for;
end
$$;
