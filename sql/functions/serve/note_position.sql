-- notifier.note_position: note how far the stream was read. After a crash it is the position that surely holds: what is visible
-- in it was committed before this, and is as durable.
--   _epoch      the epoch the position belongs to; of another one it is ignored
--   _position   never moves back
-- Used by: the listener (src/listener.rs), at most once a second, and only when something was read.
create or replace function notifier.note_position(_epoch text, _position pg_snapshot) returns void
language plpgsql volatile security definer   -- which keeps its plan
set search_path = pg_catalog, pg_temp as $$
begin
  update notifier.progress p set position = note_position._position, noted_at = clock_timestamp()
  where (select notifier.is_present(note_position._epoch))
    -- Looked at again when an epoch has begun while this waited for the row.
    and p.epoch = (select e.number from notifier.epoch e where e.token = note_position._epoch)
    and pg_snapshot_xmax(p.position) <= pg_snapshot_xmax(note_position._position)
    and pg_snapshot_xmin(p.position) <= pg_snapshot_xmin(note_position._position);
end
$$;
