-- notifier.mark_read: note that a user has read notifications. Ids of others are as good as missing. Rows are locked in one
-- order and held ones are left out: two devices that mark the same rows in opposite order would deadlock.
--   _user      the user
--   _ids       these notifications; null with _before
--   _before    this one and all with smaller ids; null with _ids
--   _origin    the socket that says so, which need not be told; or null
--   returns    one row: how many are unread now (1000 stands for as many or more); the ids of those that somebody holds, to be
--              asked for again; and whether some of the oldest 5,000 were marked and there may be more, or rows have yet to be
--              made, so that the same is to be asked again at once
-- NOTIFYs {"read_by":{"user_id","ids","before","origin"}} when it changed anything. Both ids and before are null where the ids
-- are too many for NOTIFY: then any of them may have changed.
-- Used by: POST /api/notifications/read (src/http/api.rs), the session (src/session.rs).
create or replace function notifier.mark_read(_user text, _ids bigint[], _before bigint, _origin text)
returns table (unread integer, held bigint[], more boolean)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off as $$
#variable_conflict use_column
declare
  -- So many take some 0.2 s to mark; a statement has eight, and nobody should find rows held for long.
  _most    constant integer := 5000;
  _oldest  bigint;
  _found   bigint[];
  _slots   smallint[];
  _marked  text[];
  _payload text;
  _rest    boolean;   -- whether there may be what is no row yet
begin
  _rest := notifier.unfold_of(mark_read._user, mark_read._ids);
  if mark_read._before is null then
    select array_agg(n.id), array_agg(n.slot) into _found, _slots
    from (select distinct unnest(mark_read._ids) as id) k
    -- `offset 0`: each id by itself. As a plain join it is planned as a scan of all that the user has.
    cross join lateral (
      select s.id, s.slot from notifier.notification s
      where s.user_id = mark_read._user and s.id = k.id and s.read_at is null offset 0) n;
  else
    -- From the index alone, which holds read_at: rows that were read long ago are not fetched. Order and bounds name user_id,
    -- so that no plan walks the primary key and looks whose rows these are.
    select n.id into _oldest
    from notifier.notification n
    where n.user_id >= mark_read._user and (n.user_id, n.id) <= (mark_read._user, mark_read._before) and n.read_at is null
    order by n.user_id, n.id
    limit 1;
    select array_agg(n.id), array_agg(n.slot) into _found, _slots
    from (
      select s.id, s.slot from notifier.notification s
      where (s.user_id, s.id) >= (mark_read._user, _oldest) and (s.user_id, s.id) <= (mark_read._user, mark_read._before)
        and s.read_at is null
      order by s.user_id, s.id
      limit _most
    ) n;
  end if;

  with locked as (
    select n.id, n.slot
    from unnest(_found, _slots) as k(id, slot)
    join notifier.notification n on n.id = k.id and n.slot = k.slot
    where n.read_at is null
    order by n.id
    for update of n skip locked
  ), marked as (
    update notifier.notification n set read_at = clock_timestamp()
    from locked l where n.id = l.id and n.slot = l.slot
    returning n.id
  )
  select array_agg(m.id order by m.id) into _marked from marked m;

  -- A full queue would fail the commit: better marked and not told.
  if _marked is not null and pg_notification_queue_usage() < 0.25 then
    -- NOTIFY refuses 8,000 bytes: the first of the two that is smaller.
    select p.payload into _payload
    from (
      select k.ids, json_build_object('read_by', json_build_object('user_id', mark_read._user, 'ids', k.ids,
               'before', mark_read._before::text, 'origin', mark_read._origin))::text as payload
      from (values (case when mark_read._before is null then _marked end), (null)) as k(ids)
    ) p
    where octet_length(p.payload) <= 7999
    order by p.ids nulls last
    limit 1;
    -- What has NOTIFYed holds a lock of all databases while its commit waits for the disk. A mark that a crash of the server
    -- takes back is only set again.
    perform set_config('synchronous_commit', 'off', true);
    perform pg_notify(s.value, _payload) from notifier.setting s where s.name = 'channel' and _payload is not null;
  end if;

  -- A statement of its own sees what others committed meanwhile: what they marked is not held.
  return query
    select u.unread,
           array(
             select n.id
             from unnest(_found, _slots) as k(id, slot)
             join notifier.notification n on n.id = k.id and n.slot = k.slot
             where n.read_at is null
             order by n.id),
           _rest or mark_read._before is not null and _marked is not null and cardinality(_found) = _most
    from notifier.unread(array[mark_read._user]) u;
end
$$;
