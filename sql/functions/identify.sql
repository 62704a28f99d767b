-- notifier.identify: which history of the database this is. Begins a new epoch where ids or transaction ids may have come back:
-- the server was restarted, recovered from a crash or was promoted, or these tables were restored into another database.
--   returns   one row: the epoch's token, and the position that is durable in it, to read on from when the epoch is new to one
-- Used by: the listener (src/listener.rs), each time it connects, before it listens.
create or replace function notifier.identify() returns table (epoch text, "position" text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
  _reason text := notifier.begun_because();
begin
  if _reason is not null then
    perform pg_advisory_xact_lock(7809647138214477429);
    -- Another instance may have begun it while this one waited.
    _reason := notifier.begun_because();
    if _reason is not null then
      perform notifier.begin_epoch(_reason);
    end if;
  end if;
  return query
    select (select e.token from notifier.epoch e order by e.number desc limit 1), p.position::text from notifier.progress p;
end
$$;
