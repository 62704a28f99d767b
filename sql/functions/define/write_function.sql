-- notifier.write_function: generate the trigger function that holds all events and timers of one table and operation, but those
-- that are paused. Replacing it takes no lock on the table. plpgsql binds late, so the application's later ALTER TABLE is never refused.
--   _source      the table
--   _operation   insert, update or delete
--   returns      the function's name; null when the table is gone
-- Used by: notifier.define, notifier.drop_event, notifier.pause, notifier.resume_event, notifier.regenerate.
create or replace function notifier.write_function(_source regclass, _operation text) returns text
language plpgsql
-- What does not compile is refused here, however the DBA's session is set, and not at the application's next write.
set check_function_bodies = on as $$
declare
  _name     text := 'notifier.on_write_' || notifier.function_number('write', write_function._source, write_function._operation);
  _rows     text := case write_function._operation when 'delete' then 'old' else 'new' end;
  _into     constant text := E'\n    into _users, _messages, _data';
  -- Nothing is called by it, but all that is called below the block has to exist, or this is a fault.
  _whole    constant text := '(true or notifier.whole())';
  _parts    text[] := '{}';
  _matches  text[] := '{}';   -- of each part, whether it has anything to do
  _matches1 text[] := '{}';   -- the same where one row was updated: then there is nothing to pair
  _tables   text;
  _single   text;
  _part     text;
  _several  boolean;
  _all      notifier.definition[];
  _d        notifier.definition;
begin
  if not exists (select from pg_catalog.pg_class c where c.oid = write_function._source) then
    return null;
  end if;
  _all := array(
    select d from notifier.definition d
    where d.source = write_function._source and d.paused_at is null
      and write_function._operation = any (string_to_array(d.operation, ' or '))
      -- Without a primary key, which it had when it was defined, a timer's rows could not be found again.
      and (d.kind = 'write' or notifier.key_text(d.source, 'list') is not null)
    order by d.name);
  _several := cardinality(_all) > 1;

  -- (Each expression of PL/pgSQL is set up anew in each transaction, which costs more than to evaluate it: there are few.)
  foreach _d in array _all loop
    if _d.kind = 'write' then
      _tables := notifier.change_tables(write_function._operation, _d.operation);
      _single := notifier.change_tables(write_function._operation, _d.operation, true);
      _matches := _matches || notifier.match_expression(_tables, _d.query);
      _matches1 := _matches1 || notifier.match_expression(_single, _d.query);
      -- One written row nearly always tells one user or none: of that one row is asked, which is nulls for none, since it is what is
      -- quickest to set up. Where it tells more, which is TOO_MANY_ROWS, the query is asked once more, as of several.
      _part := format($part$
      if _rows = 1 and %1$s then
        select t.* into strict _user, _message, _datum from (select) one left join (
%2$s
        ) t on true;
      elsif _rows <= 32 then
%3$s;
      else
        execute %4$L into _users, _messages, _data;
      end if;
$part$, _whole, notifier.told_rows(_single, _d), notifier.told_select(_tables, _into, _d), notifier.told_select(_tables, '', _d));
    else
      -- A timer is armed by a write that makes or moves its due time, by one that puts off an `until` that was past, and by any
      -- write between `due` and `until`: the row may begin to qualify only now.
      _tables := case write_function._operation
        when 'insert' then format($timer$
      select s.key, s.due
      from (select %1$s as key, (%2$s) as due, (%3$s) as until from new s) s
      where isfinite(s.due) and coalesce(s.until, 'infinity') > clock_timestamp()
$timer$, notifier.key_text(_d.source, 'array'), _d.due, _d.until)
        else format($timer$
      select s.key, s.due
      from (select %1$s as key, (%2$s) as due, (%3$s) as until, row_number() over () as "position" from new s) s
      join (select %1$s as key, (%2$s) as due, (%3$s) as until, row_number() over () as "position" from old s) was
        on s."position" = was."position"
      where isfinite(s.due) and coalesce(s.until, 'infinity') > clock_timestamp()
        and (s.due <= clock_timestamp() or (s.due, s.key) is distinct from (was.due, was.key) or was.until <= clock_timestamp())
$timer$, notifier.key_text(_d.source, 'array'), _d.due, _d.until) end;
      _matches := _matches || format('exists (%s)', _tables);
      _matches1 := _matches1 || format('exists (%s)', _tables);
      _part := format($part$
      if _rows <= 32 and %3$s then
        select array_agg(t.key), array_agg(t.due) into _keys, _dues from (%1$s) t;
      else
        execute %2$L into _keys, _dues;
      end if;
$part$, _tables, format('select array_agg(t.key), array_agg(t.due) from (%s) t', _tables), _whole);
    end if;

    -- The block only reads: an insert inside it would spend a subtransaction id for each statement.
    _parts := _parts || format($part$
  -- %1$s
%2$s  _at := clock_timestamp() + interval '100 ms';
  loop
    begin%3$s
      exit;
    exception when serialization_failure or deadlock_detected then raise;
    when others or assert_failure then
      _user := null;
      _message := null;
      _users := null;
      _keys := null;
      if sqlstate = 'P0003' and _rows = 1 then
        _rows := 2;   -- to be asked as of several
      else
        _at := 'infinity';
        if sqlstate = '55P03' and _waited is not true then
          _waited := set_config('notifier.waited', 'once', true) <> set_config('lock_timeout', '1ms', true);
        end if;
        begin
          perform notifier.keep_fault(%1$L, sqlstate, sqlerrm, %4$L);
        exception when others then null;
        end;
        exit;
      end if;
    end;
  end loop;
  -- Most writes tell nobody, and quickly: that is one question.
  if %5$s or clock_timestamp() > _at then%6$s
      if clock_timestamp() > _at + (case when _rows <= 32 then interval '0' else interval '4.9 s' end) then
        perform notifier.keep_fault(%1$L, 'NTF01', case when _rows <= 32 then 'its query took more than 100 ms for up to 32 rows'
                                                 else 'its query took more than 5 s for more than 32 rows' end);
      end if;%7$s
    end if;%8$s
  end if;
%9$s$part$, _d.name,
      case when _several then format($match$  if _match is null or _match[%s] then
  if _unlimited then   -- by what the part before has written
    _user := null;
    _message := null;
    _users := null;
    _waited := coalesce(current_setting('notifier.waited', true), '') <> '';
    _unlimited := set_config('lock_timeout', case when _waited then '1ms' else '50ms' end, true) is null;
  end if;
$match$, cardinality(_matches)) end,
      _part, _d.kind = 'timer',
      case _d.kind when 'write' then '_message is not null or _users is not null' else '_keys is not null' end,
      case _d.kind when 'write' then format($one$
    -- Most of the others tell one user, of one row.
    if (case when _user <> '' and octet_length(_user) < 256 and clock_timestamp() <= _at and _waited is not true
             then notifier.record_one(%L, %L, _user, _message, _datum) end) is null
    then$one$, _d.event, _d.level) else $slow$
    if clock_timestamp() > _at then$slow$ end,
      case _d.kind when 'write' then format($several$
      if _message is not null then
        _users := array[_user];
        _messages := array[_message];
        _data := array[_datum];
      end if;
      if exists (select from (select unnest(_users) as u) n where coalesce(octet_length(n.u), 0) not between 1 and 255) then
        select * into _users, _messages, _data from notifier.refuse(%L, _users, _messages, _data);
      end if;
      if _users is not null then
        perform notifier.record(%L, %L, _users, _messages, _data);
      end if;$several$, _d.name, _d.event, _d.level) end,
      concat(case _d.kind when 'timer' then format($arm$
    if _keys is not null then
      perform notifier.arm(%L, _keys, _dues);
    end if;$arm$, _d.name) end, case when _several then E'\n    _unlimited := true;' end),
      case when _several then E'  end if;\n' end);
  end loop;

  execute format($function$create or replace function %1$s() returns trigger
%2$s
as %3$L$function$, _name, notifier.function_settings('50ms'),
    case when _parts = '{}' then E'\nbegin\n  return null;\nend\n' else format($body$
#variable_conflict use_column
declare
  _rows     bigint;
  _match    boolean[];
  _at       timestamptz;   -- from when on the query is slow
  _waited   boolean;
  _stack    text;
  _unlimited boolean;   -- whether lock_timeout is 0
  _user     text;          -- what is told of one row to one user
  _message  text;
  _datum    jsonb;
  _users    text[];        -- what is told of several, or to several
  _messages text[];
  _data     jsonb[];
  _keys     jsonb[];
  _dues     timestamptz[];
begin
  -- What is rarely so is asked in one expression. (After `set local` has ended the settings are '', which is no boolean.)
  if current_setting('notifier.mute', true) <> '' or current_setting('notifier.waited', true) <> '' or pg_trigger_depth() > 1
  then
    if current_setting('notifier.mute', true) in ('on', 'true', '1') then
      return null;
    end if;
    -- A lock that somebody holds on what a query reads, or on a table of ours, costs a transaction one wait.
    _waited := coalesce(current_setting('notifier.waited', true), '') <> '';
    if _waited then
      perform set_config('lock_timeout', '1ms', true);
    end if;
    -- A query that comes here by what it calls would come here for ever. (What is written because of our own rows is not told
    -- either.)
    if pg_trigger_depth() > 1 then
      get diagnostics _stack = pg_context;
      if _stack ~ '\mnotifier\.record(_one)?\(' then
        return null;
      elsif _stack ~ '\mnotifier\.on_write_.*\mnotifier\.on_write_' then
        raise exception 'its query writes to %% by a function that it calls', tg_relid::regclass using errcode = 'NTF02';
      end if;
    end if;
  end if;
  -- (To count them in an expression would take twice as long.)
  perform from %1$s limit 33;
  get diagnostics _rows = row_count;
  if not found then
    return null;
  end if;
%2$s
%3$s
  return null;
end
$body$, _rows,
    case when _several then
      -- Most writes match nothing: of several events that is asked in one statement. Whether it failed or was slow is then asked
      -- of each by itself. Plans over transition tables keep the size of the first statement, so large ones are planned afresh.
      format($match$
  begin
    _at := clock_timestamp() + interval '100 ms';
    if _rows = 1 then
      _match := array[%2$s];
    elsif _rows <= 32 then
      _match := array[%1$s];
    end if;
  exception when serialization_failure or deadlock_detected then raise;
  when others or assert_failure then
    _match := null;
    if sqlstate = '55P03' and _waited is not true then
      _waited := set_config('notifier.waited', 'once', true) <> set_config('lock_timeout', '1ms', true);
    end if;
  end;
  if clock_timestamp() > _at then
    _match := null;
  elsif not true = any (_match) then
    return null;
  end if;$match$, array_to_string(_matches, ','), array_to_string(_matches1, ',')) end,
    array_to_string(_parts, '')) end);
  execute format('revoke all on function %s() from public', _name);
  return _name;
end
$$;
