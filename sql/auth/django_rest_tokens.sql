-- Tokens of Django REST framework (rest_framework.authtoken), as its users have them: `Authorization: Token 9944b09...` becomes
-- `Authorization: Bearer 9944b09...`, or what else a socket presents. It reads Django's own tables
--
--   authtoken_token (key varchar(40) primary key, created timestamptz, user_id integer unique)
--   auth_user       (id integer primary key, is_active boolean, ...)
--
-- With a user model of your own the second has another name. Run this as the tables' owner, which is the role that Django's
-- migrations run as, and start with `--auth sql --auth-function public.authenticate_rest_token`.
-- The indexes it needs are those of the two primary keys: the effort is the same for a token that is known and one that is not.
--
-- The framework keeps its tokens as they are and lets them live for ever. Where yours end, return that instead of null, as in
-- `t.created + interval '30 days'`: what has passed lets nobody in.
--
-- A string and not `begin atomic`, which would hold up Django's migrations; so every name says its schema.
create or replace function public.authenticate_rest_token(token text) returns table (user_id text, expires_at timestamptz)
language sql stable security definer
set search_path = pg_catalog, pg_temp as $$
  select t.user_id::text, null::timestamptz        -- does not end by itself
  from   public.authtoken_token t
  join   public.auth_user u on u.id = t.user_id and u.is_active
  where  t.key = token
$$;

-- The service may ask, and read nothing. (Where the service runs as the owner of all this, leave out the grants.)
revoke execute on function public.authenticate_rest_token(text) from public;
grant usage on schema public to notifier_service;
grant execute on function public.authenticate_rest_token(text) to notifier_service;
