-- notifier.work: do a bounded piece of what the service owes: rows that spilled, timers whose time has come, notifications
-- sent for now, rows to arm, and when there is none of these, what has expired. Any number of instances may call it at once: each
-- takes what no other holds.
--   _retention   how long a notification stays
--   returns      seconds until there is more to do: 0 at once
-- Used by: the scheduler (src/scheduler.rs), in a transaction of its own.
create or replace function notifier.work(_retention interval default '7 days') returns double precision
language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
  _now      constant timestamptz := clock_timestamp();
  _done     bigint;
  _event    text;
  _backfill notifier.backfill;
  _last_key jsonb;
  _next     double precision;
begin
  with taken as (
    delete from notifier.spill s
    where s.id in (select t.id from notifier.spill t order by t.id limit 500 for update skip locked)
    returning s.*
  ), notifications as (
    insert into notifier.notification (slot, created_at, user_id, event, level, message, data, until)
    select notifier.slot((t.record ->> 'created_at')::timestamptz), (t.record ->> 'created_at')::timestamptz,
           t.record ->> 'user_id', t.record ->> 'event', t.record ->> 'level', t.record ->> 'message', t.record -> 'data',
           (t.record ->> 'until')::timestamptz
    from taken t where t.kind = 'notification' order by t.id
  ), timers as (
    insert into notifier.timer (event, key, due_at)
    select t.record ->> 'event', t.record -> 'key', (t.record ->> 'due_at')::timestamptz from taken t where t.kind = 'timer'
  ), backfills as (
    -- A statement's timers were lost to a fault: its table is looked at again, but not for each such statement.
    insert into notifier.backfill (event, not_before)
    select distinct t.record ->> 'event', clock_timestamp() + interval '10 seconds' from taken t where t.kind = 'backfill'
    on conflict (event) do update set pass = 2, after_key = null where backfill.pass = 3
  )
  select count(*) into _done from taken;
  if _done > 0 then
    return 0;
  end if;

  -- The event that waited longest comes first; where another instance holds all of its timers, the next one.
  for _event in
    select d.name
    from notifier.definition d
    cross join lateral (select t.due_at from notifier.timer t where t.event = d.name order by t.due_at limit 1) t
    where d.kind = 'timer' and t.due_at <= _now
    order by t.due_at
  loop
    execute format('select notifier.fire_%s()', notifier.function_number('timer', _event => _event)) into _done;
    if _done > 0 then
      return 0;
    end if;
  end loop;

  with taken as (
    delete from notifier.scheduled s
    where s.id in (select t.id from notifier.scheduled t where t.send_at <= _now order by t.send_at limit 100 for update skip locked)
    returning s.*
  )
  select count(notifier.record(t.event, t.level, array[t.user_id], array[t.message], array[t.data])::text) into _done from taken t;
  if _done > 0 then
    return 0;
  end if;

  select b.* into _backfill from notifier.backfill b
  where b.not_before <= _now and (b.pass < 3 or pg_snapshot_xmin(pg_current_snapshot()) > b.barrier)
  order by b.pass, b.event limit 1 for update skip locked;
  if _backfill.event is not null then
    begin
      execute format('select notifier.backfill_%s($1, $2)', notifier.function_number('timer', _event => _backfill.event))
      into _last_key using _backfill.after_key, _backfill.pass = 1;
      if _last_key is null and _backfill.pass = 3 then
        delete from notifier.backfill b where b.event = _backfill.event;
      else
        -- The barrier is taken after the definition was committed: a transaction that ran when it was may have fired the
        -- trigger's old function, and a third pass waits for its end.
        update notifier.backfill b
        set after_key = _last_key, pass = b.pass + (_last_key is null)::int, barrier = coalesce(b.barrier, pg_current_xact_id())
        where b.event = _backfill.event;
      end if;
    exception when serialization_failure or deadlock_detected then raise;
    when lock_not_available then
      update notifier.backfill b set not_before = _now + interval '1 second' where b.event = _backfill.event;
    when others or assert_failure or query_canceled then
      perform notifier.keep_fault(_backfill.event, sqlstate, sqlerrm);
      if exists (select from notifier.definition d join pg_catalog.pg_class c on c.oid = d.source where d.name = _backfill.event) then
        update notifier.backfill b set not_before = _now + interval '1 minute' where b.event = _backfill.event;
      else
        delete from notifier.backfill b where b.event = _backfill.event;
      end if;
    end;
    return 0;
  end if;

  if exists (select from notifier.progress p where p.swept_at <= _now - interval '10 minutes') then
    begin
      perform notifier.sweep(work._retention);
    exception when others or assert_failure or query_canceled then
      -- It holds up nothing: somebody reads of it, and it is tried again with the next one.
      perform notifier.keep_fault('notifier.sweep', sqlstate, sqlerrm);
      update notifier.progress set swept_at = _now;
    end;
  end if;

  -- What is due and was not found is in another instance's hands now: not ours to wait for, but to look at again.
  _next := notifier.next_work();
  return case when _next = 0 then 0.25 else _next end;
end
$$;
