-- notifier.read_on: what was committed since a position, each notification exactly once, without waiting for anybody's transaction.
-- A row is new when its transaction was not visible in the position: it began later (xid >= xmax) or was running then (xip).
--   _after    a position, or null: just tell the present one
--   returns   first a row with the new position, and besides: the seconds until notifier.work has something to do, the epoch, the
--             position that was noted last, the channel's name, the part of the NOTIFY queue in use, how many faults were ever
--             kept, and the database's time in seconds since 1970; then a row for each notification, by id, and one for each row of
--             notifier.bulk, in which id is null and `ids`, `users`, `messages` and `datas` have an element for each notification
-- Used by: the listener (src/listener.rs), about once a second and whenever it may have missed something; notifier.stream.
create or replace function notifier.read_on(_after pg_snapshot)
returns table ("position" text, work double precision, epoch text, noted text, channel text, queue double precision, faults bigint,
               now double precision,
               id bigint, slot smallint, xid xid8, user_id text, event text, level text, message text, data jsonb,
               created_at timestamptz,
               ids bigint[], users text[], messages text[], datas jsonb[])
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
  _running xid8[] := array(select pg_snapshot_xip(read_on._after));
begin
  -- A stable function sees one snapshot throughout: this position is that of the rows below.
  "position" := pg_current_snapshot();
  work := notifier.next_work();
  epoch := (select e.token from notifier.epoch e order by e.number desc limit 1);
  noted := (select p.position from notifier.progress p);
  channel := (select s.value from notifier.setting s where s.name = 'channel');
  queue := pg_notification_queue_usage();
  faults := greatest((select max(f.id) from notifier.fault_record f), (select max(t.last_id) from notifier.fault_total t), 0);
  now := extract(epoch from clock_timestamp());
  return next;
  return query
    select null::text, null::double precision, null::text, null::text, null::text, null::double precision, null::bigint,
           null::double precision,
           n.id, n.slot, n.xid, n.user_id, n.event, n.level::text, n.message, n.data, n.created_at,
           null::bigint[], null::text[], null::text[], null::jsonb[]
    from (
      select * from notifier.notification where xid >= pg_snapshot_xmax(read_on._after)
      union all
      select * from notifier.notification where xid = any (_running)
    ) n
    order by n.id;
  -- (These are sent as they lie there, which takes a hundredth of the time.)
  return query
    select null::text, null::double precision, null::text, null::text, null::text, null::double precision, null::bigint,
           null::double precision,
           null::bigint, b.slot, b.xid, null::text, b.event, b.level::text, null::text, null::jsonb, b.created_at,
           b.ids, b.users, b.messages, b.data
    from (
      select * from notifier.bulk where xid >= pg_snapshot_xmax(read_on._after)
      union all
      select * from notifier.bulk where xid = any (_running)
    ) b
    order by b.id;
end
$$;
