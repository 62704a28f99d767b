-- notifier.pause_event: let an event or timer rest. Writes tell nobody of it until notifier.resume_event; what was told already stays.
--   name      of the event or timer
--   because   for whoever finds it paused: shown by notifier.event and notifier.check
--   returns   what was done
--   raises    42704 when there is no such event, 25001 above read committed
-- Used by: DBAs.
create or replace function notifier.pause_event(name text, because text default 'by hand') returns setof text
language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
  _d notifier.definition;
begin
  perform notifier.lock_definitions();
  _d := notifier.existing(pause_event.name);
  if _d.paused_at is not null then
    return next format('%s was paused already, %s: %s', _d.name, to_char(_d.paused_at, 'YYYY-MM-DD HH24:MI'), _d.paused_because);
    return;
  end if;
  perform notifier.pause(_d, session_user, coalesce(pause_event.because, 'by hand'));
  return next format('%s paused; notifier.resume_event(%L) ends it', _d.name, _d.name);
end
$$;
