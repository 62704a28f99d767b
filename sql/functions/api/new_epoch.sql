-- notifier.new_epoch: for the runbook, after a backup was restored or the database was cloned: begin a new epoch, give the channel
-- another name, and drop the timers and what was to be sent later that are past, so that a clone tells nobody what its origin has told.
--   returns   what was done
-- Used by: DBAs, before the service is started on the restored database.
create or replace function notifier.new_epoch() returns setof text
language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
  _dropped bigint;
begin
  perform pg_advisory_xact_lock(7809647138214477429);
  perform notifier.begin_epoch('new_epoch() by ' || session_user);
  perform notifier.rotate_channel();
  delete from notifier.timer t where t.due_at <= clock_timestamp();
  get diagnostics _dropped = row_count;
  return query
    select format('epoch %s has begun: cursors of clients are answered with gap', e.token)
    from notifier.epoch e order by e.number desc limit 1;
  return next 'the channel has another name';
  return next format('%s timers that were past are dropped', _dropped);
  delete from notifier.scheduled s where s.send_at <= clock_timestamp();
  get diagnostics _dropped = row_count;
  return next format('%s notifications that were to be sent by now are dropped', _dropped);
end
$$;
