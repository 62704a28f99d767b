-- notifier.check_service: whether a service reads, what waits for one, whether it sweeps, and how full the server's NOTIFY queue is.
--   _patience   how long what was told may wait to be read
--   returns     see notifier.check
-- Used by: notifier.check.
create or replace function notifier.check_service(_patience interval default '1 minute')
returns table (severity text, event text, problem text, fix text)
language plpgsql
-- What waits is found by transaction id, however much does not.
set enable_seqscan = off as $$
#variable_conflict use_column
declare
  _progress  notifier.progress;
  _connected boolean;
  _relay     timestamptz;
  _idle      boolean;
  _error     text := 'error';
  _start     text := 'Start `parkmate-notifier serve`.';
  _waiting   bigint;
  _oldest    timestamptz;
  _unread    bigint;
  _spilled   bigint;
  _queue     double precision := pg_notification_queue_usage();
begin
  if pg_is_in_recovery() then
    return;   -- the service reads the primary
  end if;
  select p.* into _progress from notifier.progress p;

  -- progress.noted_at moves with notifications only. Whether one reads while there are none is seen by the relay's lock
  -- (notifier.become_relay), and by a name where no instance is the relay yet.
  select true, a.backend_start into _connected, _relay
  from pg_catalog.pg_locks l
  join pg_catalog.pg_database d on d.oid = l.database and d.datname = current_database()
  left join pg_catalog.pg_stat_activity a on a.pid = l.pid
  where l.locktype = 'advisory' and l.objsubid = 1 and l.granted
    and l.classid::bigint = 7809647138214477427 >> 32 and l.objid::bigint = 7809647138214477427 & 4294967295;
  _connected := coalesce(_connected, exists (
    select from pg_catalog.pg_stat_activity a
    where a.datname = current_database() and a.application_name = 'parkmate-notifier'
      and a.pid <> pg_backend_pid()));   -- `parkmate-notifier check` itself
  _idle := _progress.noted_at < now() - check_service._patience or _progress.generation = 0;

  -- A service that starts reads on from the present, and sockets are caught up with what was told before: only what was told
  -- since the relay came, when that can be seen, says that nobody reads.
  select count(*), min(w.created_at), count(*) filter (where w.created_at between _relay and now() - check_service._patience)
  into _waiting, _oldest, _unread
  from (
    select n.created_at from notifier.notification n
    where n.xid >= pg_snapshot_xmax(_progress.position) and n.delivered_at is null
    union all
    select n.created_at from notifier.notification n
    where n.xid = any (array(select pg_snapshot_xip(_progress.position))) and n.delivered_at is null
    limit 100000
  ) w;

  if not _connected and _idle then
    if _progress.generation = 0 then
      _error := 'note';
      return query select _error, null, 'no service has read this database yet', _start;
    else
      return query select _error, null,
        'no service is connected: what is told reaches nobody' || case when _waiting > 0
          then format('; notifications that wait: %s, the first since %s', _waiting, date_trunc('second', _oldest)) else '' end,
        _start;
    end if;
  elsif _idle and _unread > 0 then
    return query select _error, null,
      format('a service is connected and does not read; notifications that wait: %s', _unread),
      'Its /readyz says what is wrong.';
  else
    _error := null;
  end if;

  if _error is not null then
    select count(*) into _spilled from (select from notifier.spill union all select from notifier.bulk limit 100000) s;
    if _spilled > 0 then
      return query select _error, null,
        format('rows of notifier.spill and notifier.bulk that wait for a service to move them to where they belong: %s', _spilled),
        'select notifier.work();';
    end if;
  end if;

  if _connected and _relay < now() - check_service._patience and _progress.swept_at < now() - interval '3 hours' then
    return query select 'warning', null, 'nothing that has expired was let go of for three hours and longer',
      'select * from notifier.sweep();   -- it says why not';
  end if;

  if _queue > 0.25 then
    return query select 'warning', null,
      format('the NOTIFY queue of the server is %s %% full, because a session that listens does not read; once it is full every '
        'COMMIT that NOTIFYs fails, and ours are told later already', round(100 * _queue)),
      'select pid, datname, usename, application_name, state, xact_start from pg_stat_activity order by xact_start limit 5;';
  end if;
end
$$;
