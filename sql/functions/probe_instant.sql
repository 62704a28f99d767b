-- notifier.probe_instant: check an expression that says when: `due` or `until` of a timer.
--   _event        the timer
--   _parameter    'due' or 'until', for the error
--   _source       the table whose columns it reads
--   _expression   the expression
--   raises        42601 for several statements, a subquery or the present time in it, 42804 unless it is a timestamptz
-- Used by: notifier.define.
create or replace function notifier.probe_instant(_event text, _parameter text, _source regclass, _expression text) returns void
language plpgsql as $$
declare
  _what    text := format('%s of timer %s', probe_instant._parameter, probe_instant._event);
  _columns jsonb;
begin
  if coalesce(trim(probe_instant._expression), '') = '' then
    raise exception '% is empty', _what using errcode = 'syntax_error',
      hint = 'Write an expression over the row: end_time - interval ''5 minutes''';
  end if;
  if probe_instant._expression ~* '\m(now|clock_timestamp|statement_timestamp|transaction_timestamp|timeofday|age|random)\s*\('
    or probe_instant._expression ~* '\m(current_timestamp|current_date|current_time|localtimestamp|localtime)\M'
    or probe_instant._expression ~* '''(now|today|tomorrow|yesterday)'''
  then
    raise exception '% depends on the present time', _what using errcode = 'syntax_error',
      hint = 'It has to give the same instant whenever it is asked: compute it from columns of the row.';
  end if;
  if probe_instant._expression ~* '\(\s*(select|with|values|table)\M' then
    raise exception '% has a subquery', _what using errcode = 'syntax_error',
      hint = 'A timer moves when its own row is written: keep the instant in a column of the row.';
  end if;
  _columns := notifier.probe(_what, 'never as (select)',
    -- In WHERE as well, where neither aggregates nor set-returning functions may stand.
    format(E'select (\n%1$s\n) as instant from %2$s s where (\n%1$s\n) is not null', probe_instant._expression, probe_instant._source));
  if _columns -> 0 ->> 'type' <> 'timestamp with time zone' then
    raise exception '% is of type %, not timestamptz', _what, _columns -> 0 ->> 'type' using errcode = 'datatype_mismatch',
      hint = 'Say which zone it is in: (end_time at time zone ''Europe/Berlin'')';
  end if;
end
$$;
