-- notifier.key_text: the primary key of a table as the pieces of SQL that generated functions are made of.
--   _source   the table
--   _piece    'list'    s."a", s."b"                                     columns, of the alias s
--             'object'  jsonb_build_object('a', s."a", ...)              a row's key as it is kept in notifier.timer
--             'parsed'  (k.key ->> 'a')::integer, ...                    a kept key as values, of the alias k
--             'after'   (_after ->> 'a')::integer, ...                   the same, of the variable _after
--   returns   the piece; null when the table has no primary key
-- Used by: notifier.write_function, notifier.timer_functions, notifier.define.
create or replace function notifier.key_text(_source oid, _piece text) returns text
language sql stable
return (
  select case key_text._piece
    when 'list'   then string_agg(format('s.%I', a.attname), ', ' order by k.position)
    when 'object' then 'jsonb_build_object('
                       || string_agg(format('%L, s.%I', a.attname, a.attname), ', ' order by k.position) || ')'
    when 'parsed' then string_agg(format('(k.key ->> %L)::%s', a.attname, format_type(a.atttypid, a.atttypmod)), ', '
                                  order by k.position)
    when 'after'  then string_agg(format('(_after ->> %L)::%s', a.attname, format_type(a.atttypid, a.atttypmod)), ', '
                                  order by k.position)
  end
  from pg_catalog.pg_index i
  cross join lateral unnest(i.indkey) with ordinality as k(attnum, position)
  join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
  where i.indrelid = key_text._source and i.indisprimary and k.position <= i.indnkeyatts
);
