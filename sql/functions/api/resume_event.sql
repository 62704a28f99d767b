-- notifier.resume_event: let a paused event or timer go on. What was written meanwhile tells nobody. Of a timer all rows are looked at
-- again: what came due meanwhile is told if it is still of use.
--   name      of the event or timer
--   returns   what was done
--   raises    42704 when there is no such event, 25001 above read committed
-- Used by: DBAs.
create or replace function notifier.resume_event(name text) returns setof text
language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
  _d notifier.definition;
begin
  perform notifier.lock_definitions();
  _d := notifier.existing(resume_event.name);
  if _d.paused_at is null then
    return next format('%s was not paused', _d.name);
    return;
  end if;
  update notifier.definition d set paused_at = null, paused_by = null, paused_because = null where d.name = _d.name;
  perform notifier.write_function(_d.source, o.operation) from unnest(string_to_array(_d.operation, ' or ')) as o(operation);
  -- What it failed at before does not count against it.
  insert into notifier.failing (event, since, faults) values (_d.name, clock_timestamp(), 0)
  on conflict (event) do update set since = excluded.since, faults = 0;
  return next format('%s goes on', _d.name);
  if _d.kind = 'timer' then
    return next notifier.arm_existing(_d.name);
  end if;
end
$$;
