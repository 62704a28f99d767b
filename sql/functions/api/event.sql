-- notifier.event: what is live, read from the catalogs so that it cannot drift: a renamed source shows its new name, and
-- `installed` is false where its trigger is missing or disabled.
create or replace view notifier.event as
select
  d.name,
  d.kind,
  case when c.oid is null then d.source_name || ' (dropped)' else format('%I.%I', n.nspname, c.relname) end as source,
  d.operation,
  d.event,
  d.level::text as level,
  d.message,
  d.query,
  d.due,
  d.until,
  not exists (
    select from unnest(string_to_array(d.operation, ' or ')) as o(operation)
    where not exists (
      select from notifier.generated g
      join pg_catalog.pg_trigger t on t.tgrelid = g.source and t.tgname = format('notifier_%s_%s', g.operation, g.id)
      where g.source = d.source and g.operation = o.operation and t.tgenabled in ('O', 'A'))
  ) as installed,
  d.paused_at is not null as paused,
  (select count(*) from notifier.fault_record f where f.event = d.name)
    + (select coalesce(sum(t.count), 0)::bigint from notifier.fault_total t where t.event = d.name) as faults,
  d.version,
  d.defined_at,
  d.defined_by,
  d.paused_at,
  d.paused_by,
  d.paused_because
from notifier.definition d
left join pg_catalog.pg_class c on c.oid = d.source
left join pg_catalog.pg_namespace n on n.oid = c.relnamespace;
