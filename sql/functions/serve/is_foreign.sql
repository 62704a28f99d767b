-- notifier.is_foreign: whether the transactions that our rows name may be another cluster's, or of a later state than this one: until a new
-- epoch begins. (Of the reasons for one these two: in another database of the same cluster they are its own.)
--   returns   whether they may
-- Used by: notifier.unfold, notifier.work.
create or replace function notifier.is_foreign() returns boolean
language plpgsql volatile   -- a snapshot of its own
set search_path = pg_catalog, pg_temp as $$
begin
  return (select e.system_identifier <> (select c.system_identifier from pg_control_system() c)
      or pg_snapshot_xmax(p.position) > pg_snapshot_xmax(pg_current_snapshot())
    from notifier.progress p
    cross join (select * from notifier.epoch order by number desc limit 1) e);
end
$$;
