-- notifier.begun_because: why a new epoch has to begin, if it has to.
--   returns   the reason in words; null while the present epoch lasts
-- Used by: notifier.identify, notifier.is_present, notifier.remember.
create or replace function notifier.begun_because() returns text
language plpgsql volatile   -- a snapshot of its own: asked again after waiting for a lock
set search_path = pg_catalog, pg_temp as $$
begin
  return (select case
    when e.system_identifier <> (select c.system_identifier from pg_control_system() c)
      or e.database <> (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
      then 'restored into another database'
    when pg_snapshot_xmax(p.position) > pg_snapshot_xmax(pg_current_snapshot()) then 'transaction ids went back'
    when i.epoch is null then 'recovered from a crash, promoted or restored'
    when i.written_by <> i.xmin::text::bigint then 'restored'
    when i.timeline <> left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) then 'another timeline'
    when i.started_at <> pg_postmaster_start_time() then 'the server was restarted'
  end
  from notifier.progress p
  cross join (select * from notifier.epoch order by number desc limit 1) e
  left join notifier.incarnation i on i.epoch = e.number);
end
$$;
