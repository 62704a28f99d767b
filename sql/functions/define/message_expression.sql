-- notifier.message_expression: a message template as an SQL expression over `q`, the event's query.
-- `{name}` is the column as text (null as nothing), `{name:format}` goes through to_char, `{{` and `}}` are braces.
--   _title     for the error: event booking.declined
--   _message   the template
--   _columns   of the query: [{"name": .., "type": ..}]
--   returns    an SQL expression of type text, never null
--   raises     42703 for a placeholder that is no column of the query, 42601 for an unpaired brace
-- Used by: notifier.told_select, notifier.told_rows.
create or replace function notifier.message_expression(_title text, _message text, _columns jsonb) returns text
language plpgsql stable as $$
declare
  _parts text[] := '{}';
  _token text;
  _name  text;
  _names text[];
begin
  for _token in
    select m[1] from regexp_matches(message_expression._message, '(\{\{|\}\}|\{[^{}]*\}|[^{}]+|[{}])', 'g') as m
  loop
    if _token in ('{{', '}}') then
      _parts := _parts || (quote_literal(left(_token, 1)) || '::text');
    elsif _token in ('{', '}') then
      raise exception '%: the message has an unpaired "%"', message_expression._title, _token
        using errcode = 'syntax_error', detail = 'Between { and } stands a column of the query.',
              hint = format('Write %s%s for a brace that is text.', _token, _token);
    elsif left(_token, 1) = '{' then
      _token := trim(both '{}' from _token);
      _name := trim(split_part(_token, ':', 1));
      if not exists (select from jsonb_array_elements(message_expression._columns) c where c ->> 'name' = _name) then
        _names := array(select c ->> 'name' from jsonb_array_elements(message_expression._columns) c);
        raise exception '%: the message uses {%}, which is no column of its query', message_expression._title, _name
          using errcode = 'undefined_column',
                detail = format('The query has: %s.', (select string_agg(quote_ident(n), ', ') from unnest(_names) n)),
                hint = case
                  when _name = '' then 'Write the column between the braces, or {{}} for braces that are text.'
                  else coalesce('Perhaps you meant {' || notifier.nearest(_name, _names) || '}.',
                    format('Add it to the query: select user_id, ... as %I.', _name)) end;
      end if;
      _parts := _parts || case when position(':' in _token) > 0
        then format('coalesce(to_char(q.%I, %L), %L)', _name, substr(_token, position(':' in _token) + 1), '')
        else format('coalesce(q.%I::text, %L)', _name, '') end;
    else
      _parts := _parts || (quote_literal(_token) || '::text');
    end if;
  end loop;
  return coalesce(nullif(array_to_string(_parts, ' || '), ''), '''''::text');
end
$$;
