-- notifier.define_statement: the statement that defines an event or timer as it is, laid out to be read and edited.
--   _d        the event
--   _source   its table as the statement is to name it, with its schema
--   returns   a call of notifier.define_event or notifier.define_timer, with a semicolon. Its literals are written for
--             standard_conforming_strings = on
-- Used by: notifier.export_events, notifier.check_event.
create or replace function notifier.define_statement(_d notifier.definition, _source text) returns text
language sql stable
return (
  select format(E'select notifier.define_%s(\n', case (define_statement._d).kind when 'timer' then 'timer' else 'event' end)
    || string_agg(format('  %s => ', rpad(a.name, case (define_statement._d).kind when 'timer' then 7 else 9 end)) || case
         when a.quoting = 'literal' then '''' || replace(a.value, '''', '''''') || ''''
         -- Exactly as it is but for white space where the definition cuts it off: around `due` and `until`, after a query.
         when a.quoting = 'expression' then tag.text || case when a.value ~ '^\s' then '' else ' ' end || a.value || ' ' || tag.text
         else tag.text || a.value || case when position(E'\n' in a.value) > 0 then E'\n  '
                                          when a.value ~ '^\s|\$\w*$' then ' ' else '' end || tag.text end,
         E',\n' order by a.place)
    || ');'
  from (values
    (1, 'name',      'literal',    (define_statement._d).name),
    (2, 'source',    'literal',    define_statement._source),
    (3, 'operation', 'literal',    case when (define_statement._d).kind = 'write' then (define_statement._d).operation end),
    (4, 'due',       'expression', (define_statement._d).due),
    (5, 'until',     'expression', (define_statement._d).until),
    (6, 'level',     'literal',    (define_statement._d).level::text),
    (7, 'message',   'literal',    (define_statement._d).message),
    (8, 'query',     'query',      (define_statement._d).query),
    (9, 'event',     'literal',    nullif((define_statement._d).event, (define_statement._d).name))
  ) as a(place, name, quoting, value)
  cross join lateral (
    select case when position('$$' in a.value) = 0 then '$$'
                when position('$query$' in a.value) = 0 then '$query$'
                else '$q' || md5(a.value) || '$' end as text
  ) tag
  where a.value is not null
);
