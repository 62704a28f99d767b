-- notifier.authenticate: ask the application's own function whose tokens are.
--   _function   what notifier.auth_function returned. It is run as it stands, as who calls this
--   _tokens     the tokens
--   returns     a row for each token, in order: whose it is; in how many seconds it ends, null when not by itself; and when that
--               user was last revoked before the token was looked at, in seconds since 1970. All are null where the function
--               returns no row, no user, or an end that has passed
--   raises      21000 for more than one row of a token, and whatever the function raises: for one of them, and so for all
-- Used by: --auth sql (src/auth/sql.rs).
--
-- No search_path is set: a function that sets none itself finds the application's tables by the session's.
create or replace function notifier.authenticate(_function text, _tokens text[])
returns table (user_id text, expires_in double precision, revoked_before double precision)
language plpgsql volatile as $$
declare
  _last bigint := 0;
  _row  record;
begin
  for _row in
    -- One statement: whatever the function reads, it reads no earlier than this reads revocations. A limit of 2: a condition that
    -- was forgotten must not bring the whole table.
    execute pg_catalog.format(
      'with said as materialized (
         select t.place, a.user_id, a.expires_at, row_number() over (order by t.place) as nth
         from pg_catalog.unnest($1) with ordinality as t(token, place)
         left join lateral (select f.user_id::pg_catalog.text as user_id, f.expires_at from %s(t.token) as f limit 2) a on true
       )
       select s.place, s.user_id, s.expires_at, r.at as revoked
       from said s
       left join notifier.revoked(array(select o.user_id from said o order by o.nth)) with ordinality as r(at, nth)
         on r.nth = s.nth
       order by s.nth', authenticate._function)
    using authenticate._tokens
  loop
    if _row.place = _last then
      raise exception '%(text) returned more than one row for a token', authenticate._function
        using errcode = 'cardinality_violation',
        hint = 'A token is one user''s. Does a condition on the token stand in it? Does it join what has several rows?';
    end if;
    _last := _row.place;
    if _row.user_id is null or _row.expires_at <= pg_catalog.clock_timestamp() then
      user_id := null;
      expires_in := null;
      revoked_before := null;
    else
      user_id := _row.user_id;
      expires_in := case when pg_catalog.isfinite(_row.expires_at)
                         then extract(epoch from _row.expires_at - pg_catalog.clock_timestamp()) end;
      revoked_before := _row.revoked;
    end if;
    return next;
  end loop;
end
$$;
