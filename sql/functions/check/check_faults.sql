-- notifier.check_faults: events that failed within 24 hours, and since they were defined as they are.
--   returns   see notifier.check. A row for each event and SQLSTATE, with the last message of that
-- Used by: notifier.check.
create or replace function notifier.check_faults() returns table (severity text, event text, problem text, fix text)
language sql stable as $$
  select case when d.name is null or d.paused_at is not null or f.sqlstate in ('NTF01', '55P03') then 'warning' else 'error' end,
         f.event,
         format(case when sum(f.count) = 1 then '%1$s at %4$s: %5$s (%6$s)' else '%1$s %2$s times from %3$s to %4$s: %5$s (%6$s)' end,
           case f.sqlstate when 'NTF01' then 'slow' else 'failed' end,   -- see notifier.write_function
           sum(f.count), date_trunc('second', min(f.first_seen)), date_trunc('second', max(f.last_seen)),
           (array_agg(f.message order by f.last_seen desc))[1], f.sqlstate),
         case when f.event = 'notifier.sweep' then 'It is tried again every ten minutes; by hand: select notifier.sweep();'
              when d.name is null then 'It is tried again by itself; by hand: select notifier.work();'
              when f.sqlstate = '55P03' then 'Somebody held a lock on a table that its query reads when this was written: what it would have told was not. '
                || 'See who does, and let them hold it shorter.'
              else 'Correct the query, or what it reads. Faults from before the event was defined as it is now are not listed.' end
  from notifier.fault f
  left join notifier.definition d on d.name = f.event
  where f.last_seen > now() - interval '24 hours'
    -- What the service does for nobody's event fails under a name of ours. Those of events that were dropped are over.
    and coalesce(f.last_seen > d.defined_at, f.event in ('notifier.sweep', 'notifier.forget', 'notifier.count_faults'))
  group by f.event, f.sqlstate, d.name
$$;
