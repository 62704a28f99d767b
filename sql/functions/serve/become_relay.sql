-- notifier.become_relay: try to become the relay, which one instance at a time is.
--   returns   the relay's generation: it is the relay until its session ends, or another generation is noted; null: another
--             session is the relay
-- Used by: the relay (src/relay.rs), on a session of its own that neither listens nor writes notifications.
create or replace function notifier.become_relay() returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
  _generation bigint;
begin
  if not pg_try_advisory_lock(7809647138214477427) then
    return null;
  end if;
  perform notifier.identify('');   -- before this writes to what the copy wrote last, if this is one
  update notifier.progress p set generation = p.generation + 1 returning p.generation into _generation;
  return _generation;
end
$$;
