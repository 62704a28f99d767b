-- notifier.probe_instant: check an expression that says when: `due` or `until` of a timer.
--   _d            the timer
--   _part         'due' or 'until', for the error
--   _expression   the expression
--   raises        42601 for several statements, a comment at its end, a subquery or the present time in it, 42804 unless it is a timestamptz
-- Used by: notifier.define.
create or replace function notifier.probe_instant(_d notifier.definition, _part text, _expression text) returns void
language plpgsql as $function$
declare
  _title text := notifier.title(probe_instant._d) || ': ' || probe_instant._part;
  _probe record;
  _type  text;
begin
  if coalesce(btrim(probe_instant._expression, E' \t\r\n'), '') = '' then
    raise exception '% is empty', _title using errcode = 'syntax_error',
      detail = case probe_instant._part when 'due' then 'It says when the user is told.' else 'It says from when on it is too late to tell the user.' end,
      hint = case probe_instant._part when 'due' then 'Write an expression over the row: due => $$ end_time - interval ''5 minutes'' $$.'
        else 'Write an expression over the row, or leave it out: then it is one day after `due`.' end;
  end if;
  if regexp_replace(probe_instant._expression, '''[^'']*''', '', 'g') ~ '--[^\n]*$' then
    raise exception '% ends with a comment', _title using errcode = 'syntax_error',
      detail = 'What is written after it, in the trigger''s function, would belong to the comment.',
      hint = 'Leave it out, or write it between /* and */.';
  end if;

  select * into _probe
  from notifier.probe(probe_instant._d, probe_instant._part, 'never as (select)',
    -- In WHERE as well, where neither aggregates nor set-returning functions may stand.
    format(E'select (\n%1$s\n) as instant from (%2$s) s where (\n%1$s\n) is not null',
      probe_instant._expression, notifier.shape((probe_instant._d).source)));

  if _probe.tree ~ '\{SUBLINK ' then
    raise exception '% has a subquery', _title using errcode = 'syntax_error',
      detail = 'A timer moves when its own row is written; what another row says could change unseen.',
      hint = 'Keep the instant in a column of the row.';
  end if;
  -- Operations 0 to 8 are current_date to localtimestamp. A text such as 'tomorrow' is a constant of a type of times by now, or
  -- becomes one through its text; where it is a text like others nothing is said against it.
  if _probe.tree ~ '\{SQLVALUEFUNCTION :op [0-8] '
    or exists (select from regexp_matches(_probe.tree, ':funcid (\d+)', 'g') f
               where f[1]::oid in ('pg_catalog.now()'::regprocedure, 'pg_catalog.statement_timestamp()'::regprocedure,
                 'pg_catalog.transaction_timestamp()'::regprocedure, 'pg_catalog.age(timestamptz)'::regprocedure,
                 'pg_catalog.age(timestamp)'::regprocedure))
    or probe_instant._expression ~* '''\s*(now|today|tomorrow|yesterday)\M'
      and _probe.tree ~ '\{CONST :consttype (1082|1083|1114|1184|1266) |\{COERCEVIAIO '
  then
    raise exception '% depends on the present time', _title using errcode = 'syntax_error',
      detail = 'It has to give the same instant whenever it is asked.',
      hint = 'Compute it from columns of the row, as in created_at + interval ''1 hour''.';
  end if;

  _type := _probe.columns -> 0 ->> 'type';
  if jsonb_array_length(_probe.columns) <> 1 or _type <> 'timestamp with time zone' then
    raise exception '% is of type %, not timestamptz', _title, _type using errcode = 'datatype_mismatch',
      detail = case
        when _type in ('timestamp without time zone', 'date') then 'Without a zone it is another instant for every session.'
        else 'An instant is a date, a time and a zone.' end,
      hint = case
        when _type = 'timestamp without time zone' then format('Say which zone it is in: (%s) at time zone ''Europe/Berlin''',
          btrim(probe_instant._expression))
        when _type = 'date' then format('Say when on that day, and in which zone: ((%s) + time ''09:00'') at time zone ''Europe/Berlin''',
          btrim(probe_instant._expression))
        when _type in ('smallint', 'integer', 'bigint', 'numeric', 'real', 'double precision')
          then format('If it counts seconds since 1970: to_timestamp(%s)', btrim(probe_instant._expression))
        when _type = 'interval' then 'Add it to a column that says since when: created_at + interval ''1 hour'''
        when _type = 'text' or _type like 'character%' then format(
          'Keep it in a column of type timestamptz. Until then: (%s)::timestamp at time zone ''Europe/Berlin''', btrim(probe_instant._expression))
        else 'Write an expression over the row: end_time - interval ''5 minutes''' end;
  end if;
end
$function$;
