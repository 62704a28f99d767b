-- notifier.define: check a definition, keep it, generate its functions and install its triggers: all or nothing.
--   _d        the definition; columns, version and defined_* are filled in here
--   returns   what was done, a line each
--   raises    25001 above read committed; what the checks, notifier.probe, notifier.message_expression and notifier.install_trigger raise
-- Used by: notifier.define_event, notifier.define_timer.
create or replace function notifier.define(_d notifier.definition) returns setof text
language plpgsql as $$
declare
  _before    notifier.definition;
  _probe     text;
  _operation text;
  _changed   boolean;
begin
  perform notifier.lock_definitions();
  perform notifier.adopt();

  perform notifier.verify_words(_d);
  perform notifier.verify_source(_d);
  _d.source_name := _d.source::text;
  _d.query := rtrim(_d.query, E' \t\r\n;');

  if _d.kind = 'timer' then
    perform notifier.probe_instant(_d, 'due', _d.due);
    perform notifier.probe_instant(_d, 'until', _d.until);
    _probe := notifier.probe_tables(_d, 'timer');
    select p.columns into _d.columns from notifier.probe(_d, 'the query', _probe, _d.query) p;
  else
    foreach _operation in array string_to_array(_d.operation, ' or ') loop
      _probe := notifier.probe_tables(_d, _operation);
      select p.columns into _d.columns from notifier.probe(_d, 'the query', _probe, _d.query) p;
    end loop;
  end if;
  perform notifier.verify_columns(_d);
  perform notifier.verify_formats(_d);
  -- The statement as it will be run, with the message.
  perform notifier.probe(_d, 'the message or the query', _probe, notifier.told_select('', '', _d));

  select d.* into _before from notifier.definition d where d.name = _d.name;
  _changed := (_before.event, _before.kind, _before.source, _before.operation, _before.level, _before.message, _before.query, _before.due, _before.until)
    is distinct from (_d.event, _d.kind, _d.source, _d.operation, _d.level, _d.message, _d.query, _d.due, _d.until);
  _d.version := 1 + greatest(coalesce(_before.version, 0),
    coalesce((select max(h.version) from notifier.event_history h where h.name = _d.name), 0));
  _d.defined_at := clock_timestamp();
  _d.defined_by := session_user;
  _d.paused_at := _before.paused_at;
  _d.paused_by := _before.paused_by;
  _d.paused_because := _before.paused_because;

  if _before.name is null then
    insert into notifier.definition select (_d).*;
    return next format('%s defined', _d.name);
  elsif _changed then
    insert into notifier.event_history (name, version, definition) values (_before.name, _before.version, to_jsonb(_before));
    delete from notifier.definition d where d.name = _d.name;
    insert into notifier.definition select (_d).*;
    if (_d.kind, _d.source) is distinct from (_before.kind, _before.source) then   -- another table may have other keys
      delete from notifier.timer t where t.event = _d.name;
      delete from notifier.backfill b where b.event = _d.name;
    end if;
    -- What it no longer listens to forgets it.
    perform notifier.write_function(_before.source, o.operation)
    from unnest(string_to_array(_before.operation, ' or ')) as o(operation);
    return next format('%s replaced (version %s)', _d.name, _d.version);
  else
    -- What `select *` stands for may have changed all the same.
    update notifier.definition d set columns = _d.columns, source_name = _d.source_name where d.name = _d.name;
    return next format('%s unchanged', _d.name);
  end if;

  foreach _operation in array string_to_array(_d.operation, ' or ') loop
    return query select * from notifier.install_trigger(_d.source, _operation, notifier.write_function(_d.source, _operation));
  end loop;

  if _d.paused_at is not null then
    return next format('%s is paused: notifier.resume_event(%L) ends it', _d.name, _d.name);
  end if;
  if _d.kind = 'timer' then
    perform notifier.timer_functions(_d);
    if _changed then
      return next notifier.arm_existing(_d.name);
    end if;
  end if;

  return query select 'warning: ' || w from notifier.warnings(_d) w;
end
$$;
