-- notifier.write_function: generate the trigger function that holds all events and timers of one table and operation.
-- Replacing it takes no lock on the table. plpgsql binds late, so the application's later ALTER TABLE is never refused.
--   _source      the table
--   _operation   insert, update or delete
--   returns      the function's name; null when the table is gone
-- Used by: notifier.define, notifier.drop_event, notifier.regenerate.
create or replace function notifier.write_function(_source regclass, _operation text) returns text
language plpgsql as $$
declare
  _name   text := 'notifier.on_write_' || notifier.function_number('write', write_function._source, write_function._operation);
  _tables text;
  _parts  text := '';
  _moved  text;
  _d      notifier.definition;
begin
  if not exists (select from pg_catalog.pg_class c where c.oid = write_function._source) then
    return null;
  end if;
  for _d in
    select d.* from notifier.definition d
    where d.source = write_function._source
      and write_function._operation = any (string_to_array(d.operation, ' or '))
    order by d.name
  loop
    if _d.kind = 'write' then
      _tables := notifier.change_tables(write_function._operation, _d.operation);
      -- The block only reads: an insert inside it would spend a subtransaction id for each statement. Plans over
      -- transition tables keep the size of the first statement, so large statements are planned afresh.
      _parts := _parts || format($part$
  -- %1$s
  begin
    _users := null;
    _refused := 0;
    if %5$s_rows <= 32 then
%2$s;
    else
      execute %3$L into _users, _messages, _data, _refused;
    end if;
  exception when serialization_failure or deadlock_detected then raise;
  when others or assert_failure then
    _users := null;
    perform notifier.keep_fault(%1$L, sqlstate, sqlerrm);
  end;
  if _refused > 0 then
    select * into _users, _messages, _data from notifier.refuse(%1$L, _refused, _users, _messages, _data);
  end if;
  if _users is not null then
    perform notifier.record(%1$L, %4$L, _users, _messages, _data);
  end if;
$part$, _d.name, notifier.told_select(_tables, E'\ninto _users, _messages, _data, _refused', _d),
        notifier.told_select(_tables, '', _d), _d.level,
        case when write_function._operation = 'update' then
          format(E'_rows = 1 then\n%s;\n    elsif ', notifier.told_select(
            notifier.change_tables('update', _d.operation, true), E'\ninto _users, _messages, _data, _refused', _d))
        end);

    elsif notifier.key_text(_d.source, 'list') is not null then
      -- (Without a primary key, which it had when it was defined, its rows could not be found again.)
      -- A timer is armed by a write that makes or moves its due time, and by any write between `due` and `until`: the row
      -- may begin to qualify only now.
      _moved := case write_function._operation
        when 'insert' then format($timer$
      select s.key, s.due
      from (select %1$s as key, (%2$s) as due, (%3$s) as until from new s) s
      where isfinite(s.due) and coalesce(s.until, 'infinity') > clock_timestamp()
$timer$, notifier.key_text(_d.source, 'array'), _d.due, _d.until)
        else format($timer$
      select s.key, s.due
      from (select %1$s as key, (%2$s) as due, (%3$s) as until, row_number() over () as "position" from new s) s
      join (select %1$s as key, (%2$s) as due, row_number() over () as "position" from old s) was
        on s."position" = was."position"
      where isfinite(s.due) and coalesce(s.until, 'infinity') > clock_timestamp()
        and (s.due <= clock_timestamp() or (s.due, s.key) is distinct from (was.due, was.key))
$timer$, notifier.key_text(_d.source, 'array'), _d.due, _d.until) end;
      _parts := _parts || format($part$
  -- %1$s
  begin
    _keys := null;
    if _rows <= 32 then
      select array_agg(t.key), array_agg(t.due) into _keys, _dues from (%2$s) t;
    else
      execute %3$L into _keys, _dues;
    end if;
  exception when serialization_failure or deadlock_detected then raise;
  when others or assert_failure then
    _keys := null;
    perform notifier.keep_fault(%1$L, sqlstate, sqlerrm, true);
  end;
  if _keys is not null then
    perform notifier.arm(%1$L, _keys, _dues);
  end if;
$part$, _d.name, _moved, format('select array_agg(t.key), array_agg(t.due) from (%s) t', _moved));
    end if;
  end loop;

  execute format($function$create or replace function %1$s() returns trigger
%2$s
as %3$L$function$, _name, notifier.function_settings('50ms'),
    case when _parts = '' then E'\nbegin\n  return null;\nend\n' else format($body$
#variable_conflict use_column
declare
  _rows     bigint;
  _refused  bigint;
  _users    text[];
  _messages text[];
  _data     jsonb[];
  _keys     jsonb[];
  _dues     timestamptz[];
begin
  if notifier.muted() then
    return null;
  end if;
  _rows := (select count(*) from (select from %1$s limit 33) r);
  if _rows = 0 then
    return null;
  end if;
%2$s
  return null;
end
$body$, case write_function._operation when 'delete' then 'old' else 'new' end, _parts) end);
  execute format('revoke all on function %s() from public', _name);
  return _name;
end
$$;
