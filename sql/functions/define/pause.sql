-- notifier.pause: leave an event or timer out of what is generated. (Disabling its trigger would need a lock on the table, stop the
-- table's other events, and still cost its transition tables.)
--   _d         the definition
--   _by        who: a role, or 'notifier' for the service
--   _because   why
-- Used by: notifier.pause_event, notifier.count_faults; both hold the lock of definitions.
create or replace function notifier.pause(_d notifier.definition, _by text, _because text) returns void
language plpgsql as $$
begin
  update notifier.definition d
  set paused_at = clock_timestamp(), paused_by = pause._by, paused_because = pause._because
  where d.name = (pause._d).name;
  perform notifier.write_function((pause._d).source, o.operation)
  from unnest(string_to_array((pause._d).operation, ' or ')) as o(operation);
  delete from notifier.backfill b where b.event = (pause._d).name;
end
$$;
