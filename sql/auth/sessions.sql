-- Tokens of a session table: opaque, stored as SHA-256, with an end. It reads
--
--   create table app.session (
--     token_hash bytea       primary key,           -- sha256 of the token: whoever reads the table can log in as nobody
--     user_id    bigint      not null,
--     expires_at timestamptz not null,
--     revoked_at timestamptz                        -- logged out
--   );
--
-- Change names to yours, run this as the table's owner, and start with `--auth sql --auth-function app.authenticate`.
-- The index it needs is that of the primary key: the effort is the same for a token that is known and one that is not.
--
-- A string and not `begin atomic`, which would hold up an `alter table` of yours; so every name says its schema.
create or replace function app.authenticate(token text) returns table (user_id text, expires_at timestamptz)
language sql stable security definer
set search_path = pg_catalog, pg_temp as $$
  select s.user_id::text, s.expires_at
  from   app.session s
  where  s.token_hash = sha256(convert_to(token, 'UTF8')) and s.revoked_at is null and s.expires_at > now()
$$;

-- The service may ask, and read nothing. (Where the service runs as the owner of all this, leave out the grants.)
revoke execute on function app.authenticate(text) from public;
grant usage on schema app to notifier_service;
grant execute on function app.authenticate(text) to notifier_service;
