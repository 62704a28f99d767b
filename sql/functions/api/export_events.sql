-- notifier.export_events: one script that defines all events and timers as they are, in one transaction: to keep under version
-- control, and to take to another database. Run again where they are, it changes nothing.
--   returns   the script, for `psql -Atc 'select notifier.export_events()' > events.sql`. An event whose table is gone stands in
--             it as a comment, so that it does not keep out the others
-- Used by: DBAs.
create or replace function notifier.export_events() returns text
language sql stable security definer
set search_path = pg_catalog, pg_temp as $function$
  select E'-- The events and timers of schema notifier: all are defined, or none.\nbegin;\n'
    || coalesce(max(E'set local standard_conforming_strings = on;\n') filter (where position('\' in e.statement) > 0), '')
    || coalesce(string_agg(E'\n' || e.statement || E'\n', '' order by e.name collate "C"), '')
    || E'\ncommit;\n'
  from (
    select d.name,
      case when s.name is null
        then E'-- Not defined, because the table is gone:\n-- ' || replace(t.statement, E'\n', E'\n-- ')
        else t.statement end as statement
    from notifier.definition d
    cross join lateral notifier.source_now(d) as s(name)
    cross join lateral (
      select notifier.define_statement(d, coalesce(s.name, d.source_name))
        || case when d.paused_at is null then ''
             when d.paused_because = 'by hand' then format(E'\nselect notifier.pause_event(''%s'');', d.name)
             else format(E'\nselect notifier.pause_event(''%s'', because => ''%s'');', d.name, replace(d.paused_because, '''', '''''')) end
        as statement
    ) t
  ) e
$function$;
