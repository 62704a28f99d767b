-- notifier.family: a table and all tables below it: partitions and inheritance children, to any depth.
--   _table    the table
--   returns   their OIDs, each once
-- Used by: notifier.install_trigger, notifier.verify_source, notifier.missing_grants, notifier.check_triggers.
create or replace function notifier.family(_table oid) returns setof oid
language sql stable as $$
  with recursive family as (
    select family._table as id
    union
    select i.inhrelid from pg_catalog.pg_inherits i join family f on i.inhparent = f.id
  )
  select f.id from family f
$$;
