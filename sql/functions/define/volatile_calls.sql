-- notifier.volatile_calls: the volatile functions that a view calls, by name or as operators, and those of the views it reads.
-- pg_depend does not know the built-in ones, so they are looked for in the view's rule.
--   _view     the view
--   returns   their OIDs
-- Used by: notifier.probe.
create or replace function notifier.volatile_calls(_view regclass) returns oid[]
language sql stable
return array(
  with recursive rule as (
    select r.oid, r.ev_class, r.ev_action::text as tree
    from pg_catalog.pg_rewrite r where r.ev_class = volatile_calls._view
    union
    select r.oid, r.ev_class, r.ev_action::text
    from rule u
    join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = u.oid
      and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid <> u.ev_class
    join pg_catalog.pg_class c on c.oid = d.refobjid and c.relkind = 'v'
    join pg_catalog.pg_rewrite r on r.ev_class = c.oid and r.ev_type = '1'
  )
  select distinct p.oid
  from rule u
  cross join regexp_matches(u.tree, ':(?:funcid|opfuncid|aggfnoid|winfnoid) (\d+)', 'g') as f
  join pg_catalog.pg_proc p on p.oid = f[1]::oid
  where p.provolatile = 'v'
  order by p.oid desc
);
