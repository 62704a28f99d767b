-- notifier.verify_words: the parts of a definition that can be judged without looking at a table: name, operation, message, query.
--   _d        the definition
--   raises    22023 for a name, an operation, or a message or query that is empty; 42601 for a query that begins like no SELECT
-- Used by: notifier.define.
create or replace function notifier.verify_words(_d notifier.definition) returns void
language plpgsql immutable as $function$
declare
  _title text := notifier.title(_d);
  _name  text;
  _verbs text[];
  _meant text;
  _first text;
begin
  if _d.name is null or _d.name !~ '^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$' or octet_length(_d.name) > 100 then
    _name := trim(both '._' from regexp_replace(lower(_d.name), '[^a-z0-9.]+', '_', 'g'));
    raise exception '% is no name for an event', coalesce(quote_literal(_d.name), 'null') using errcode = 'invalid_parameter_value',
      detail = case when octet_length(_d.name) > 100 then format('It has %s bytes; a name has at most 100.', octet_length(_d.name))
        else 'A name is made of lower-case letters, digits and underscores, with dots between its words.' end,
      hint = case when octet_length(_d.name) <= 100 and _name ~ '^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$' then format('Write name => %L.', _name)
        else 'Say what it is about and what happened to it: booking.declined.' end;
  elsif _d.name ~ '^notifier(\.|$)' then
    raise exception '% is a name of the notifier''s own', quote_literal(_d.name) using errcode = 'reserved_name',
      detail = 'Under names that begin with "notifier." it keeps its own faults.',
      hint = format('Write another first word: name => %L.', 'app' || substr(_d.name, 9));
  end if;

  if _d.event !~ '^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$' or octet_length(_d.event) > 100 then
    raise exception '%: % is no name to tell it as', _title, quote_literal(_d.event) using errcode = 'invalid_parameter_value',
      detail = 'It is made like a name: lower-case letters, digits and underscores, with dots between its words, at most 100 bytes.',
      hint = 'Leave `event` out, and it is told under its own name.';
  end if;

  if _d.operation is null or _d.operation not in ('insert', 'update', 'delete', 'insert or update') then
    _verbs := array(select distinct m[1] from regexp_matches(lower(_d.operation), '[a-z]+', 'g') as m
                    where m[1] not in ('or', 'and') order by m[1]);
    _meant := case
      when _verbs in ('{insert,update}', '{upsert}', '{merge}', '{save}', '{write}') then 'insert or update'
      when cardinality(_verbs) = 1 then notifier.nearest(_verbs[1], array['insert', 'update', 'delete']) end;
    raise exception '%: operation % is not known', _title, coalesce(quote_literal(_d.operation), 'null')
      using errcode = 'invalid_parameter_value',
            detail = 'The operations are, in lower case: insert, update, delete, insert or update.',
            hint = case
              when _meant is not null then format('Write operation => %L.', _meant)
              when 'truncate' = any (_verbs) then 'TRUNCATE tells nobody. Where users are to hear of it, call notifier.send beside it.'
              when 'delete' = any (_verbs) then 'Define an event of its own, with another name, for the delete: it has no `new`.'
              else 'Write what the application does to the table when users are to be told.' end;
  end if;

  if coalesce(trim(E' \t\r\n' from _d.message), '') = '' then
    raise exception '%: the message is empty', _title using errcode = 'invalid_parameter_value',
      detail = 'The message is what the user reads.',
      hint = 'Write a sentence; {column} stands for a column of the query: message => ''Booking #{booking_id} was declined.''';
  end if;

  _first := trim(E' \t\r\n;' from regexp_replace(_d.query, '^(\s|\(|--[^\n]*(\n|$)|/\*([^*]|\*+[^*/])*\*+/)*', ''));
  if coalesce(_first, '') = '' then
    raise exception '%: the query is empty', _title using errcode = 'invalid_parameter_value',
      detail = 'The query says who is told: each row it returns is one notification.',
      hint = format('Write query => $$ select user_id from %s $$.', notifier.offers(_d.kind, _d.operation, 'best'));
  end if;
  _first := coalesce(substring(_first from '^[[:alpha:]_]+'), left(_first, 1));
  if lower(_first) not in ('select', 'with', 'values', 'table') then
    raise exception '%: the query begins with "%" and is no SELECT', _title, _first using errcode = 'syntax_error',
      detail = 'A query only reads: each row it returns tells a user, and it changes nothing.',
      hint = format('Write query => $$ select user_id, ... from %s where ... $$.', notifier.offers(_d.kind, _d.operation, 'best'));
  end if;
end
$function$;
