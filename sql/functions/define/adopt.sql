-- notifier.adopt: where a source is gone and another table has its name (`pg_restore --clean` drops and creates), follow the name:
-- otherwise a dump's triggers would call the functions made for the old table, and those of a new definition would tell it all twice.
-- Used by: notifier.define, notifier.regenerate; both hold the lock of definitions.
create or replace function notifier.adopt() returns void
language plpgsql as $$
declare
  _was oid;
  _is  oid;
begin
  for _was, _is in
    select d.source, c.oid
    from notifier.definition d
    join pg_catalog.pg_class c on c.oid = (
      -- (Not by to_regclass, which asks for the right to use the schema.)
      select c.oid from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p') and format('%I.%I', n.nspname, c.relname) = d.source_name)
    where not exists (select from pg_catalog.pg_class g where g.oid = d.source)
    group by d.source, c.oid
  loop
    continue when exists (select from notifier.generated g where g.source in (_was, _is) group by g.operation having count(*) > 1);
    update notifier.definition d set source = _is where d.source = _was;
    update notifier.generated g set source = _is where g.source = _was;
  end loop;
end
$$;
