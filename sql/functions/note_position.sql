-- notifier.note_position: note how far the stream was read. After a crash it is the position that surely holds: what is visible
-- in it was committed before this, and is as durable.
--   _epoch      the epoch the position belongs to; of another one it is ignored
--   _position   never moves back
-- Used by: the listener (src/listener.rs), at most once a second, and only when something was read.
create or replace function notifier.note_position(_epoch text, _position pg_snapshot) returns void
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
  update notifier.progress p set position = note_position._position, noted_at = clock_timestamp()
  where note_position._epoch = (select e.token from notifier.epoch e order by e.number desc limit 1)
    and pg_snapshot_xmax(p.position) <= pg_snapshot_xmax(note_position._position)
    and pg_snapshot_xmin(p.position) <= pg_snapshot_xmin(note_position._position);
end;
