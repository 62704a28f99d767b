-- notifier.check_event: what is wrong with one event or timer, but for its triggers and faults.
--   _d        the event
--   returns   see notifier.check
-- Used by: notifier.check.
create or replace function notifier.check_event(_d notifier.definition) returns table (severity text, problem text, fix text)
language plpgsql as $$
declare
  -- Of a paused event nobody is told anyway.
  _error     constant text := case when _d.paused_at is null then 'error' else 'warning' end;
  _source    constant text := notifier.source_now(_d);
  _number    integer;
  _part      text;
  _tables    text;
begin
  if _d.paused_at is not null then
    return query select
      case when _d.paused_by = 'notifier' then 'warning' else 'note' end,
      format('paused by %s at %s%s', case when _d.paused_by = 'notifier' then 'the service' else _d.paused_by end,
             date_trunc('second', _d.paused_at), case when _d.paused_because <> '' then ': ' || _d.paused_because end),
      format('select notifier.resume_event(%L);', _d.name);
  end if;

  if not exists (select from pg_catalog.pg_class c where c.oid = _d.source) then
    if _source is null then
      return query select _error, format('its table %s was dropped', _d.source_name), format('select notifier.drop_event(%L);', _d.name);
    else
      return query select _error, format('its table %s was dropped, and another one has that name', _d.source_name),
        notifier.define_statement(_d, _source);
    end if;
    return;
  end if;
  if _source <> _d.source_name and exists (
    select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where format('%I.%I', n.nspname, c.relname) = _d.source_name and c.relkind in ('r', 'p')
  ) then
    return query select _error,
      format('it is on %s, which was called %s when it was defined; another table has that name now', _source, _d.source_name),
      notifier.define_statement(_d, _d.source_name);
  end if;

  if _d.kind = 'timer' then
    if notifier.key_text(_d.source, 'list') is null then
      return query select _error, format('its table %s has no primary key any more, by which a timer finds its rows', _source),
        format('alter table %s add primary key (...);', _source);
    end if;
    select g.id into _number from notifier.generated g where g.event = _d.name;
    if to_regprocedure(format('notifier.fire_%s()', _number)) is null
       or to_regprocedure(format('notifier.backfill_%s(jsonb, boolean)', _number)) is null then
      return query select _error, 'the functions that fire it are missing', 'parkmate-notifier migrate';
    end if;
  end if;

  return query select 'warning', s, coalesce(substring(s from 'create index.*;'), 'Join it to what changed by an indexed column.')
  from notifier.scans(_d) s;
  return query select 'warning', 'an application that asks lastval() after it was told of is refused', s.sequences
  from (select notifier.unread_sequences(_d.source) as sequences) s where s.sequences is not null;

  foreach _part in array case _d.kind when 'timer' then '{due,until,query}'::text[] else string_to_array(_d.operation, ' or ') end loop
    -- What is run, planned and not run. The locks that planning takes go with the block.
    begin
      if _part in ('due', 'until') then
        -- What a range contains is asked with its very type.
        execute format(E'explain (costs off) select tstzrange(null, null) @> (\n%s\n) from %s s',
          case _part when 'due' then _d.due else _d.until end, _d.source);
      else
        _tables := notifier.probe_tables(_d, _part);
        execute 'explain (costs off) ' || notifier.told_select(_tables, '', _d);
      end if;
      raise exception using errcode = 'NTF00';
    exception
      when sqlstate 'NTF00' then
        null;
      when lock_not_available then
        -- The other events will not wait for it again.
        perform set_config('lock_timeout', '1ms', true);
        return query select 'note', 'it could not be looked at: somebody holds a lock on a table that it reads', 'Look again.';
        return;
      when others then
        return query select _error, r.problem, r.fix from notifier.refusal(_d, _part, _tables, sqlerrm) r;
        return;
    end;
  end loop;
end
$$;
