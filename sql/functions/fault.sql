-- notifier.fault: which events failed, how, since when and how often. Counted when somebody asks: a counter would be a row
-- that two writers update.
create or replace view notifier.fault as
select event, sqlstate, message, min(recorded_at) as first_seen, max(recorded_at) as last_seen, count(*) as count
from notifier.fault_record
group by event, sqlstate, message;
