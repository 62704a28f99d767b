-- notifier.missing_grants: everything at once that the role which runs the events may not do, and a definition needs.
--   _d              the definition
--   _with, _query   what notifier.probe tried
--   returns         the lines that grant it; empty when it is something else
-- Used by: notifier.query_error.
create or replace function notifier.missing_grants(_d notifier.definition, _with text, _query text) returns text[]
language plpgsql as $$
declare
  _source  oid := (missing_grants._d).source;
  _tables  oid[];
  _calls   oid[] := '{}';
  _schemas oid[];
  _names   text[];   -- of tables and schemas as they are written: schema.table
begin
  -- A view checks no grant on what it reads, so it knows all of it.
  begin
    execute format(E'create view notifier.probed as with %s, "notifier query" as (\n%s\n) select * from "notifier query"',
      missing_grants._with, missing_grants._query);
    _tables := array(
      select distinct d.refobjid
      from pg_catalog.pg_rewrite r
      join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = r.oid
        and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid <> r.ev_class
      where r.ev_class = 'notifier.probed'::regclass
        and not case when d.refobjsubid = 0 then has_any_column_privilege(d.refobjid, 'select')
                     else has_column_privilege(d.refobjid, d.refobjsubid::smallint, 'select') end);
    _calls := array(
      select distinct p.oid
      from pg_catalog.pg_rewrite r
      cross join regexp_matches(r.ev_action::text, ':(?:funcid|opfuncid|aggfnoid|winfnoid) (\d+)', 'g') as f
      join pg_catalog.pg_proc p on p.oid = f[1]::oid
      where r.ev_class = 'notifier.probed'::regclass and not has_function_privilege(p.oid, 'execute'));
    raise exception using errcode = 'NTF00';
  exception
    when sqlstate 'NTF00' then
      null;   -- the view is undone
    when insufficient_privilege then
      -- Without `usage` on a schema no name in it can be looked up: whatever is written as schema.table is meant.
      _names := array(select m[1] from regexp_matches(missing_grants._query, '((?:"[^"]+"|[[:alpha:]_][\w$]*)\.(?:"[^"]+"|[[:alpha:]_][\w$]*))', 'g') m);
      _tables := array(
        select c.oid
        from unnest(_names) as w(name)
        join pg_catalog.pg_namespace n on n.nspname = (parse_ident(w.name))[1]
        join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = (parse_ident(w.name))[2]
        where c.relkind in ('r', 'p', 'v', 'm', 'f') and not has_any_column_privilege(c.oid, 'select')
        union
        select _source where not has_any_column_privilege(_source, 'select'));
  end;
  _schemas := array(
    select n.oid
    from pg_catalog.pg_namespace n
    where not has_schema_privilege(n.oid, 'usage')
      and (n.oid in (select c.relnamespace from pg_catalog.pg_class c where c.oid = any (_tables || _source))
           or n.oid in (select p.pronamespace from pg_catalog.pg_proc p where p.oid = any (_calls))
           or n.nspname in (select (parse_ident(w.name))[1] from unnest(_names) as w(name))));

  return array(
    select format('grant %s to %I;', l.granted, current_user)
    from (
      select 1, 'usage on schema ' || string_agg(n.oid::regnamespace::text, ', ' order by n.nspname)
      from pg_catalog.pg_namespace n where n.oid = any (_schemas)
      union all
      select 2, 'select on ' || string_agg(t.oid::regclass::text, ', ' order by t.oid::regclass::text) from unnest(_tables) as t(oid)
      union all
      select 3, 'execute on function ' || string_agg(p.oid::regprocedure::text, ', ' order by p.oid::regprocedure::text)
      from unnest(_calls) as p(oid)
      union all
      -- What comes next, and would be refused then.
      select 4, 'trigger on ' || string_agg(f.oid::regclass::text, ', ' order by f.oid::regclass::text)
      from notifier.family(_source) as f(oid)
      where not has_table_privilege(f.oid, 'trigger')
    ) l(position, granted)
    where l.granted is not null
    order by l.position);
end
$$;
