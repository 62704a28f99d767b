-- notifier.confirm: note when notifications reached a socket of their user. Rows are locked in one order and held ones are
-- left out: two devices that confirm the same rows in opposite order would deadlock.
--   _ids, _slots, _created   the notifications: an id may have come back as another row's after a crash, and the time in
--                  microseconds since 1970 when it was created tells
--   returns        how many were undelivered until now, and the ids of those that somebody holds, to be noted later
-- Used by: the confirmations (src/confirmations.rs).
create or replace function notifier.confirm(_ids bigint[], _slots smallint[], _created bigint[])
returns table (confirmed bigint, held bigint[])
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
  with undelivered as (
    select n.id, n.slot
    from unnest(confirm._ids, confirm._slots, confirm._created) as k(id, slot, created)
    join notifier.notification n on n.id = k.id and n.slot = k.slot
      and n.created_at = timestamptz 'epoch' + k.created * interval '1 microsecond'
    where n.delivered_at is null
  ), locked as (
    select n.id, n.slot
    from undelivered u
    join notifier.notification n on n.id = u.id and n.slot = u.slot
    where n.delivered_at is null
    order by n.id
    for update of n skip locked
  ), noted as (
    update notifier.notification n set delivered_at = clock_timestamp()
    from locked l where n.id = l.id and n.slot = l.slot
    returning n.id
  )
  select (select count(*) from noted),
         array(select u.id from undelivered u where not exists (select from locked l where l.id = u.id));
end;
