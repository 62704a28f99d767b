-- notifier.source_now: what an event's table is called now, with its schema.
--   _d        the event
--   returns   the table it was defined on, whatever its name is now; where that was dropped, the table that has the name it had;
--             null where there is none either
-- Used by: notifier.export_events, notifier.check_event.
create or replace function notifier.source_now(_d notifier.definition) returns text
language sql stable
return coalesce(
  (select format('%I.%I', n.nspname, c.relname)
   from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
   where c.oid = (source_now._d).source),
  -- (Not by to_regclass, which asks for the right to use the schema.)
  (select format('%I.%I', n.nspname, c.relname)
   from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
   where c.relkind in ('r', 'p') and format('%I.%I', n.nspname, c.relname) = (source_now._d).source_name));
