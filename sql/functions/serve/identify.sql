-- notifier.identify: which history of the database this is. Begins a new epoch where ids or transaction ids may have come back:
-- the server was restarted, recovered from a crash or was promoted, or these tables were restored into another database.
--   _known    the epochs that the asking instance has been in, with commas between
--   returns   one row: the present epoch's token, and the position up to which it is the same history as the last known one
-- Used by: the listener (src/listener.rs), each time it connects, before it listens; notifier.become_relay and notifier.sweep, before
-- they write to notifier.progress: its version tells a row that was copied with it from one that was written here since.
create or replace function notifier.identify(_known text) returns table (epoch text, "position" text)
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
    select (select e.token from notifier.epoch e order by e.number desc limit 1), s.position::text
    from (
      -- Where several have begun meanwhile, none of them must be skipped. One that is unknown here went with what was restored, or
      -- was left behind by a promotion: then the one before counts.
      select e.position from notifier.epoch e
      where e.number > coalesce((select max(k.number) from notifier.epoch k where k.token = any (string_to_array(identify._known, ','))),
                                (select max(m.number) - 1 from notifier.epoch m))
         or not exists (select from notifier.epoch m where m.number > e.number)
      order by pg_snapshot_xmax(e.position), e.number limit 1
    ) s;
end
$$;
