-- notifier.stream: notifier.read_on as an instance of the release before this asks for it while it is being replaced.
--   _after    a position, or null
--   _columns  whether notifications are wanted as columns, or each as the JSON of notifier.payload in `notification`
--   returns   first a row with the new position and what notifier.read_on tells besides; then a row for each notification
-- Used by: the listener of the release before.
create or replace function notifier.stream(_after pg_snapshot, _columns boolean default false)
returns table ("position" text, work double precision, epoch text, noted text, channel text, notification text,
               queue double precision, faults bigint, now double precision,
               id bigint, slot smallint, xid xid8, user_id text, event text, level text, message text, data jsonb,
               created_at timestamptz)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
  return query
    select r.position, r.work, r.epoch, r.noted, r.channel,
           case when not stream._columns and n.id is not null then notifier.payload(row(n.id, r.slot, r.xid, n.user_id, r.event,
             r.level, n.message, n.data, r.created_at, null, null, null, null)::notifier.notification) end,
           r.queue, r.faults, r.now,
           n.id, r.slot, r.xid, n.user_id, r.event, r.level, n.message, n.data, r.created_at
    from notifier.read_on(stream._after) r
    left join lateral (
      select coalesce(r.id, u.id) as id, coalesce(r.user_id, u.user_id) as user_id, coalesce(r.message, u.message) as message,
             coalesce(r.data, u.data) as data
      from (select unnest(coalesce(r.ids, array[r.id])) as id, unnest(r.users) as user_id, unnest(r.messages) as message,
                   unnest(r.datas) as data) u
    ) n on r.position is null;
end
$$;
