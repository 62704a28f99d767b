-- notifier.bulk_notification: what lies in notifier.bulk, as the rows of notifier.notification that will be made of it. A notification
-- is in one of the two in every snapshot, under the same id and with the transaction that told it. So who reads both in one
-- statement reads it once, and need not know which. `bulk_id` is the row of notifier.bulk it lies in.
-- Used by: notifier.in_bulk, notifier.unfold, notifier.event_stats, DBAs.
create or replace view notifier.bulk_notification as
select unnest(b.ids) as id, b.slot, b.xid, unnest(b.users) as user_id, b.event, b.level, unnest(b.messages) as message,
       unnest(b.data) as data, b.created_at, b.until, b.id as bulk_id
from notifier.bulk b;
