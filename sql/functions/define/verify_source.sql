-- notifier.verify_source: whether triggers can tell of what happens to a table.
--   _d        the definition
--   raises    42P01 when it is not there, 42809 when it is no table of an application or has foreign partitions, 42P16 for a
--             timer's without primary key
-- Used by: notifier.define.
create or replace function notifier.verify_source(_d notifier.definition) returns void
language plpgsql stable as $$
declare
  _title  text := notifier.title(_d);
  _class  pg_catalog.pg_class;
  _is     text;
  _detail text;
  _hint   text;
  _column text;
begin
  select c.* into _class from pg_catalog.pg_class c where c.oid = _d.source;
  if not found then
    raise exception '%: the source table does not exist', _title using errcode = 'undefined_table',
      detail = format('The source is %s.', coalesce(_d.source::text, 'null')), hint = 'Write it with its schema: source => ''public.booking''.';
  end if;

  case
    when _class.relkind in ('v', 'm') then
      _is := case _class.relkind when 'v' then 'a view' else 'a materialized view' end;
      _detail := case _class.relkind when 'v' then 'What is written through a view is written to its tables, and triggers see it there.'
        else 'It changes when it is refreshed, and no trigger sees that.' end;
      _hint := coalesce(
        (select 'Name the table it is made of: source => ' || string_agg(distinct quote_literal(d.refobjid::regclass), ' or ') || '.'
         from pg_catalog.pg_rewrite r
         join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = r.oid
           and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid <> r.ev_class
         join pg_catalog.pg_class c on c.oid = d.refobjid and c.relkind in ('r', 'p')
         where r.ev_class = _class.oid), 'Name a table that it is made of.');
    when _class.relkind = 'f' then
      _is := 'a foreign table';
      _detail := 'It is written in another database, and a trigger here would see only what is written through it.';
      _hint := 'Define the event in the database that the table lives in.';
    when _class.relkind in ('i', 'I') then
      _is := 'an index';
      _detail := 'Rows are written to its table.';
      _hint := (select format('Name the table: source => %L.', i.indrelid::regclass) from pg_catalog.pg_index i where i.indexrelid = _class.oid);
    when _class.relkind not in ('r', 'p') then
      _is := case _class.relkind when 'S' then 'a sequence' when 'c' then 'a composite type' else 'no table' end;
      _detail := 'It has no rows that an application writes.';
      _hint := 'Name a table with its schema: source => ''public.booking''.';
    when _class.relpersistence = 't' then
      _is := 'a temporary table';
      _detail := 'It is gone with its session, and no other session writes to it.';
      _hint := coalesce((select format('Write the lasting table of that name with its schema: source => %L.', min(c.oid::regclass::text))
                         from pg_catalog.pg_class c
                         where c.relname = _class.relname and c.relkind in ('r', 'p') and c.relpersistence <> 't' having count(*) > 0),
                        'Name a table that stays, with its schema: source => ''public.booking''.');
    when _class.relnamespace = 'notifier'::regnamespace then
      _is := 'a table of the notifier''s own';
      _detail := 'Telling of it would write to it, which would be told, and so on.';
      _hint := 'Name the application''s table whose change it follows from.';
    when _class.relnamespace in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) then
      _is := 'a catalog of Postgres';
      _detail := 'Catalogs have no triggers.';
      _hint := 'Name a table of the application. What happens to tables themselves is seen by event triggers.';
    else
  end case;
  if _is is not null then
    raise exception '%: the source % is %', _title, _d.source, _is using errcode = 'wrong_object_type', detail = _detail, hint = _hint;
  end if;

  select string_agg(c.oid::regclass::text, ', ' order by c.oid) into _is
  from notifier.family(_d.source) f(id) join pg_catalog.pg_class c on c.oid = f.id and c.relkind = 'f';
  if _is is not null then
    raise exception '%: below % there is a foreign table: %', _title, _d.source, _is using errcode = 'wrong_object_type',
      detail = 'Postgres refuses each write that reaches a foreign table through a table with a trigger that reads what was written.',
      hint = 'Define the event on those of its partitions that are ordinary tables.';
  end if;

  if _d.kind = 'timer' and notifier.key_text(_d.source, 'list') is null then
    select a.attname into _column from pg_catalog.pg_attribute a
    where a.attrelid = _d.source and a.attnum > 0 and not a.attisdropped and lower(a.attname) in ('id', 'uuid', 'key')
    order by lower(a.attname) limit 1;
    raise exception '%: % has no primary key', _title, _d.source using errcode = 'invalid_table_definition',
      detail = 'A timer keeps the key of each row and reads the row again when its time has come.',
      hint = format('Add one, as the owner of the table: alter table %s add %s;', _d.source,
        case when _column is not null then format('primary key (%I)', _column)
          else 'column id bigint generated always as identity primary key' end);
  end if;
end
$$;
