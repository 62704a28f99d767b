-- notifier.event_stats: what each event did, counted when asked: nothing is counted while the application writes.
--   since     from when on; what is older than the service's retention is gone
--   returns   a row for each event that is defined, told or not, and for each other name that was told:
--     event                         its name
--     kind                          write or timer; dropped for an event that is defined no more, sent for a name that came with
--                                   notifier.send alone
--     notifications, users          how many were told, to how many users
--     delivered, read, waiting      how many of them reached a socket, how many were read, and how many still wait for their user:
--                                   neither delivered, nor read, nor told as "n more wait in your inbox", nor too late
--     median_delivery               from creation to delivery, the time until the user came included
--     last_told_at                  when the last one was created
--     faults                        of notifier.fault, all those of a kind that was last seen since then: such a kind may have begun
--                                   earlier, and is counted as a whole
-- Used by: DBAs.
-- Reads the leaves of notifier.notification whose days are asked for, each from end to end: no index leads to times.
create or replace function notifier.event_stats(since timestamptz default now() - interval '1 day')
returns table (event text, kind text, notifications bigint, users bigint, delivered bigint, read bigint, waiting bigint,
               median_delivery interval, last_told_at timestamptz, faults bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set jit = off as $$
#variable_conflict use_column
declare
  -- The ring has 16 days: from 15 days ago on, all leaves are read. Tomorrow's always: clocks are set.
  _from  constant timestamptz := greatest(coalesce(event_stats.since, '-infinity'), now() - interval '15 days');
  _slots constant smallint[] := array(
    select distinct notifier.slot(d.day) from generate_series(_from, now() + interval '24 hours', interval '24 hours') as d(day)
    union
    select notifier.slot(now() + interval '24 hours'));
begin
  return query
  with told as (
    select n.event, count(*) as notifications, count(distinct n.user_id) as users, count(n.delivered_at) as delivered,
           count(n.read_at) as read,
           count(*) filter (where n.delivered_at is null and n.read_at is null and n.summarized_at is null
                              and coalesce(n.until, 'infinity') > now()) as waiting,
           percentile_cont(0.5) within group (order by n.delivered_at - n.created_at) as median_delivery,
           max(n.created_at) as last_told_at
    from (
      select n.event, n.user_id, n.created_at, n.until, n.delivered_at, n.read_at, n.summarized_at
      from notifier.notification n where n.slot = any (_slots)
      union all
      select b.event, b.user_id, b.created_at, b.until, null, null, null from notifier.bulk_notification b
    ) n
    where n.created_at >= coalesce(event_stats.since, '-infinity')
    group by n.event
  ), failed as (
    select f.event as name, sum(f.count)::bigint as faults
    from notifier.fault f where f.last_seen >= coalesce(event_stats.since, '-infinity')
    group by f.event
  ), defined as (
    select d.event, min(d.kind) as kind, sum(f.faults)::bigint as faults
    from notifier.definition d left join failed f on f.name = d.name
    group by d.event
  )
  select coalesce(d.event, t.event),
         coalesce(d.kind, case when exists (select from notifier.event_history h where coalesce(h.definition ->> 'event', h.name) = t.event) then 'dropped' else 'sent' end),
         coalesce(t.notifications, 0), coalesce(t.users, 0), coalesce(t.delivered, 0), coalesce(t.read, 0), coalesce(t.waiting, 0),
         t.median_delivery, t.last_told_at,
         coalesce(d.faults, (select f.faults from failed f where f.name = t.event), 0)
  from defined d
  full join told t on t.event = d.event
  order by coalesce(d.event, t.event) collate "C";
end
$$;
