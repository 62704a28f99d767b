-- notifier.shape: the rows of a table as the transition tables of a trigger have them: without virtual generated columns, whose
-- values those tables do not have (they read as null, or fail with XX000).
--   _source   the table
--   returns   a select of its columns
-- Used by: notifier.probe_tables, notifier.probe_instant.
create or replace function notifier.shape(_source regclass) returns text
language sql stable
return (
  select case when bool_or(a.attgenerated = 'v')
    then 'select ' || string_agg(quote_ident(a.attname), ', ' order by a.attnum) filter (where a.attgenerated <> 'v')
    else 'select *' end || format(' from %s', shape._source)
  from pg_catalog.pg_attribute a
  where a.attrelid = shape._source and a.attnum > 0 and not a.attisdropped
);
