-- notifier.probe_tables: what an event's query reads on one operation, as common table expressions that have its source's shape.
--   _d           the event; of a timer the operation does not matter
--   _operation   insert, update or delete
--   returns      text to follow `with`
-- Used by: notifier.define, notifier.check_event.
create or replace function notifier.probe_tables(_d notifier.definition, _operation text) returns text
language sql stable as $$
  select case when (probe_tables._d).kind = 'timer' then format('due as (select * from %s)', (probe_tables._d).source)
    else concat_ws(', ',
      case when _operation <> 'delete' then format('new as (%s)', notifier.shape((probe_tables._d).source)) end,
      case when _operation <> 'insert' then format('old as (%s)', notifier.shape((probe_tables._d).source)) end,
      nullif(notifier.change_tables(_operation, (probe_tables._d).operation), '')) end
$$;
