-- notifier.take_down_bell: ask writers no more to NOTIFY. Who does this reads on from where it last read, before and after.
-- It looks whether it holds the bell, and lets go of it as often as it took it.
-- Used by: the relay (src/relay.rs).
create or replace function notifier.take_down_bell() returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  while exists (
    select from pg_catalog.pg_locks l
    where l.locktype = 'advisory' and l.pid = pg_backend_pid() and l.mode = 'ExclusiveLock' and l.granted and l.objsubid = 1
      and (l.classid::bigint << 32) | l.objid::bigint = 7809647138214477426
  ) loop
    perform pg_advisory_unlock(7809647138214477426);
  end loop;
end
$$;
