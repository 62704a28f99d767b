-- notifier.fault: which events failed, how, since when and how often. Writers only ever add a row to notifier.fault_record, since a
-- counter would be a row that two of them update; the service counts the rows into notifier.fault_total when they are many.
create or replace view notifier.fault as
select f.event, f.sqlstate, f.message, min(f.first_seen) as first_seen, max(f.last_seen) as last_seen, sum(f.count)::bigint as count
from (
  select r.event, r.sqlstate, r.message, r.recorded_at as first_seen, r.recorded_at as last_seen, 1 as count
  from notifier.fault_record r
  union all
  select t.event, t.sqlstate, t.message, t.first_seen, t.last_seen, t.count from notifier.fault_total t
) f
group by f.event, f.sqlstate, f.message;
