-- notifier.work: do a bounded piece of what the service owes: rows that spilled, timers whose time has come, notifications
-- sent for now, what statements told by the thousand, rows to arm, faults to count, and when there is none of these, what has expired. Any number of instances may call it at once: each
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
  _tell     boolean;
  _event    text;
  _bulk     bigint;
  _backfill notifier.backfill;
  _last_key jsonb;
  _next     double precision;
begin
  with taken as (
    delete from notifier.spill s
    where s.id = any (array(   -- (An `in` may be asked again for each row, and what is deleted by then is another 500.)
      select t.id from notifier.spill t where t.kind not in ('notifications', 'timers')
      order by t.id limit 500 for update skip locked))
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
  ), scheduled as (
    insert into notifier.scheduled (id, send_at, key, user_id, event, level, message, data) overriding system value
    select coalesce((t.record ->> 'id')::bigint, nextval('notifier.scheduled_id_seq')), (t.record ->> 'send_at')::timestamptz, t.record ->> 'key', t.record ->> 'user_id', t.record ->> 'event',
           t.record ->> 'level', t.record ->> 'message', nullif(t.record -> 'data', 'null')
    from taken t where t.kind = 'scheduled' order by t.id
  ), backfills as (
    -- A statement's timers were lost to a fault: its table is looked at again, but not for each such statement.
    insert into notifier.backfill (event, not_before)
    select distinct t.record ->> 'event', _now + interval '10 seconds' from taken t where t.kind = 'backfill'
    on conflict (event) do update set pass = 2, after_key = null where backfill.pass = 3
  )
  select count(*), bool_or(t.kind = 'notification') into _done, _tell from taken t;
  if _done > 0 then
    if _tell and notifier.rung() then
      perform notifier.announce(array['{"read":true}']);
    end if;
    return 0;
  end if;

  -- The event that waited longest comes first; where another instance holds all of its timers, the next one.
  for _event in
    select d.name
    from notifier.definition d
    cross join lateral (select t.due_at from notifier.timer t where t.event = d.name order by t.due_at limit 1) t
    where d.kind = 'timer' and d.paused_at is null and t.due_at <= _now
    order by t.due_at
  loop
    execute format('select notifier.fire_%s()', notifier.function_number('timer', _event => _event)) into _done;
    if _done > 0 then
      return 0;
    end if;
  end loop;

  -- Under a key the last call counts: what stands before it goes with it, and so it cannot come up again when its time comes.
  with taken as (
    delete from notifier.scheduled s
    where s.id = any (array(
      select t.id from notifier.scheduled t
      where t.send_at <= _now
        -- What was called before under its key and is moved by another instance just now goes first.
        and not exists (select from notifier.spill p where p.kind = 'scheduled' and p.record ->> 'key' = t.key)
      order by t.send_at limit 100 for update skip locked))
    returning s.*
  ), superseded as (
    delete from notifier.scheduled s
    where s.id in (select o.id from notifier.scheduled o join taken t on t.key = o.key and t.id > o.id for update of o skip locked)
  )
  select count(*), count(case when t.user_id is not null and not exists (
      select from notifier.scheduled n where n.key = t.key and n.id > t.id
    ) then notifier.record(t.event, t.level, array[t.user_id], array[t.message], array[t.data])::text end)
  into _done from taken t;
  if _done > 0 then
    return 0;
  end if;

  -- What one statement armed by the thousand, or told by the thousand as the release before this put it aside: some thousands at a
  -- time and after everything that is small.
  with taken as (
    delete from notifier.spill s
    where s.id = any (array(
      select t.id from notifier.spill t where t.kind in ('notifications', 'timers') order by t.id limit 1 for update skip locked))
    returning s.*
  ), parts as materialized (   -- else the whole record would be read again for each of its rows
    select p.*, notifier.slot(p.created_at) as slot from taken t cross join lateral jsonb_to_record(t.record) as p(
      event text, level text, created_at timestamptz, until timestamptz, users jsonb, messages jsonb, data jsonb, keys jsonb, dues jsonb)
  ), notifications as (
    insert into notifier.notification (slot, created_at, user_id, event, level, message, data, until)
    select p.slot, p.created_at, n.user_id, p.event, p.level, n.message, n.data, p.until
    from parts p cross join lateral
      rows from (jsonb_array_elements_text(p.users), jsonb_array_elements_text(p.messages), jsonb_array_elements(p.data))
        as n(user_id, message, data)
  ), timers as (
    insert into notifier.timer (event, key, due_at)
    select p.event, n.key, n.due_at::timestamptz
    from parts p cross join lateral
      rows from (jsonb_array_elements(p.keys), jsonb_array_elements_text(p.dues)) as n(key, due_at)
  )
  select count(*), bool_or(t.kind = 'notifications') into _done, _tell from taken t;
  if _done > 0 then
    -- Each piece is read while the next is made.
    if _tell and notifier.rung() then
      perform notifier.announce(array['{"read":true}']);
    end if;
    return 0;
  end if;

  -- What was told by the thousand waits a second to be made rows of, so that it is told first; not behind what is added meanwhile.
  select b.id into _bulk from notifier.bulk b
  where b.created_at <= _now - interval '1 second' order by b.id limit 1 for update skip locked;
  if _bulk is not null then
    if notifier.is_foreign() then
      return 1;   -- until a new epoch has begun
    end if;
    perform notifier.unfold(_bulk);
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

  begin
    if exists (select from notifier.fault_record offset 999)
      or exists (select from (select f.recorded_at from notifier.fault_record f order by f.id limit 1) f
                 where f.recorded_at < _now - interval '1 minute')
    then
      if notifier.count_faults() then
        return 0;
      end if;
    end if;
  exception when others or assert_failure or query_canceled then
    perform notifier.keep_fault('notifier.count_faults', sqlstate, sqlerrm);
  end;

  if exists (select from notifier.progress p where p.swept_at <= _now - interval '10 minutes' or p.swept_at > _now) then
    begin
      if notifier.forget() then
        return 0;
      end if;
    exception when others or assert_failure or query_canceled then
      perform notifier.keep_fault('notifier.forget', sqlstate, sqlerrm);
    end;
    begin
      perform notifier.sweep(work._retention);
    exception when others or assert_failure or query_canceled then
      -- It holds up nothing: somebody reads of it, and it is tried again with the next one.
      perform notifier.keep_fault('notifier.sweep', sqlstate, sqlerrm);
      update notifier.progress set swept_at = _now where notifier.begun_because() is null;   -- see notifier.identify
    end;
  end if;

  -- What is due and was not found is in another instance's hands now: not ours to wait for, but to look at again.
  _next := notifier.next_work();
  return case when _next = 0 then 0.25 else _next end;
end
$$;
