-- notifier.inbox: a page of a user's notifications, whether told or not, newest first.
--   _user      the user
--   _before    only ids below it; null: from the newest
--   _limit     how many at most; 1 MiB of them at most, but always one
--   _unread    only those the user has not read
--   returns    notifications by id, descending, and of each until when it is of use, when it arrived, when it was read, and
--              whether there are more after it
-- Used by: GET /api/notifications (src/http/api.rs).
create or replace function notifier.inbox(_user text, _before bigint, _limit integer, _unread boolean)
returns table (id bigint, notification text, until text, delivered_at text, read_at text, more boolean)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
-- One plan for all users and pages: it walks notification_user_index of all leaves together, downwards, and stops early.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off as $$
#variable_conflict use_column
declare
  _below bigint := coalesce(inbox._before, 9223372036854775807);
  _bulk  notifier.notification[] := notifier.in_bulk(array[inbox._user]);   -- null, nearly always
  _ids   bigint[];
begin
  -- The ids alone come from the index, which holds read_at: whole rows would be fetched of every read one on the way to an
  -- unread one. Order and bounds name user_id, so that no plan walks the primary key and looks whose rows these are.
  if inbox._unread then
    _ids := array(
      select n.id from notifier.notification n
      where n.user_id >= inbox._user and (n.user_id, n.id) < (inbox._user, _below) and n.read_at is null
      order by n.user_id desc, n.id desc
      limit inbox._limit + 1);
  else
    _ids := array(
      select n.id from notifier.notification n
      where n.user_id >= inbox._user and (n.user_id, n.id) < (inbox._user, _below)
      order by n.user_id desc, n.id desc
      limit inbox._limit + 1);
  end if;
  if _bulk is not null then
    _ids := array(
      select k.id from (select unnest(_ids) as id union all select b.id from unnest(_bulk) b where b.id < _below) k
      order by k.id desc
      limit inbox._limit + 1);
    _bulk := array(select b from unnest(_bulk) b join unnest(_ids) k(id) on k.id = b.id);
  end if;

  return query
    select page.id, page.notification, page.until, page.delivered_at, page.read_at, page.below is not null
    from (
      select r.*, row_number() over newest as number, lead(r.id) over newest as below,
             sum(octet_length(r.notification)) over newest - octet_length(r.notification) as bytes_above
      from (
        select n.id, notifier.payload(n) as notification, notifier.rfc3339(n.until) as until,
               notifier.rfc3339(n.delivered_at) as delivered_at, notifier.rfc3339(n.read_at) as read_at
        from unnest(_ids) as k(id)
        -- `offset 0`: each id by itself. As a plain join it is planned as a scan of all that the user has.
        cross join lateral (
          select s.* from notifier.notification s where s.user_id = inbox._user and s.id = k.id
          union all
          select b.* from unnest(_bulk) b where b.id = k.id
          offset 0) n
      ) r
      window newest as (order by r.id desc)
    ) page
    where page.number <= inbox._limit and page.bytes_above < 1048576
    order by page.id desc;
end
$$;
