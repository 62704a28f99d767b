-- notifier.drop_event: forget an event or timer. The table's trigger stays, since only the table's owner may drop it; with no
-- event left it does nothing.
--   name      of the event or timer
--   returns   what was done, and where the trigger has no more work the line that removes it
--   raises    42704 when there is no such event, 25001 above read committed
-- Used by: DBAs.
create or replace function notifier.drop_event(name text) returns setof text
language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
  _d         notifier.definition;
  _operation text;
begin
  perform notifier.lock_definitions();
  _d := notifier.existing(drop_event.name);
  delete from notifier.definition d where d.name = _d.name;
  insert into notifier.event_history (name, version, definition) values (_d.name, _d.version, to_jsonb(_d));
  delete from notifier.timer t where t.event = _d.name;
  delete from notifier.backfill b where b.event = _d.name;
  return next format('%s dropped', _d.name);

  foreach _operation in array string_to_array(_d.operation, ' or ') loop
    perform notifier.write_function(_d.source, _operation);
    return query
      select format('its trigger has no more work; the owner of the table may remove it: drop trigger %I on %s;', t.tgname, t.tgrelid::regclass)
      from notifier.generated g
      join pg_catalog.pg_trigger t on t.tgname = format('notifier_%s_%s', g.operation, g.id) and not t.tgisinternal
      where g.source = _d.source and g.operation = _operation
        and not exists (select from notifier.definition d
                        where d.source = _d.source and _operation = any (string_to_array(d.operation, ' or ')));
  end loop;
end
$$;
