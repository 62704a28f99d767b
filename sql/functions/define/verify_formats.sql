-- notifier.verify_formats: whether to_char takes each {column:format} of a message, by trying it on a value of the column's type.
--   _d        the definition, with its columns
--   raises    42804 for a column that has no format, 22007 for a format that to_char refuses
-- Used by: notifier.define.
create or replace function notifier.verify_formats(_d notifier.definition) returns void
language plpgsql stable as $$
declare
  _title  text := notifier.title(_d) || ': the message';
  _token  text;
  _name   text;
  _format text;
  _type   text;
  _sample text;
begin
  for _token in
    select trim(both '{}' from m[1]) from regexp_matches(_d.message, '(\{\{|\}\}|\{[^{}]*\}|[^{}]+|[{}])', 'g') as m
    where m[1] ~ '^\{[^{}:]*:[^{}]*\}$'
  loop
    _name := trim(split_part(_token, ':', 1));
    _format := substr(_token, position(':' in _token) + 1);
    select c ->> 'type' into _type from jsonb_array_elements(_d.columns) c where c ->> 'name' = _name;
    _sample := case (select t.typcategory from pg_catalog.pg_type t where t.oid = _type::regtype)
      when 'N' then '0' when 'D' then '2000-01-01 00:00' when 'T' then '1 hour' else null end;
    if _sample is null or not exists (
      select from pg_catalog.pg_proc p
      where p.proname = 'to_char' and p.pronamespace = 'pg_catalog'::regnamespace
        and (p.proargtypes[0] = _type::regtype
             or exists (select from pg_catalog.pg_cast c
                        where c.castsource = _type::regtype and c.casttarget = p.proargtypes[0] and c.castcontext = 'i'))
    ) then
      raise exception '% formats {%}, which is of type %', _title, _token, _type using errcode = 'datatype_mismatch',
        detail = 'A format is one of to_char, which takes times, dates, intervals and numbers.',
        hint = format('Write {%s} without it, or format it in the query.', _name);
    end if;
    begin
      execute format('select to_char(%L::%s, %L)', _sample, _type, _format);
    exception
      when others then
        raise exception '% formats {%}, and to_char refuses: %', _title, _token, sqlerrm using errcode = 'invalid_datetime_format',
          detail = format('The column is of type %s.', _type),
          hint = 'Write a format that to_char takes: HH24:MI for a time, DD.MM.YYYY for a date, FM999990.00 for a number.';
    end;
  end loop;
end
$$;
