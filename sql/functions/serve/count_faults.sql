-- notifier.count_faults: count the oldest rows of notifier.fault_record into notifier.fault_total, and pause what only does harm:
-- an event that failed 1,000 times and told nobody in between, and one that is slow all the time because it scans a large table. A lock
-- that somebody holds on what it reads (55P03) is no failure of its own, and is over when that is.
--   returns   false when somebody defines events just now, who may take minutes: nothing was done then
-- Used by: notifier.work, when there are 1,000 rows, or one has waited for a minute.
create or replace function notifier.count_faults() returns boolean
language plpgsql
-- The newest notifications are walked by their primary key.
set enable_seqscan = off
set jit = off as $$
#variable_conflict use_column
declare
  _taken   notifier.fault_record[];
  _failed  notifier.fault_record[];   -- those of them that may pause an event
  _told    jsonb;
  _walked  timestamptz;
  _scan    text;
  _failing notifier.failing;
  _since   timestamptz;
  _d       notifier.definition;
begin
  if not notifier.lock_definitions(_wait => false) then
    return false;
  end if;

  with taken as (
    delete from notifier.fault_record r
    where r.id = any (array(select f.id from notifier.fault_record f order by f.id limit 5000 for update skip locked))
    returning r.*
  )
  select array_agg(t order by t.id), array_agg(t order by t.id) filter (where t.sqlstate not in ('NTF01', '55P03'))
  into _taken, _failed from taken t;

  insert into notifier.fault_total as total (event, sqlstate, message, first_seen, last_seen, count, last_id)
  select t.event, t.sqlstate, left(t.message, 500), min(t.recorded_at), max(t.recorded_at), count(*), max(t.id)
  from unnest(_taken) t group by t.event, t.sqlstate, left(t.message, 500)
  on conflict (event, sqlstate, message) do update
  set first_seen = least(total.first_seen, excluded.first_seen), last_seen = greatest(total.last_seen, excluded.last_seen),
      count = total.count + excluded.count, last_id = greatest(total.last_id, excluded.last_id);
  -- Messages name values now and then, and there is no end to those: of each event and SQLSTATE the 20 most frequent are kept.
  with rare as (
    delete from notifier.fault_total f
    using (
      select t.event, t.sqlstate, t.message,
             row_number() over (partition by t.event, t.sqlstate order by t.count desc, t.last_seen desc) as place
      from notifier.fault_total t where t.message <> '(other messages)'
    ) p
    where p.place > 20 and (f.event, f.sqlstate, f.message) = (p.event, p.sqlstate, p.message)
    returning f.*
  )
  insert into notifier.fault_total as total (event, sqlstate, message, first_seen, last_seen, count, last_id)
  select r.event, r.sqlstate, '(other messages)', min(r.first_seen), max(r.last_seen), sum(r.count), max(r.last_id)
  from rare r group by r.event, r.sqlstate
  on conflict (event, sqlstate, message) do update
  set first_seen = least(total.first_seen, excluded.first_seen), last_seen = greatest(total.last_seen, excluded.last_seen),
      count = total.count + excluded.count, last_id = greatest(total.last_id, excluded.last_id);

  -- When each event told somebody last, as far back as 100,000 notifications; faults before that are not counted as in a row.
  select jsonb_object_agg(n.event, n.told_at), case when sum(n.count) >= 100000 then min(n.first_at) end into _told, _walked
  from (
    select w.event, max(w.created_at) as told_at, min(w.created_at) as first_at, count(*) as count
    from (select n.event, n.created_at from notifier.notification n order by n.id desc limit 100000) w
    group by w.event
  ) n;

  for _d in
    select d.* from notifier.definition d
    where d.paused_at is null and d.name in (select t.event from unnest(_taken) t)
  loop
    select f.* into _failing from notifier.failing f where f.event = _d.name;
    _since := greatest(coalesce(_failing.since, '-infinity'), _d.defined_at, (_told ->> _d.event)::timestamptz, _walked);
    insert into notifier.failing as f (event, since, faults)
    select _d.name, _since, count(*) + case when _since = _failing.since then _failing.faults else 0 end
    from unnest(_failed) t where t.event = _d.name and t.recorded_at > _since
    on conflict (event) do update set since = excluded.since, faults = excluded.faults
    returning f.* into _failing;

    if _failing.faults >= 1000 then
      perform notifier.pause(_d, 'notifier', format('it failed %s times and told nobody in between, last with: %s', _failing.faults,
        (select t.message from unnest(_failed) t where t.event = _d.name order by t.id desc limit 1)));
    elsif (select count(*) from unnest(_taken) t where t.event = _d.name and t.sqlstate = 'NTF01') >= 500 then
      -- An overloaded server makes everything slow, and is no reason to tell nobody.
      _scan := (select string_agg(s, '; ') from notifier.scans(_d) s);
      if _scan is not null then
        perform notifier.pause(_d, 'notifier', 'it made the application wait time and again: ' || _scan);
      end if;
    end if;
  end loop;
  delete from notifier.failing f where not exists (select from notifier.definition d where d.name = f.event);
  return true;
end
$$;
