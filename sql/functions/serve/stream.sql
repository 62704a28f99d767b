-- notifier.stream: what was committed since a position, each row exactly once, without waiting for anybody's transaction.
-- A row is new when its transaction was not visible in the position: it began later (xid >= xmax) or was running then (xip).
--   _after    a position, or null: just tell the present one
--   _columns  whether notifications are wanted as columns, which takes a third of the time. An instance of the release before this
--             asks without, while it is being replaced: it gets each as the JSON of notifier.payload, in `notification`
--   returns   first a row with the new position, and besides: the seconds until notifier.work has something to do, the epoch, the
--             position that was noted last, the channel's name, the part of the NOTIFY queue in use, how many faults were ever
--             kept, and the database's time in seconds since 1970; then a row for each notification, by id
-- Used by: the listener (src/listener.rs), about once a second and whenever it may have missed something.
create or replace function notifier.stream(_after pg_snapshot, _columns boolean default false)
returns table ("position" text, work double precision, epoch text, noted text, channel text, notification text,
               queue double precision, faults bigint, now double precision,
               id bigint, slot smallint, xid xid8, user_id text, event text, level text, message text, data jsonb,
               created_at timestamptz)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
-- One plan for all positions: an estimate made for one would be wrong for the next, and planning 16 leaves costs more than
-- reading them.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
-- What is new is little, however much the plan expects: to start a parallel worker takes longer than to read it.
set max_parallel_workers_per_gather = 0
set jit = off as $$
#variable_conflict use_column
declare
  _running xid8[] := array(select pg_snapshot_xip(stream._after));
begin
  -- A stable function sees one snapshot throughout: this position is that of the rows below.
  return query
    select pg_current_snapshot()::text, notifier.next_work(),
           (select e.token from notifier.epoch e order by e.number desc limit 1),
           (select p.position::text from notifier.progress p),
           (select s.value from notifier.setting s where s.name = 'channel'), null::text,
           pg_notification_queue_usage(), greatest((select max(f.id) from notifier.fault_record f), (select max(t.last_id) from notifier.fault_total t), 0),
           extract(epoch from clock_timestamp())::double precision,
           null::bigint, null::smallint, null::xid8, null::text, null::text, null::text, null::text, null::jsonb, null::timestamptz;
  return query
    select null::text, null::double precision, null::text, null::text, null::text,
           case when not stream._columns then notifier.payload(n) end, null::double precision, null::bigint, null::double precision,
           n.id, n.slot, n.xid, n.user_id, n.event, n.level::text, n.message, n.data, n.created_at
    from (
      select * from notifier.notification where xid >= pg_snapshot_xmax(stream._after)
      union all
      select * from notifier.notification where xid = any (_running)
    ) n
    order by n.id;
end
$$;
