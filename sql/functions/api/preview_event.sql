-- notifier.preview_event: run an event's very query on rows that are there, and see who would be told what. Whatever it does is undone.
--   name      of the event or timer
--   rows      which rows of the source would be written: a condition, as after `where`; of these the first 1,000 are tried
--   old       what those rows were before, as far as it differs from what they are: {"status": "booked"}
--   new       what they would be after, as far as it differs: {"status": "declined"}. Without either nothing has changed, and for
--             'insert or update' the rows are new
--   returns   a row for each notification; of a timer also when it would be told, which may be past or too late by now
--   raises    42704 when there is no such event, 22023 for an `old` or `new` that does not fit, and what Postgres says of the query
-- Used by: DBAs.
create or replace function notifier.preview_event(name text, rows text default 'true', old jsonb default null, new jsonb default null)
returns table (user_id text, level text, message text, data jsonb, due_at timestamptz)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
-- As notifier.function_settings: the zone is set below, and ends with this function.
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = postgres
set bytea_output = hex
set extra_float_digits = 1
set row_security = off
set jit = off
set lock_timeout = '1s' as $$
#variable_conflict use_variable
declare
  _d         notifier.definition := notifier.existing(preview_event.name);
  _operation text;
  _unknown   text;
  _side      text;
  _change    jsonb;
  _rows      text;
  _texts     text[];
  _dues      timestamptz[];
  _due       timestamptz;
  _answers   refcursor;
  _users     text[];
  _messages  text[];
  _data      jsonb[];
  _result    jsonb := '[]';
begin
  perform set_config('timezone', (select s.value from notifier.setting s where s.name = 'timezone'), true);
  _operation := case when _d.kind = 'timer' then 'timer'
    when _d.operation <> 'insert or update' then _d.operation
    when preview_event.old is null and preview_event.new is null then 'insert' else 'update' end;
  for _side, _change in select * from (values ('old', preview_event.old), ('new', preview_event.new)) c(side, change) where change is not null loop
    if _operation <> 'update' and (_side = 'old' or _operation = 'delete') then
      raise exception '`%` is given, and % like % has no % row', _side,
        case _operation when 'timer' then 'a timer' when 'insert' then 'an insert event' else 'a delete event' end, _d.name, _side
        using errcode = 'invalid_parameter_value', hint = 'Leave it out.';
    end if;
    if jsonb_typeof(_change) <> 'object' then
      raise exception '`%` is a JSON %', _side, jsonb_typeof(_change) using errcode = 'invalid_parameter_value',
        hint = 'Give an object of the columns that are different: {"status": "booked"}';
    end if;
    select k into _unknown from jsonb_object_keys(_change) k
    where not exists (select from pg_catalog.pg_attribute a
                      where a.attrelid = _d.source and a.attname = k and a.attnum > 0 and not a.attisdropped)
    limit 1;
    if _unknown is not null then
      raise exception '`%` names %, which is no column of %', _side, _unknown, _d.source using errcode = 'undefined_column',
        hint = (select coalesce('Perhaps you meant ' || notifier.nearest(_unknown, array_agg(a.attname::text)) || '. ', '')
                  || format('It has: %s.', string_agg(a.attname, ', ' order by a.attnum)) from pg_catalog.pg_attribute a
                where a.attrelid = _d.source and a.attnum > 0 and not a.attisdropped);
    end if;
  end loop;

  _rows := format(E'"notifier rows" as materialized (select "notifier row" from %s as "notifier row" where (\n%s\n) limit 1000)',
    _d.source, coalesce(preview_event.rows, 'true'));
  begin
    begin
      -- A cursor takes one statement and no more.
      open _answers for execute format('with %s select from "notifier rows"', _rows);
      fetch _answers into _unknown;
      close _answers;
    exception when others then
      raise exception '`rows` is no condition over %: %', _d.source, sqlerrm using errcode = 'syntax_error',
        hint = 'Write what would stand after `where`: rows => ''id = 42''';
    end;
    if _d.kind = 'timer' then
      execute format(E'with %s, due as (%s)\n'
        'select array(select d.due from (select distinct (%s) as due from due) d where isfinite(d.due) order by d.due)', _rows, notifier.changed_rows(preview_event.new), _d.due)
      into _dues;
      foreach _due in array _dues loop
        _texts := _texts || notifier.told_select(format(
          '%s, due as (select * from (%s) s where (%s) = %L::timestamptz)', _rows, notifier.changed_rows(preview_event.new), _d.due, _due), '', _d);
      end loop;
    else
      _texts := array[notifier.told_select(concat_ws(', ', _rows,
        case when _operation <> 'delete' then format('new as (%s)', notifier.changed_rows(preview_event.new)) end,
        case when _operation <> 'insert' then format('old as (%s)', notifier.changed_rows(preview_event.old)) end,
        nullif(notifier.change_tables(_operation, _d.operation), '')), '', _d)];
    end if;
    for _i in 1 .. coalesce(cardinality(_texts), 0) loop
      execute _texts[_i] into _users, _messages, _data;
      for _n in 1 .. coalesce(cardinality(_users), 0) loop
        continue when octet_length(_users[_n]) not between 1 and 255;
        _result := _result || jsonb_build_object('user_id', _users[_n], 'level', _d.level, 'message', _messages[_n], 'data', _data[_n],
          'due_at', _dues[_i]);
      end loop;
    end loop;
    raise exception using errcode = 'NTF00';
  exception when sqlstate 'NTF00' then
    null;   -- undone
  end;
  return query
    select r.user_id, r.level, r.message, r.data, r.due_at
    from jsonb_to_recordset(_result) as r(user_id text, level text, message text, data jsonb, due_at timestamptz);
end
$$;
