-- notifier.forget: let go of tickets that are too old, and of revocations that a later one of the same user has made needless.
-- Nobody waits for it: what somebody holds is left out.
--   returns   whether it found any: there may be more
-- Used by: notifier.work, before it sweeps, and in a transaction of its own: it waits for nothing while it holds what it found.
create or replace function notifier.forget() returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set lock_timeout = '2s'
set enable_seqscan = off
set jit = off as $$
declare
  _batch constant integer := 1000;
begin
  delete from notifier.ticket t
  where t.hash = any (array(
    select l.hash from notifier.ticket l where l.expires_at <= clock_timestamp() order by l.expires_at limit _batch
    for update skip locked));
  if found then
    return true;
  end if;
  -- The newest of each user stays, and it alone says all that those before it said. To find them is to go through an index once:
  -- once a day.
  if (select p.swept_at < date_trunc('day', clock_timestamp()) from notifier.progress p) then
    delete from notifier.revocation r
    where r.id = any (array(
      select l.id from notifier.revocation l
      where l.id = any (array(
        select o.id
        from (select s.id, lead(s.id) over (partition by s.user_id order by s.revoked_at, s.id) as later
              from notifier.revocation s) o
        where o.later is not null limit _batch))
      for update skip locked));
  end if;
  return found;
end
$$;
