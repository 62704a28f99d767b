-- notifier.tend: what the relay does each second: send a beat, and look how full the NOTIFY queue is. Above a quarter nobody
-- adds to it: a full one fails every COMMIT that NOTIFYs, and other databases share it.
--   _generation   what notifier.become_relay returned
--   returns       one row: the part of the queue that is in use; and the setting notifier.doorbell that the database has now for
--                 sessions to come: auto, on or off
--   raises        55000 when another instance is the relay
-- Used by: the relay (src/relay.rs).
create or replace function notifier.tend(_generation bigint) returns table (queue double precision, doorbell text)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  perform notifier.is_relay(tend._generation);
  queue := pg_notification_queue_usage();
  doorbell := notifier.doorbell((
    select split_part(c.setting, '=', 2)
    from pg_catalog.pg_db_role_setting s
    join pg_catalog.pg_database d on d.oid = s.setdatabase and d.datname = current_database()
    cross join unnest(s.setconfig) as c(setting)
    where s.setrole = 0 and c.setting like 'notifier.doorbell=%'));
  if queue < 0.25 then
    perform notifier.beat('relay');
  end if;
  return next;
end
$$;
