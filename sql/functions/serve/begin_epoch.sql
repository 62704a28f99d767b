-- notifier.begin_epoch: begin a new epoch: cursors of the one before are answered with `gap`, ids go on far from where they were,
-- and what cannot hold in this database is put right.
--   _reason   why, in words
-- Used by: notifier.identify, notifier.new_epoch.
create or replace function notifier.begin_epoch(_reason text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp as $$
declare
  _here   constant notifier.epoch := (
    select row(0, '', s.system_identifier, d.oid, '4:4:', now(), '')::notifier.epoch
    from pg_control_system() s, pg_catalog.pg_database d where d.datname = current_database());
  _before notifier.epoch := (select e from notifier.epoch e order by e.number desc limit 1);
  _number   integer;
  _table    text;
  _sequence text;
  _now    constant bigint := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
  -- What wrote our own state last, before this does: the copy, where there was one. (xmin has 32 bits.)
  _copied constant bigint := (select _now - (_now - p.xmin::text::bigint) % 4294967296 from notifier.progress p);
begin
  insert into notifier.epoch (system_identifier, database, position, reason)
  select _here.system_identifier, _here.database, p.position, begin_epoch._reason from notifier.progress p
  returning number into _number;
  update notifier.progress set epoch = _number;
  delete from notifier.incarnation;
  insert into notifier.incarnation (epoch, timeline, started_at)
  values (_number, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), pg_postmaster_start_time());
  update notifier.incarnation set written_by = xmin::text::bigint;
  -- An id that was told and then lost in a crash must not be another's soon.
  perform setval('notifier.notification_id', nextval('notifier.notification_id') + 1000000);

  if (_before.system_identifier, _before.database) is distinct from (_here.system_identifier, _here.database)
     or (select pg_snapshot_xmax(p.position) > pg_snapshot_xmax(pg_current_snapshot()) from notifier.progress p) then
    -- Rows that were copied here name transactions of another cluster: they become older than every position. A row that was
    -- written here is of a transaction after the one that copied our own state, and its version is of that transaction or, where
    -- it was written in a savepoint or has been touched, of a later one. Up to which transaction rows are seen here, this statement
    -- says of itself: with _now a row that is committed while this runs would pass for a copied one, and nobody would be told.
    -- First what rows are still to be made of: behind the rows, one of them could be made in between and be seen by neither.
    perform from notifier.bulk n order by n.id for update;
    update notifier.bulk n set xid = '3'
    where n.xid <> '3'
      and not (n.xid::text::numeric > _copied
               and n.xid::text::numeric < (select pg_snapshot_xmax(pg_current_snapshot())::text::numeric)
               and _now - (_now - n.xmin::text::bigint) % 4294967296 >= n.xid::text::numeric);
    update notifier.notification n set xid = '3'
    where n.xid <> '3'
      and not (n.xid::text::numeric > _copied
               and n.xid::text::numeric < (select pg_snapshot_xmax(pg_current_snapshot())::text::numeric)
               and _now - (_now - n.xmin::text::bigint) % 4294967296 >= n.xid::text::numeric);
    -- Logical replication brings rows and no sequences.
    for _table, _sequence in values
      ('notification', 'notification_id'), ('timer', 'timer_id_seq'), ('scheduled', 'scheduled_id_seq'), ('spill', 'spill_id_seq'),
      ('fault_record', 'fault_record_id_seq'), ('revocation', 'revocation_id_seq')
    loop
      execute format('select setval(''notifier.%2$s'', m.id) from (select max(t.id) as id from notifier.%1$s t) m
        where m.id >= (select s.last_value from notifier.%2$s s)', _table, _sequence);
    end loop;
    -- A revocation holds here as it did there. As one of now it is told to all instances, to whom those positions say nothing.
    -- What somebody holds is about to be forgotten: there is a later one.
    update notifier.revocation r set xid = pg_current_xact_id()
    where r.id = any (array(select o.id from notifier.revocation o for update skip locked));
    update notifier.progress set position = '4:4:', swept_position = '4:4:', noted_at = clock_timestamp(), pruned = '0';
    update notifier.epoch set position = '4:4:' where number = _number;
    update notifier.timer set barrier = null where barrier is not null;
    update notifier.backfill set barrier = null, pass = least(pass, 2), after_key = null where barrier is not null;
    -- The copy and its origin do not share a secret.
    perform notifier.rotate_channel();
  end if;
end
$$;
