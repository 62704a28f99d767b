-- notifier.redeem_tickets: use tickets up: each is good once, whoever else asks at the same instant.
--   _hashes   SHA-256 of each; one that stands there twice is good for the first
--   returns   a row for each element, in order: whose it is, when the credential was issued that it stands for (seconds since
--             1970), in how many seconds that ends (null: not by itself), and that credential, sealed. All are null where the
--             ticket is not known, too old or was used, or the credential has ended
-- Used by: the sockets that present tickets (src/auth/tickets.rs).
create or replace function notifier.redeem_tickets(_hashes bytea[])
returns table (user_id text, issued_at double precision, expires_in double precision, sealed bytea)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off as $$
#variable_conflict use_column
begin
  return query
    with locked as materialized (
      -- In one order: whoever redeems some of the same waits, and finds them gone.
      select t.hash from notifier.ticket t where t.hash = any (redeem_tickets._hashes) order by t.hash for update
    ), used as (
      delete from notifier.ticket t where t.hash = any (array(select l.hash from locked l)) returning t.*
    )
    select u.user_id::text, u.issued_at, extract(epoch from u.credential_expires - clock_timestamp())::double precision, u.sealed
    from (
      select h.hash, h.place, row_number() over (partition by h.hash order by h.place) as turn
      from unnest(redeem_tickets._hashes) with ordinality as h(hash, place)
    ) h
    left join used u on u.hash = h.hash and h.turn = 1 and u.expires_at > clock_timestamp()
      and (u.credential_expires is null or u.credential_expires > clock_timestamp())
    order by h.place;
end
$$;
