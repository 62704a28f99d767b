-- notifier.verify_columns: whether the columns of a query say who is told, and have names that `data` can have.
--   _d        the definition, with its columns
--   raises    42703 without user_id, 42804 where it is no id, 42601 for a column without a name
-- Used by: notifier.define.
create or replace function notifier.verify_columns(_d notifier.definition) returns void
language plpgsql stable as $$
declare
  _title    text := notifier.title(_d) || ': the query';
  _names    text[] := array(select c ->> 'name' from jsonb_array_elements(_d.columns) c);
  _of_table text[] := array(select a.attname::text from pg_catalog.pg_attribute a
                            where a.attrelid = _d.source and a.attnum > 0 and not a.attisdropped order by a.attnum);
  _who      constant text := '(^|_)(user|owner|customer|client|account|member|profile|person|recipient|payer|driver|login|uid)';
  _like     text;
  _type     text;
  _category "char";
begin
  if '?column?' = any (_names) then
    raise exception '% has no name for its column %', _title, array_position(_names, '?column?') using errcode = 'syntax_error',
      detail = 'Every column but user_id becomes a key of `data`.',
      hint = 'Give it one: count(*) as bookings.';
  end if;

  if 'user_id' <> all (_names) then
    _like := coalesce(notifier.nearest('user_id', array(select n from unnest(_names) n where n ~* _who)),
      (select n from unnest(_names) n where n ~* _who limit 1));
    raise exception '% has no column user_id', _title using errcode = 'undefined_column',
      detail = format('It has: %s. user_id says who is told.', (select string_agg(quote_ident(n), ', ') from unnest(_names) n)),
      hint = case
        when _like is not null then format('Write select %I as user_id, ...', _like)
        when 'user_id' = any (_of_table) then format('%s has it: select user_id, ...', _d.source)
        when exists (select from unnest(_of_table) n where n ~* _who) then
          (select format('Perhaps it is one of %s: select %I as user_id, ...', _d.source, n) from unnest(_of_table) n where n ~* _who limit 1)
        else 'Join the table that knows the user: select lot.owner_id as user_id, ...' end;
  end if;

  select c ->> 'type' into _type from jsonb_array_elements(_d.columns) c where c ->> 'name' = 'user_id';
  select t.typcategory into _category from pg_catalog.pg_type t where t.oid = _type::regtype;
  if _category in ('A', 'B', 'C', 'D', 'G', 'P', 'R', 'T')
    or _type in ('json', 'jsonb', 'bytea', 'xml', 'tsvector', 'tsquery', 'jsonpath', 'money') then
    raise exception '%''s user_id is of type %, which is no id', _title, _type using errcode = 'datatype_mismatch',
      detail = 'It is compared, as text, with the user that a socket belongs to.',
      hint = case
        when _type in ('json', 'jsonb') then 'Take the text out of it: doc ->> ''user_id'' as user_id.'
        when _category = 'A' then 'Tell each of them: unnest(...) as user_id gives a row for each.'
        when _category = 'C' then 'Take the column out of it: (owner).id as user_id.'
        when _type = 'bytea' then 'Write it as the application does: encode(..., ''hex'') as user_id.'
        when _category = 'B' then 'Put the condition into WHERE, and select the id of the user.'
        else 'Select the column that has the id of the user: a number, a text or a uuid.' end;
  end if;
end
$$;
