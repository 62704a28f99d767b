-- notifier.existing: the definition of an event or timer that somebody names.
--   _name     as in notifier.event
--   returns   the definition
--   raises    42704 when there is none
-- Used by: notifier.drop_event, notifier.pause_event, notifier.resume_event, notifier.preview_event.
create or replace function notifier.existing(_name text) returns notifier.definition
language plpgsql stable as $$
declare
  _d     notifier.definition;
  _names text[];
begin
  select d.* into _d from notifier.definition d where d.name = existing._name;
  if _d.name is null then
    _names := array(select d.name from notifier.definition d order by d.name);
    raise exception 'there is no event %', coalesce(quote_literal(existing._name), 'null') using errcode = 'undefined_object',
      detail = case when _names = '{}' then 'None is defined.' else format('There are: %s%s.', array_to_string(_names[:20], ', '),
        case when cardinality(_names) > 20 then ', ...' else '' end) end,
      hint = coalesce('Perhaps you meant ' || quote_literal(notifier.nearest(existing._name, _names)) || '.',
        'Look for it in notifier.event.');
  end if;
  return _d;
end
$$;
