-- API keys, stored as SHA-256; good until somebody revokes them. It reads
--
--   create table app.api_key (
--     id         bigint      generated always as identity primary key,
--     key_hash   bytea       not null unique,       -- sha256 of the key, which its owner was shown once
--     user_id    bigint      not null,
--     revoked_at timestamptz
--   );
--
-- SHA-256 is enough for keys that are random, of 128 bits or more; no guess at a password finds them.
-- Change names to yours, run this as the table's owner, and start with `--auth sql --auth-function app.authenticate_key`.
-- The index it needs is that of `unique`: the effort is the same for a key that is known and one that is not.
--
-- A string and not `begin atomic`, which would hold up an `alter table` of yours; so every name says its schema.
create or replace function app.authenticate_key(token text) returns table (user_id text, expires_at timestamptz)
language sql stable security definer
set search_path = pg_catalog, pg_temp as $$
  select k.user_id::text, null::timestamptz        -- does not end by itself
  from   app.api_key k
  where  k.key_hash = sha256(convert_to(token, 'UTF8')) and k.revoked_at is null
$$;

-- The service may ask, and read nothing. (Where the service runs as the owner of all this, leave out the grants.)
revoke execute on function app.authenticate_key(text) from public;
grant usage on schema app to notifier_service;
grant execute on function app.authenticate_key(text) to notifier_service;
