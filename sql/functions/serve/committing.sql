-- notifier.committing: how many transactions wait this moment for the lock that a transaction which has NOTIFYed holds while it
-- commits: one at a time in the whole server, the disk included. Of any database: they all stand in one line.
-- Used by: the relay (src/relay.rs).
create or replace function notifier.committing() returns bigint
language plpgsql volatile security definer   -- which keeps its plan: it is asked ten times a second
set search_path = pg_catalog, pg_temp as $$
begin
  return (select count(*) from pg_catalog.pg_locks l
  where l.locktype = 'object' and l.database = 0 and l.classid = 'pg_catalog.pg_database'::regclass and l.objid = 0
    and not l.granted);
end
$$;
