-- notifier.restore_event: define an event or timer again as it was before it was replaced or dropped.
--   name      of the event or timer
--   version   as in notifier.event_history
--   returns   what was done, a line each
--   raises    42704 when there is no such version, and what notifier.define raises where it does not fit its tables any more
-- Used by: DBAs.
create or replace function notifier.restore_event(name text, version integer) returns setof text
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set jit = off as $$
declare
  _then notifier.definition;
  _d    notifier.definition;
begin
  select (jsonb_populate_record(null::notifier.definition, h.definition)).* into _then
  from notifier.event_history h where h.name = restore_event.name and h.version = restore_event.version;
  if _then.name is null then
    raise exception 'there is no version % of %', coalesce(restore_event.version::text, 'null'), coalesce(quote_literal(restore_event.name), 'null')
      using errcode = 'undefined_object',
      hint = coalesce((select 'There are: ' || string_agg(h.version::text, ', ' order by h.version) || '.' from notifier.event_history h
                       where h.name = restore_event.name), 'Look for it in notifier.event_history.');
  end if;
  _d.name := _then.name;
  _d.event := coalesce(_then.event, _then.name);
  _d.kind := _then.kind;
  _d.source := _then.source;
  _d.operation := _then.operation;
  _d.level := _then.level;
  _d.message := _then.message;
  _d.query := _then.query;
  _d.due := _then.due;
  _d.until := _then.until;
  return query select * from notifier.define(_d);
end
$$;
