-- notifier.check_roles: functions that run as a superuser, and owners of tables whose backup stumbles over our schema.
--   returns   see notifier.check
-- Used by: notifier.check.
create or replace function notifier.check_roles() returns table (severity text, event text, problem text, fix text)
language sql stable as $$
  select 'warning', null,
         format('functions of schema notifier that belong to %s, a superuser, and run as one: %s', r.rolname, count(*)),
         case when o.rolsuper
           then 'Give the schema notifier, its tables and its functions to a role that is none, and run `parkmate-notifier migrate` as that role.'
           else string_agg(format('alter function %s owner to %I;', p.oid::regprocedure, o.rolname), E'\n' order by p.oid::regprocedure::text) end
  from pg_catalog.pg_proc p
  join pg_catalog.pg_roles r on r.oid = p.proowner and r.rolsuper
  join pg_catalog.pg_namespace n on n.oid = p.pronamespace and n.nspname = 'notifier'
  join pg_catalog.pg_roles o on o.oid = n.nspowner
  where p.prosecdef
  group by r.rolname, o.rolname, o.rolsuper
  union all
  select 'note', string_agg(d.name, ', ' order by d.name collate "C"),
         format('pg_dump of this database by %s, who owns %s, fails on schema notifier', r.rolname,
                string_agg(distinct d.source::text, ', ')),
         format('grant pg_read_all_data to %I; -- or: pg_dump --exclude-schema=notifier', r.rolname)
  from notifier.definition d
  join pg_catalog.pg_class c on c.oid = d.source
  join pg_catalog.pg_roles r on r.oid = c.relowner and r.rolcanlogin and not r.rolsuper
  join pg_catalog.pg_namespace n on n.nspname = 'notifier'
  where not pg_has_role(r.oid, n.nspowner, 'usage') and not pg_has_role(r.oid, 'pg_read_all_data', 'usage')
  group by r.rolname
$$;
