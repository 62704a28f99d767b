-- notifier.unread_sequences: the sequences that number a table's rows and that the role which runs the events may not read. Behind a
-- notification it cannot put back what lastval() gave the application, which then is refused, since the last number was one of ours.
--   _source   the table
--   returns   the statement that grants it; null when there are none
-- Used by: notifier.warnings, notifier.check_event.
create or replace function notifier.unread_sequences(_source regclass) returns text
language sql stable
return (
  select format('grant select on sequence %s to %I;', string_agg(s.oid::regclass::text, ', ' order by s.oid::regclass::text), current_user)
  from pg_catalog.pg_depend d
  join pg_catalog.pg_class s on s.oid = d.objid
  where d.classid = 'pg_catalog.pg_class'::regclass and d.refclassid = 'pg_catalog.pg_class'::regclass
    and d.refobjid = unread_sequences._source and d.deptype in ('a', 'i')
    -- A table that has long values depends on it as well, and to ask that of what is no sequence is an error.
    and case when s.relkind = 'S' then not has_sequence_privilege(s.oid, 'select, usage') end
  having count(*) > 0);
