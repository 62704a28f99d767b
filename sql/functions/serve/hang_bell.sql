-- notifier.hang_bell: ask writers to NOTIFY: they do while this session holds the bell.
--   _generation   what notifier.become_relay returned
--   returns       a transaction id: when all before it have ended, nobody is left who looked while the bell did not hang. Null:
--                 the bell could not be had within lock_timeout
-- Used by: the relay (src/relay.rs).
create or replace function notifier.hang_bell(_generation bigint) returns xid8
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '200ms' as $$
begin
  perform notifier.is_relay(hang_bell._generation);
  begin
    -- Blocking: writers hold it shared for an instant each, and under many of them a mere try never finds the gap.
    perform pg_advisory_lock(7809647138214477426);
  exception when lock_not_available then
    return null;
  end;
  -- Taken when the bell hangs, and not before. pg_snapshot_xmax would not do: it is one more than the last that ended, and a
  -- writer with a higher id may have looked already.
  return pg_current_xact_id();
end
$$;
