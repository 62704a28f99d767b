-- notifier.bulk_parts: whose notifications lie where in what notifier.in_bulk returned, so that it is gone through once and not for each
-- socket.
--   _bulk     what it returned
--   returns   a row for each user: the first and the last place
-- Used by: notifier.opened, notifier.missed, notifier.unread.
create or replace function notifier.bulk_parts(_bulk notifier.notification[]) returns table (user_id text, first bigint, last bigint)
language sql stable
begin atomic
  select b.user_id, min(b.nth), max(b.nth)
  from unnest(bulk_parts._bulk) with ordinality
    as b(id, slot, xid, user_id, event, level, message, data, created_at, until, delivered_at, summarized_at, read_at, nth)
  group by b.user_id;
end;
