-- notifier.take_down_bell: ask writers no more to NOTIFY. Who does this reads on from where it last read, before and after.
-- Used by: the relay (src/relay.rs).
create or replace function notifier.take_down_bell() returns void
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
  select pg_advisory_unlock(7809647138214477426);
end;
