-- notifier.check: what broke since it was defined, and what to do about it. It writes nothing, keeps no lock, and says of what it
-- cannot look at that it could not.
--   returns   a row for each finding, the worst first; none when all is well:
--     severity   error: somebody is not told. warning: something is slow, or will break. note: good to know
--     event      whose it is; several with commas; null where it is nobody's
--     problem    what is wrong
--     fix        a statement to run, or what to do in words
-- Used by: DBAs.
create or replace function notifier.check() returns table (severity text, event text, problem text, fix text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
-- As in the generated functions: a policy on a table that a query reads is a finding.
set row_security = off
set jit = off
set lock_timeout = '50ms' as $$
#variable_conflict use_column
declare
  _found jsonb := '[]';
  _more  jsonb;
  _part  text;
  _d     notifier.definition;
begin
  for _d in select d.* from notifier.definition d order by d.name loop
    begin
      _found := _found || coalesce((
        select jsonb_agg(jsonb_build_object('severity', c.severity, 'event', _d.name, 'problem', c.problem, 'fix', c.fix))
        from notifier.check_event(_d) c), '[]');
    exception when others then
      _found := _found || jsonb_build_object('severity', 'warning', 'event', _d.name,
        'problem', format('it could not be looked at: %s (%s)', sqlerrm, sqlstate), 'fix', 'Look again.');
    end;
  end loop;

  foreach _part in array array['triggers', 'faults', 'service', 'roles'] loop
    begin
      execute format('select coalesce(jsonb_agg(to_jsonb(c)), ''[]'') from notifier.check_%s() c', _part) into _more;
      _found := _found || _more;
    exception when others then
      _found := _found || jsonb_build_object('severity', 'warning', 'event', null,
        'problem', format('the %s could not be looked at: %s (%s)', _part, sqlerrm, sqlstate), 'fix', 'Look again.');
    end;
  end loop;

  return query
  select c.severity, c.event, c.problem, c.fix
  from jsonb_to_recordset(_found) as c(severity text, event text, problem text, fix text)
  order by array_position(array['error', 'warning', 'note'], c.severity), c.event collate "C" nulls first, c.problem collate "C";
end
$$;
