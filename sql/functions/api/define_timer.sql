-- notifier.define_timer: tell users when a time kept in a row has come. Under the same name it replaces what was there.
--   name       dotted, lower case: booking.expiring
--   source     the table, which needs a primary key
--   due        an expression over a row, a timestamptz: end_time - interval '5 minutes'
--   until      an expression over a row: from then on it is too late to be of use; one day after `due` when left out
--   level, message   as for notifier.define_event
--   query      one SELECT over `due`, the rows of the source whose time has come; evaluated when it fires
--   event      as for notifier.define_event
--   returns    what was done, a line each
--   raises     see notifier.define; nothing is changed then
-- Used by: DBAs.
create or replace function notifier.define_timer(
  name text, source regclass, due text, level text, message text, query text, until text default null, event text default null
) returns setof text
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set jit = off as $$   -- it would take ten times as long as all of the checks
declare
  _d notifier.definition;
begin
  _d.name := define_timer.name;
  _d.event := coalesce(define_timer.event, define_timer.name);
  _d.kind := 'timer';
  _d.source := define_timer.source;
  _d.operation := 'insert or update';
  _d.level := notifier.checked_level(define_timer.level);
  _d.message := define_timer.message;
  _d.query := define_timer.query;
  _d.due := trim(define_timer.due);
  _d.until := coalesce(trim(define_timer.until), format('(%s) + interval ''1 day''', trim(define_timer.due)));
  return query select * from notifier.define(_d);
end
$$;
