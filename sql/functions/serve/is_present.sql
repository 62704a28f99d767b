-- notifier.is_present: whether an epoch is the present one. What belongs to another is worth nothing: ids and transaction ids may
-- have come back.
--   _epoch    its token
-- Used by: notifier.note_position, notifier.summarize.
create or replace function notifier.is_present(_epoch text) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
begin
  -- After a crash the old one stays current until somebody identifies the new: it is not present for all that.
  return _epoch = (select e.token from notifier.epoch e order by e.number desc limit 1) and notifier.begun_because() is null;
end
$$;
