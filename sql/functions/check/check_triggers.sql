-- notifier.check_triggers: triggers that are missing or do not fire, on the sources of events, their partitions and their
-- inheritance children; generated functions that are missing; triggers on tables that belong to no source any more, and those that
-- fail writes to foreign partitions.
--   returns   see notifier.check. A row for each trigger, whatever the number of its events
-- Used by: notifier.check.
create or replace function notifier.check_triggers() returns table (severity text, event text, problem text, fix text)
language sql stable as $$
  with recursive wanted as (
    select d.source, o.operation, 'notifier.on_write_' || g.id as function,
           to_regprocedure('notifier.on_write_' || g.id || '()') as found,
           string_agg(d.name, ', ' order by d.name collate "C") as events, bool_and(d.paused_at is not null) as paused
    from notifier.definition d
    join pg_catalog.pg_class c on c.oid = d.source
    cross join lateral unnest(string_to_array(d.operation, ' or ')) as o(operation)
    left join notifier.generated g on g.source = d.source and g.operation = o.operation
    group by d.source, o.operation, g.id
  ), family as (
    select w.source::oid as id, w.source, w.operation, 'source' as part from wanted w where w.found is not null
    union
    select i.inhrelid, f.source, f.operation, case when c.relispartition then 'partition' else 'child' end
    from family f
    join pg_catalog.pg_inherits i on i.inhparent = f.id
    join pg_catalog.pg_class c on c.oid = i.inhrelid and c.relkind in ('r', 'p')
  )
  select case when w.paused then 'warning' else 'error' end, w.events,
         format('the function that is to tell of each %s of %s is missing', w.operation, w.source), 'parkmate-notifier migrate'
  from wanted w where w.found is null
  union all
  select
    -- What is written to a partition through its parent is told there. Into an inheritance child rows are inserted themselves.
    case when w.paused or f.part = 'partition' then 'warning' else 'error' end,
    w.events,
    format('the trigger %I on %s %s: ', n.name, f.id::regclass, case t.tgenabled
             when 'D' then 'is disabled' when 'R' then 'fires in replication alone' else 'is missing' end)
      || format(case f.part
           when 'source' then 'no %s is told'
           when 'partition' then 'no %s is told that is made on this partition and not on %s'
           else 'no %s is told that is made on this child and not on %s' end, f.operation, f.source),
    case when t.oid is null then notifier.trigger_statement(f.id::regclass, f.operation, w.function) || ';'
         else format('alter table %s enable trigger %I;', f.id::regclass, n.name) end
  from family f
  join wanted w on w.source = f.source and w.operation = f.operation
  cross join lateral (select notifier.trigger_name(f.operation, w.function) as name) n
  left join pg_catalog.pg_trigger t on t.tgrelid = f.id and t.tgname = n.name and t.tgfoid = w.found
  where t.oid is null or t.tgenabled in ('D', 'R')
  union all
  -- A detached partition keeps it.
  select 'warning', w.events,
         format('the trigger %I on %s still tells of each %s there, though that is no part of %s any more', t.tgname, t.tgrelid::regclass,
                w.operation, w.source),
         format('drop trigger %I on %s;', t.tgname, t.tgrelid::regclass)
  from wanted w
  join pg_catalog.pg_trigger t on t.tgfoid = w.found and t.tgenabled in ('O', 'A')
  where not w.paused and not exists (select from family f where f.id = t.tgrelid and f.source = w.source)
  union all
  -- It was attached later: with one below it the source would have been refused.
  select 'error', w.events,
         format('each %s fails that reaches the foreign table %s through %s: Postgres refuses it where a trigger reads what was written',
                w.operation, c.oid::regclass, t.tgrelid::regclass),
         format('drop trigger %I on %s; -- and define the event on the partitions that are ordinary tables', t.tgname, t.tgrelid::regclass)
  from family f
  join wanted w on w.source = f.source and w.operation = f.operation
  join pg_catalog.pg_trigger t on t.tgrelid = f.id and t.tgfoid = w.found
  cross join lateral notifier.family(f.id) b(id)
  join pg_catalog.pg_class c on c.oid = b.id and c.relkind = 'f'
$$;
