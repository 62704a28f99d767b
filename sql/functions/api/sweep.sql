-- notifier.sweep: let go of what has expired. Leaves of notifier.notification are emptied as a whole when the last of their day
-- has expired, at most a day late; only what stayed longer (nobody swept for longer than the ring is, a leaf could not be locked
-- for a day, a retention below a day) is deleted row by row. No writer waits for it: it takes no lock on the parent or on today's
-- leaf but those of rows. One call does a bounded piece, one session at a time; run it in a transaction of its own.
--   _retention   how long a notification stays: 1 hour to 14 days, since the ring has 16 leaves
--   returns      what was done, or why nothing was
--   raises       22023 for another retention, 25001 in a transaction whose snapshot is older than its statements
-- Used by: notifier.work; DBAs and pg_cron where no service runs.
--
-- progress.pruned covers what goes, in the same transaction. TRUNCATE hides rows from older snapshots too: who tells by `pruned`
-- whether rows are missing reads it in a statement after the one that read the rows.
create or replace function notifier.sweep(_retention interval default '7 days') returns setof text
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '2s'
set enable_seqscan = off
set jit = off as $$
declare
  _batch    constant integer := 5000;   -- about 50 ms
  _now      constant timestamptz := clock_timestamp();
  _today    constant bigint := floor(extract(epoch from _now) / 86400);
  _expired  constant timestamptz := _now - sweep._retention;
  _overdue  constant timestamptz := _expired - least(sweep._retention, interval '1 day');
  _day_ends timestamptz[];
  _table    text;
  _since    text;
  _before   timestamptz;
  _progress notifier.progress;
  _pruned   xid8;
  _one      xid8;
  _said     text;
  _count    bigint;
  _more     boolean := false;
  _rest     boolean;
  _emptied  boolean := false;
  _idle     boolean := true;
begin
  if sweep._retention is null or sweep._retention not between interval '1 hour' and interval '14 days' then
    raise exception 'the retention is %', coalesce(sweep._retention::text, 'null') using errcode = 'invalid_parameter_value',
      hint = 'Give 1 hour to 14 days: notifications are kept in a ring of 16 daily leaves.';
  end if;
  if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    raise exception 'notifier.sweep in a transaction of isolation level %', current_setting('transaction_isolation')
      using errcode = 'active_sql_transaction',
      hint = 'It has to see what was committed while it waited: call it under read committed, in a transaction of its own.';
  end if;
  if not pg_try_advisory_xact_lock(7809647138214477430) then
    return next 'nothing done: another session sweeps';
    return;
  end if;
  perform notifier.identify('');   -- before this writes to what the copy wrote last, if this is one
  select p.* into _progress from notifier.progress p;
  if _progress.swept_at > _now - interval '1 minute' and _progress.swept_at <= _now then
    return next 'nothing done: the last sweep was less than a minute ago, and readers have that long to see what came late';
    return;
  end if;

  -- Of each leaf the end of the last day that it was written in.
  _day_ends := array(
    select to_timestamp((_today - (_today - s.slot + 16) % 16 + 1) * 86400)
    from generate_series(0, 15) as s(slot) order by s.slot);

  -- Rows that should have gone with their leaf. The oldest have the smallest ids: no leaf is read to its end for them.
  for _slot in 0..15 loop
    -- It is emptied below, unless that was tried for a day.
    continue when _day_ends[_slot + 1] <= _expired
              and _day_ends[_slot + 1] > _progress.swept_at - sweep._retention - interval '1 day';
    execute format(
      'with oldest as (
         select n.id, n.created_at, n.xid from notifier.notification_%1$s n order by n.id
         limit (select case when exists (
           select from (select f.created_at from notifier.notification_%1$s f order by f.id limit 1000) f where f.created_at < $2
         ) then $1 else 0 end)
       ), locked as (
         select n.id from notifier.notification_%1$s n
         where n.id in (select o.id from oldest o where o.created_at < $2 and pg_visible_in_snapshot(o.xid, $3))
         for update skip locked
       ), gone as (
         delete from notifier.notification_%1$s n where n.id in (select l.id from locked l) returning n.xid
       )
       select count(*), (array_agg(g.xid order by g.xid desc))[1] from gone g', _slot)
    into _count, _one using _batch, _overdue, _progress.swept_position;
    if _count > 0 then
      return next format('notifier.notification_%s: %s notifications deleted', _slot, _count);
      _pruned := greatest(_pruned, _one);
      _idle := false;
    end if;
    _more := _count >= _batch / 2;
    exit when _more;
  end loop;

  -- What was told by the thousand where no service makes rows of it.
  with gone as (
    delete from notifier.bulk b
    where b.id = any (array(
      select l.id from notifier.bulk l
      where l.created_at < _expired and pg_visible_in_snapshot(l.xid, _progress.swept_position)
      order by l.id limit 10 for update skip locked))
    returning b.xid, cardinality(b.ids) as size
  )
  select sum(g.size), (array_agg(g.xid order by g.xid desc))[1], count(*) = 10 into _count, _one, _rest from gone g;
  if _one is not null then
    return next format('notifier.bulk: %s notifications deleted', _count);
    _pruned := greatest(_pruned, _one);
    _idle := false;
    _more := _more or _rest;
  end if;

  -- What no index leads to is looked for once a day, and while there is much of it. A device is kept for longer than any
  -- notification: when it comes back it is told what it missed, or that there is a gap.
  if not _more and _progress.swept_at < date_trunc('day', _now) then
    for _table, _since, _before in values
      ('fired', 'until', _expired), ('device', 'seen_at', _now - interval '30 days'), ('fault_record', 'recorded_at', _expired),
      ('fault_total', 'last_seen', _expired)
    loop
      execute format(
        'delete from notifier.%1$I t where t.ctid = any (array(
           select l.ctid from notifier.%1$I l where l.%2$I < $1 limit $2 for update skip locked))', _table, _since)
      using _before, _batch;
      get diagnostics _count = row_count;
      _more := _more or _count >= _batch / 2;
      if _count > 0 then
        return next format('notifier.%s: %s rows deleted', _table, _count);
        _idle := false;
      end if;
    end loop;
  end if;

  -- A transaction that was open when an event was dropped may have armed it after that.
  if not _more and _progress.swept_at < date_trunc('day', _now) then
    delete from notifier.timer t where t.id = any (array(
      select l.id from notifier.timer l
      where l.event <> all (array(select d.name from notifier.definition d where d.kind = 'timer'))
      limit _batch for update skip locked));
    get diagnostics _count = row_count;
    _more := _count >= _batch / 2;
    if _count > 0 then
      return next format('notifier.timer: %s rows of dropped events deleted', _count);
      _idle := false;
    end if;
  end if;

  -- Taken before the leaves are locked, since this may have to wait for an instance that notes its position.
  perform from notifier.progress p for update;
  -- A transaction that is left open after this would keep readers out of the leaves it emptied.
  perform set_config('idle_in_transaction_session_timeout', '5s', true);
  for _slot in 0..15 loop
    if _day_ends[_slot + 1] <= _expired then
      select e.pruned, e.said into _one, _said
      from notifier.empty_leaf(_slot, _expired, _progress.swept_position) e;
      _pruned := greatest(_pruned, _one);
      if _said is not null then
        return next _said;
        _idle := false;
      end if;
      -- Nobody who reads waits for one leaf while this waits for another: the rest goes with the next sweep.
      exit when _emptied and _one is null and _said is not null;
      _emptied := _emptied or _one is not null;
    end if;
  end loop;

  if _more then
    return next 'more waits: call it again';
  elsif _idle then
    return next 'nothing has expired';
  end if;
  update notifier.progress p
  set pruned = greatest(p.pruned, _pruned),
      swept_at = case when _more then p.swept_at else _now end,
      swept_position = case when _more then p.swept_position else pg_current_snapshot() end;
end
$$;
