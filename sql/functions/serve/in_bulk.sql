-- notifier.in_bulk: what users were told that is in no row yet. It lies in arrays that are gone through from end to end, some ten
-- thousand in a millisecond: for the second or so in which there are any.
--   _users    whose
--   returns   their notifications, by id; null where nothing lies there at all
-- Used by: notifier.opened, notifier.missed, notifier.inbox, notifier.unread.
create or replace function notifier.in_bulk(_users text[]) returns notifier.notification[]
language plpgsql stable   -- and so it sees what the statement sees that asks
set search_path = pg_catalog, pg_temp
set jit = off as $$
begin
  if exists (select from notifier.bulk) then
    return array(
      select row(b.id, b.slot, b.xid, b.user_id, b.event, b.level, b.message, b.data, b.created_at, b.until,
        null, null, null)::notifier.notification
      from notifier.bulk_notification b
      join (select distinct unnest(in_bulk._users) as user_id) u on u.user_id = b.user_id
      order by b.id);
  end if;
  return null;
end
$$;
