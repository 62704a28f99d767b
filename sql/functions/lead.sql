-- notifier.lead: try to become the relay, and if so hang the bell: writers NOTIFY only while it hangs.
--   returns   true: this session is the relay until it ends; false: another one is
--   raises    55P03 when writers left no gap within lock_timeout; the session must end then
-- Used by: the relay (src/relay.rs), on a session of its own that reads and inserts nothing.
create or replace function notifier.lead() returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if not pg_try_advisory_lock(7809647138214477427) then
    return false;
  end if;
  -- Blocking: writers hold it shared for an instant each, and under many of them a mere try never finds the gap.
  perform pg_advisory_lock(7809647138214477426);
  return true;
end
$$;
