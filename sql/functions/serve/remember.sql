-- notifier.remember: note what devices have had, so that each is told what it missed, whatever another has confirmed.
--   _users, _devices                which, one element each; no device twice
--   _epochs, _positions, _told      a cursor each; of another epoch than the present one it is ignored
-- Used by: the confirmations (src/confirmations.rs).
create or replace function notifier.remember(_users text[], _devices text[], _epochs text[], _positions text[], _told text[]) returns void
language plpgsql volatile security definer   -- which keeps its plans
set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
  insert into notifier.device as d (user_id, device, epoch, position, told)
  select r.user_id, r.device, e.number, r.position, r.told::bigint[]
  from unnest(remember._users, remember._devices, remember._epochs, remember._positions::pg_snapshot[], remember._told)
       as r(user_id, device, epoch, position, told)
  join (select * from notifier.epoch order by number desc limit 1) e on e.token = r.epoch
  where (select notifier.begun_because()) is null
  order by r.user_id, r.device   -- in one order: instances that note the same devices do not deadlock
  on conflict (user_id, device) do update
    set epoch = excluded.epoch, position = excluded.position, told = excluded.told, seen_at = clock_timestamp()
    -- A device with two sockets has had what either has had: the newer stands.
    where d.epoch < excluded.epoch or pg_snapshot_xmax(d.position) <= pg_snapshot_xmax(excluded.position);
  -- A client that keeps no cookie is another device each time: of a user's the last 50 are kept.
  delete from notifier.device d
  using (select distinct unnest(remember._users) as user_id) u
  cross join lateral (
    select x.device from notifier.device x where x.user_id = u.user_id order by x.seen_at desc offset 50 for update skip locked
  ) o
  where d.user_id = u.user_id and d.device = o.device;
end
$$;
