-- notifier.define_event: tell users when a write matches a query. Under the same name it replaces what was there.
--   name        dotted, lower case: booking.declined
--   source      the table: public.booking
--   operation   insert, update, delete, or 'insert or update'
--   level       success, error, warning or info
--   message     text with {column} and {column:to_char format}
--   query       one SELECT over `new`, `old` and `changed` (the new columns, and the old row as `was`); its column user_id
--               says who is told, the others become `data`; joins name their tables with the schema
--   event       what it is told as, where several definitions tell of one event; its name when left out
--   returns     what was done, a line each
--   raises      see notifier.define; nothing is changed then
-- Used by: DBAs.
create or replace function notifier.define_event(
  name text, source regclass, operation text, level text, message text, query text, event text default null
) returns setof text
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set jit = off as $$   -- it would take ten times as long as all of the checks
declare
  _d notifier.definition;
begin
  _d.name := define_event.name;
  _d.event := coalesce(define_event.event, define_event.name);
  _d.kind := 'write';
  _d.source := define_event.source;
  _d.operation := define_event.operation;
  _d.level := notifier.checked_level(define_event.level);
  _d.message := define_event.message;
  _d.query := define_event.query;
  return query select * from notifier.define(_d);
end
$$;
