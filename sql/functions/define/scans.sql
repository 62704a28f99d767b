-- notifier.scans: the large tables that an event's query reads as a whole for each write (a timer's: each time it fires), with
-- the index that would end it. Above 2 MiB: a smaller table is as quickly read as looked up in.
--   _d        the definition
--   returns   a line for each table; nothing when the query does not fit its tables any more
-- Used by: notifier.warnings, notifier.check_event, notifier.count_faults.
create or replace function notifier.scans(_d notifier.definition) returns setof text
language sql
set jit = off as $$   -- the estimates of a recursive query would bring it in
  with recursive node as (
    -- Each node with the conditions of those above it: a join's condition stands at the join.
    select p -> 'Plan' as plan, '{}'::text[] as conditions
    from jsonb_array_elements(notifier.event_plan(scans._d)) p
    union all
    select child, n.conditions || array_remove(
      array[n.plan ->> 'Hash Cond', n.plan ->> 'Merge Cond', n.plan ->> 'Join Filter', n.plan ->> 'Filter'], null)
    from node n cross join jsonb_array_elements(n.plan -> 'Plans') child
  ), scan as (
    select format('%I.%I', n.plan ->> 'Schema', n.plan ->> 'Relation Name')::regclass as leaf, n.plan ->> 'Alias' as alias,
           array_to_string(n.conditions || (n.plan ->> 'Filter'), ' AND ') as conditions
    from node n
    where n.plan ->> 'Node Type' in ('Seq Scan', 'Sample Scan')
  ), relation as (
    select coalesce(pg_partition_root(s.leaf), s.leaf) as name, sum(pg_relation_size(s.leaf)) as size,
           -- Partitions are t_1, t_2 where the query says t.
           array_agg(distinct quote_ident(s.alias)) || array_agg(quote_ident(regexp_replace(s.alias, '_\d+$', '')))
             filter (where s.leaf in (select i.inhrelid from pg_catalog.pg_inherits i)) as aliases,
           string_agg(distinct s.conditions, ' AND ') as conditions
    from (select distinct on (leaf) * from scan order by leaf, alias) s
    group by 1
    having sum(pg_relation_size(s.leaf)) > 2 * 1024 * 1024
  ), side as (
    -- What stands on either side of a =, and on the other one.
    select r.name, s.text, s.other, e.position
    from relation r
    cross join regexp_matches(r.conditions, '((?:"(?:[^"]|"")*"|[^ "])+) = ((?:"(?:[^"]|"")*"|[^ "])+)', 'g')
      with ordinality as e(text, position)
    cross join lateral (values (e.text[1], e.text[2], 1), (e.text[2], e.text[1], -1)) as s(text, other, opens)
    -- A parenthesis that is left open on the right, or closed on the left, belongs to a larger expression.
    where (length(replace(s.text, '(', '')) - length(replace(s.text, ')', ''))) * s.opens <= 0
  ), compared as (
    -- Columns as they are, cast, or in lower or upper case.
    select s.name, case when c.m[1] is null then c.m[3] else format('%s(%s)', c.m[1], c.m[3]) end as key, min(s.position) as position,
           bool_and(s.other ~ '^\(*(''|-?\d|true|false|ANY$)') as constant
    from side s
    join relation r on r.name = s.name
    cross join regexp_matches(s.text, '^\(*(?:(lower|upper)\()?\(?("(?:[^"]|"")+"|[^".() ]+)\.("(?:[^"]|"")+"|[^".() ]+)(?:\)::[^()]+)?\)*$') as c(m)
    where c.m[2] = any (r.aliases)
    group by 1, 2
  ), wanted as (
    -- With `or` between the conditions an index for each, else one over all columns that are compared with what varies.
    select c.name, case when min(r.conditions) ~ ' OR ' then array_agg(c.key order by c.position)
      else array[string_agg(c.key, ', ' order by c.position)] end as keys
    from compared c join relation r on r.name = c.name
    where not c.constant or not exists (select from compared o where o.name = c.name and not o.constant)
    group by c.name
  )
  select format('%s reads all of %s (%s MB): %s', case when (scans._d).kind = 'timer' then 'each firing' else 'each statement' end,
    r.name, round(r.size / 1048576, 1), case
      when w.keys is null then 'nothing in the query says with = which of its rows are meant; join it to what changed'
      when m.keys = '{}' then format('its index on (%s) does not help, since too many of its rows have the same value', w.keys[1])
      else (select string_agg(format('create index %son %s (%s);', case c.relkind when 'p' then '' else 'concurrently ' end, r.name, k), ' ')
            from unnest(m.keys) k) end)
  from relation r
  join pg_catalog.pg_class c on c.oid = r.name
  left join wanted w on w.name = r.name
  cross join lateral (
    select array(
      select k from unnest(w.keys) k
      where not exists (
        select from pg_catalog.pg_index x
        where x.indrelid = r.name and x.indisvalid
          and (select string_agg(pg_get_indexdef(x.indexrelid, n, true), ', ' order by n) from generate_series(1, x.indnkeyatts) n) || ', '
              like replace(k, '_', '\_') || ', %')) as keys
  ) m
  order by r.name::text
$$;
