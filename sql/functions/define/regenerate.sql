-- notifier.regenerate: generate the functions of all events again, so that an upgrade reaches them.
--   returns   how many events there are
-- Used by: migrate, after it applied sql/functions.
create or replace function notifier.regenerate() returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
begin
  perform notifier.lock_definitions();
  perform notifier.adopt();
  perform notifier.write_function(g.source, g.operation)
  from (
    select g.source, g.operation from notifier.generated g where g.kind = 'write'
    union
    -- After the restore of a part.
    select d.source, o.operation from notifier.definition d cross join unnest(string_to_array(d.operation, ' or ')) as o(operation)
  ) g
  join pg_catalog.pg_class c on c.oid = g.source;
  perform notifier.timer_functions(d)
  from notifier.definition d join pg_catalog.pg_class c on c.oid = d.source
  where d.kind = 'timer';
  return (select count(*) from notifier.definition);
end
$$;
