-- notifier.existing: the definition of an event or timer that somebody names.
--   _name     as in notifier.event
--   returns   the definition
--   raises    42704 when there is none
-- Used by: notifier.pause_event, notifier.resume_event, notifier.preview_event.
create or replace function notifier.existing(_name text) returns notifier.definition
language plpgsql stable as $$
declare
  _d notifier.definition;
begin
  select d.* into _d from notifier.definition d where d.name = existing._name;
  if _d.name is null then
    raise exception 'there is no event %', coalesce(quote_literal(existing._name), 'null') using errcode = 'undefined_object',
      hint = format('There are: %s.', (select string_agg(d.name, ', ' order by d.name) from notifier.definition d));
  end if;
  return _d;
end
$$;
