-- notifier.timer_functions: generate the two functions of a timer, both run by the service alone.
--   notifier.fire_N()                 looks at up to 500 rows whose time has come; returns how many it dealt with
--   notifier.backfill_N(after, soon)  arms up to 1,000 rows that were there before; returns the last key seen, or null
--   _d   the timer
-- Used by: notifier.define, notifier.regenerate.
create or replace function notifier.timer_functions(_d notifier.definition) returns void
language plpgsql as $$
declare
  _number  integer := notifier.function_number('timer', _event => _d.name);
  _source  text    := _d.source::text;
  _array   text    := notifier.key_text(_d.source, 'array');
  _list    text    := notifier.key_text(_d.source, 'list');
  _parsed  text    := notifier.key_text(_d.source, 'parsed');
begin
  if _list is null then
    return;   -- the table or its primary key is gone
  end if;

  -- Firing re-reads the source row: what moved is armed again, what no longer qualifies is dropped, what qualifies and was
  -- not fired for this due time is told. notifier.fired makes it once. Rows that are due and end at the same instants are
  -- told by one run of the query, so that it may group them. Variables are named with the block's label: the source may
  -- have columns of their names.
  execute format($function$create or replace function notifier.fire_%1$s() returns bigint
%2$s
as %3$L$function$, _number, notifier.function_settings('1s'), format($body$
#variable_conflict use_column
<<notifier>>
declare
  _now      constant timestamptz := clock_timestamp();
  -- Taken before any row is judged: what commits between that and the verdict was not seen.
  _horizon  constant xid8 := pg_snapshot_xmin(pg_current_snapshot());
  _ids      bigint[];
  _all      jsonb[];
  _keys     jsonb[];
  _size     integer;
  _next     integer := 1;
  _last     integer;
  _set      record;
  _users    text[];
  _messages text[];
  _data     jsonb[];
begin
  select array_agg(b.id order by b.due_at, b.id), array_agg(b.key order by b.due_at, b.id) into _ids, _all
  from (select t.id, t.key, t.due_at from notifier.timer t where t.event = %1$L and t.due_at <= _now
        order by t.due_at, t.id limit 500 for update skip locked) b;
  _size := coalesce(cardinality(_all), 0);
  _last := _size;

  -- All at once, or, where that fails, one by one: a row that faults postpones itself and nobody else.
  while _next <= _last loop
    begin
      _keys := _all[_next : _next + _size - 1];

      insert into notifier.timer (event, key, due_at)
      select %1$L, p.key, p.due
      from (select %3$s as key, (%6$s) as due, (%7$s) as until from %2$s s
            where (%4$s) in (select %5$s from unnest(notifier._keys) as k(key))) p
      where p.due > notifier._now and isfinite(p.due) and coalesce(p.until, 'infinity') > p.due
        and not exists (select from notifier.timer t where t.event = %1$L and t.due_at = p.due
                          and jsonb_hash(t.key) = jsonb_hash(p.key) and t.key = p.key);

      for _set in
        select p.due, p.until, array_agg(p.key) as keys
        from (select %3$s as key, (%6$s) as due, coalesce((%7$s), 'infinity') as until from %2$s s
              where (%4$s) in (select %5$s from unnest(notifier._keys) as k(key))) p
        where p.due <= notifier._now and isfinite(p.due) and p.until > notifier._now
        group by p.due, p.until
        order by p.due
      loop
        -- What was told and was put off since is remembered for as long as it might be told again.
        update notifier.fired f set until = notifier._set.until
        where f.event = %1$L and f.key = any (notifier._set.keys) and f.due_at = notifier._set.due and f.until < notifier._set.until;
        with qualified as (
          select k.key
          from unnest(notifier._set.keys) as k(key)
          cross join lateral (
            with due as (select s.* from %2$s s where (%4$s) = (%5$s) and (%6$s) = notifier._set.due)
            select count(*) as told from (
%8$s
            ) q where q.user_id is not null
          ) m
          where m.told > 0
        ), fresh as (
          insert into notifier.fired (event, key, due_at, until)
          select %1$L, f.key, notifier._set.due, notifier._set.until from qualified f
          on conflict do nothing
          returning key
        ), due as (
          select s.* from %2$s s where (%4$s) in (select %5$s from fresh k)
        )
%9$s;
        select * into _users, _messages, _data from notifier.refuse(%1$L, _users, _messages, _data);
        if _users is not null then
          perform notifier.record(%11$L, %10$L, _users, _messages, _data, case when isfinite(_set.until) then _set.until end);
          set local lock_timeout = '1s';   -- again, after notifier.record
        end if;
      end loop;

      -- A row in its time that was not told may begin to qualify by a transaction that wrote before it was due, and so armed
      -- nothing, and commits only now: it is looked at again until all that ran at the first look have ended.
      update notifier.timer t
      set barrier = coalesce(t.barrier, pg_current_xact_id()),
          due_at = notifier._now + make_interval(secs => least(2 ^ t.looks, 300)),
          looks = t.looks + 1
      from (select %3$s as key, (%6$s) as due, coalesce((%7$s), 'infinity') as until from %2$s s
            where (%4$s) in (select %5$s from unnest(notifier._keys) as k(key))) p
      where t.id = any (notifier._ids[notifier._next : notifier._next + notifier._size - 1]) and t.key = p.key
        and p.due <= notifier._now and isfinite(p.due) and p.until > notifier._now
        and (t.barrier is null or t.barrier >= notifier._horizon)
        and not exists (select from notifier.fired f where f.event = %1$L and f.key = p.key and f.due_at = p.due);

      _next := _next + _size;
    exception when serialization_failure or deadlock_detected then raise;
    when lock_not_available then
      -- Somebody holds the table: nobody else's timers wait for that.
      update notifier.timer set due_at = _now + interval '1 second' where id = any (_ids[_next :]);
      exit;
    when others or assert_failure or query_canceled then
      if sqlstate like '42%%' or sqlstate = '57014' then
        -- The query does not fit its tables any more, or takes too long: no row will fare better.
        perform notifier.keep_fault(%1$L, sqlstate, sqlerrm);
        update notifier.timer set due_at = _now + interval '1 minute'
        where id in (select t.id from notifier.timer t where t.event = %1$L and t.due_at <= _now for update skip locked);
        exit;
      elsif _size > 1 then
        -- Each try of one spends a subtransaction: 50 of them, and the others when this is called again.
        _size := 1;
        _last := least(_next + 49, _last);
      else
        perform notifier.keep_fault(%1$L, sqlstate, sqlerrm);
        update notifier.timer set due_at = _now + interval '1 minute' where id = _ids[_next];
        _next := _next + 1;
      end if;
    end;
  end loop;

  -- What was postponed is not due any more.
  delete from notifier.timer where id = any (_ids[: _last]) and due_at <= _now;
  return _last;
end
$body$, _d.name, _source, _array, _list, _parsed, _d.due, _d.until, _d.query,
    notifier.told_select('', E'\ninto _users, _messages, _data', _d), _d.level, _d.event));
  execute format('revoke all on function notifier.fire_%s() from public', _number);

  execute format($function$create or replace function notifier.backfill_%1$s(_after jsonb, _soon boolean) returns jsonb
%2$s
as %3$L$function$, _number, notifier.function_settings('1s'), format($body$
#variable_conflict use_column
<<notifier>>
declare
  _now  constant timestamptz := clock_timestamp();
  _keys jsonb[];
  _size integer;
  _next integer := 1;
begin
  if _after is null then
    select array_agg(p.key) into _keys
    from (select %3$s as key from %2$s s order by %4$s limit 1000) p;
  else
    select array_agg(p.key) into _keys
    from (select %3$s as key from %2$s s where (%4$s) > (%8$s) order by %4$s limit 1000) p;
  end if;
  _size := cardinality(_keys);

  while _next <= cardinality(_keys) loop
    begin
      insert into notifier.timer (event, key, due_at)
      select %1$L, p.key, p.due
      from (select %3$s as key, (%6$s) as due, (%7$s) as until from %2$s s
            where (%4$s) in (select %5$s from unnest(notifier._keys[notifier._next : notifier._next + notifier._size - 1]) as k(key))) p
      where isfinite(p.due) and coalesce(p.until, 'infinity') > notifier._now
        and (not _soon or p.due <= notifier._now + interval '24 hours')
        and not exists (select from notifier.timer t where t.event = %1$L and t.due_at = p.due
                          and jsonb_hash(t.key) = jsonb_hash(p.key) and t.key = p.key);
      _next := _next + _size;
    exception when serialization_failure or deadlock_detected or lock_not_available then raise;
    when others or assert_failure then
      if sqlstate like '42%%' then
        raise;
      elsif _size > 1 then
        _size := 1;
      else
        perform notifier.keep_fault(%1$L, sqlstate, sqlerrm);
        _next := _next + 1;
      end if;
    end;
  end loop;

  return case when cardinality(_keys) = 1000 then _keys[1000] end;
end
$body$, _d.name, _source, _array, _list, _parsed, _d.due, _d.until, notifier.key_text(_d.source, 'after')));
  execute format('revoke all on function notifier.backfill_%s(jsonb, boolean) from public', _number);
end
$$;
