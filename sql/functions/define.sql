-- notifier.define: check a definition, keep it, generate its functions and install its triggers: all or nothing.
--   _d        the definition; columns, version and defined_* are filled in here
--   returns   what was done, a line each
--   raises    22023 for a wrong name, level, operation or source, 42703 for a missing user_id or an unknown placeholder, and
--             what notifier.probe and notifier.install_trigger raise
-- Used by: notifier.define_event, notifier.define_timer.
create or replace function notifier.define(_d notifier.definition) returns setof text
language plpgsql as $$
declare
  _source    pg_catalog.pg_class;
  _before    notifier.definition;
  _probe     text;
  _operation text;
  _changed   boolean;
begin
  -- One definition at a time: two on one table would meet as "tuple concurrently updated".
  perform pg_advisory_xact_lock(7809647138214477428);

  if _d.name is null or _d.name !~ '^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$' or octet_length(_d.name) > 100 then
    raise exception '% is no name for an event', coalesce(quote_literal(_d.name), 'null') using errcode = 'invalid_parameter_value',
      hint = 'Write lower-case words with dots, at most 100 bytes: booking.declined';
  end if;
  if _d.operation is null or _d.operation not in ('insert', 'update', 'delete', 'insert or update') then
    raise exception 'event %: operation % is not known', _d.name, coalesce(quote_literal(_d.operation), 'null')
      using errcode = 'invalid_parameter_value', hint = 'Write one of: insert, update, delete, insert or update.';
  end if;
  if coalesce(_d.message, '') = '' or coalesce(_d.query, '') = '' then
    raise exception 'event %: message and query must be given', _d.name using errcode = 'invalid_parameter_value',
      hint = 'The message is what the user is to read, the query says who.';
  end if;

  select c.* into _source from pg_catalog.pg_class c where c.oid = _d.source;
  if not found then
    raise exception 'event %: the source table does not exist', _d.name using errcode = 'undefined_table',
      hint = 'Write it with its schema: public.booking';
  elsif _source.relkind not in ('r', 'p') or _source.relpersistence = 't'
    or _source.relnamespace in ('notifier'::regnamespace, 'pg_catalog'::regnamespace) then
    raise exception 'event %: % is no table of an application', _d.name, _d.source
      using errcode = 'wrong_object_type',
            hint = 'A source is an ordinary or partitioned table: views, foreign and temporary tables fire no trigger of ours.';
  end if;
  _d.source_name := _d.source::text;
  _d.query := rtrim(_d.query, E' \t\r\n;');

  if _d.kind = 'timer' then
    if notifier.key_text(_d.source, 'list') is null then
      raise exception 'timer %: % has no primary key', _d.name, _d.source using errcode = 'invalid_table_definition',
        hint = format('A timer reads its row again when it fires. Add one: alter table %s add primary key (...);', _d.source);
    end if;
    perform notifier.probe_instant(_d.name, 'due', _d.source, _d.due);
    perform notifier.probe_instant(_d.name, 'until', _d.source, _d.until);
    _probe := format('due as (select * from %s)', _d.source);
    _d.columns := notifier.probe('the query of timer ' || _d.name, _probe, _d.query);
  else
    foreach _operation in array string_to_array(_d.operation, ' or ') loop
      _probe := concat_ws(', ',
        case when _operation <> 'delete' then format('new as (select * from %s)', _d.source) end,
        case when _operation <> 'insert' then format('old as (select * from %s)', _d.source) end,
        nullif(notifier.change_tables(_operation, _d.operation), ''));
      _d.columns := notifier.probe('the query of event ' || _d.name, _probe, _d.query);
    end loop;
  end if;

  if not exists (select from jsonb_array_elements(_d.columns) c where c ->> 'name' = 'user_id') then
    raise exception 'the query of event % has no column user_id', _d.name using errcode = 'undefined_column',
      detail = format('It has: %s.', (select string_agg(c ->> 'name', ', ') from jsonb_array_elements(_d.columns) c)),
      hint = 'user_id says who is told: select owner_id as user_id, ...';
  end if;
  -- The statement as it will be run, with the message: a format that does not fit its column is found here.
  perform notifier.probe('the message or the query of event ' || _d.name, _probe, notifier.told_select('', '', _d));

  select d.* into _before from notifier.definition d where d.name = _d.name;
  _changed := (_before.kind, _before.source, _before.operation, _before.level, _before.message, _before.query, _before.due, _before.until)
    is distinct from (_d.kind, _d.source, _d.operation, _d.level, _d.message, _d.query, _d.due, _d.until);
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
      insert into notifier.backfill (event) values (_d.name)
      on conflict (event) do update set pass = 1, after_key = null, barrier = null, not_before = '-infinity';
      return next format('%s: rows that are there are armed by the service, the next 24 hours first', _d.name);
    end if;
  elsif _before.kind = 'timer' then
    delete from notifier.timer t where t.event = _d.name;
    delete from notifier.backfill b where b.event = _d.name;
  end if;
end
$$;
