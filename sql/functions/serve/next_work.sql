-- notifier.next_work: when the service has something to do next.
--   returns   seconds from now, 0 when something waits already; at most 10 minutes, then expired rows are looked for
-- Used by: notifier.work, notifier.read_on.
create or replace function notifier.next_work() returns double precision
language plpgsql stable   -- which keeps its plan: to plan this takes thirty times as long as to do it
-- Planned while these tables were empty, and kept.
set enable_seqscan = off
set jit = off as $$
begin
  return (select greatest(0, extract(epoch from min(w.at) - clock_timestamp()))
    from (
      select (select t.due_at from notifier.timer t where t.event = d.name order by t.due_at limit 1)
      from notifier.definition d where d.kind = 'timer' and d.paused_at is null
      union all
      select min(s.send_at) from notifier.scheduled s where isfinite(s.send_at)
      union all
      select clock_timestamp() where exists (select from notifier.spill) or exists (select from notifier.fault_record offset 999)
      union all
      select b.created_at + interval '1 second' from (select k.created_at from notifier.bulk k order by k.id limit 1) b
      union all
      select greatest(f.recorded_at + interval '1 minute', clock_timestamp())
      from (select f.recorded_at from notifier.fault_record f order by f.id limit 1) f
      union all
      select greatest(b.not_before, clock_timestamp()) from notifier.backfill b
      where b.pass < 3 or pg_snapshot_xmin(pg_current_snapshot()) > b.barrier
      union all
      select least(greatest(p.swept_at, 'epoch'), clock_timestamp()) + interval '10 minutes' from notifier.progress p
    ) w(at));
end
$$;
