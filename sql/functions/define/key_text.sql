-- notifier.key_text: the primary key of a table as the pieces of SQL that generated functions are made of. A key is kept as an
-- array of texts by position: every type has a text form that it reads back, and a renamed column changes nothing.
--   _source   the table
--   _piece    'list'    s."a", s."b"                            columns, of the alias s
--             'array'   jsonb_build_array(s."a"::text, ...)     a row's key as it is kept
--             'parsed'  (k.key ->> 0)::integer, ...             a kept key as values, of the alias k
--             'after'   (_after ->> 0)::integer, ...            the same, of the parameter _after
--   returns   the piece; null when the table has no primary key, or is gone
-- Used by: notifier.define, notifier.write_function, notifier.timer_functions.
create or replace function notifier.key_text(_source oid, _piece text) returns text
language sql stable
return (
  select case key_text._piece
    when 'list'   then string_agg(format('s.%I', c.name), ', ' order by c.position)
    when 'array'  then 'jsonb_build_array(' || string_agg(format('s.%I::text', c.name), ', ' order by c.position) || ')'
    when 'parsed' then string_agg(format('(k.key ->> %s)::%s', c.position - 1, c.type), ', ' order by c.position)
    when 'after'  then string_agg(format('(_after ->> %s)::%s', c.position - 1, c.type), ', ' order by c.position)
  end
  from (
    select a.attname as name, format_type(a.atttypid, a.atttypmod) as type, k.position
    from pg_catalog.pg_index i
    cross join lateral unnest(i.indkey) with ordinality as k(attnum, position)
    join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
    where i.indrelid = key_text._source and i.indisprimary and k.position <= i.indnkeyatts
  ) c
);
