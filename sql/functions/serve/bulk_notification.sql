-- notifier.bulk_notification: what lies in notifier.bulk, as the rows of notifier.notification that will be made of it. A notification
-- is in one of the two in every snapshot, under the same id and with the transaction that told it. So who reads both in one
-- statement reads it once, and need not know which.
-- Used by: notifier.in_bulk.
create or replace view notifier.bulk_notification as
select unnest(b.ids) as id, b.slot, b.xid, unnest(b.users) as user_id, b.event, b.level, unnest(b.messages) as message,
       unnest(b.data) as data, b.created_at, b.until, null::timestamptz as delivered_at, null::timestamptz as summarized_at,
       null::timestamptz as read_at
from notifier.bulk b;
