-- notifier.is_relay: make sure that nobody has taken over. Any role can take the advisory lock of the lead, or lose it without
-- knowing; this is what keeps a relay of yesterday from speaking.
--   _generation   what notifier.become_relay returned
--   raises        55000 when another instance is the relay
-- Used by: notifier.hang_bell, notifier.pass_on, notifier.tend.
create or replace function notifier.is_relay(_generation bigint) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
begin
  if is_relay._generation is distinct from (select p.generation from notifier.progress p) then
    raise exception 'another instance is the relay' using errcode = 'object_not_in_prerequisite_state';
  end if;
end
$$;
