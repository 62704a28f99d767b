-- notifier.in_bulk: what users were told that is in no row yet. It lies in arrays that are gone through from end to end, some ten
-- thousand in a millisecond: for the second or so in which there are any.
--   _users    whose
--   returns   their notifications, those of a user beside each other and users with few first; null where nothing lies there at all
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
      from (
        select t.user_id, count(*) as size
        from (select unnest(b.users) as user_id from notifier.bulk b) t
        where t.user_id in (select unnest(in_bulk._users))
        group by t.user_id
      ) u
      join notifier.bulk_notification b on b.user_id = u.user_id
      order by u.size, b.user_id);
  end if;
  return null;
end
$$;
