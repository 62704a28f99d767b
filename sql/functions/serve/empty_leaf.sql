-- notifier.empty_leaf: empty a leaf of notifier.notification of which every row has expired. It waits for one lock_timeout at
-- most, since whoever comes to read the leaf meanwhile waits behind it.
--   _slot      the leaf
--   _before    notifications created before this have expired
--   _settled   those not visible here stay: readers may not have seen them
--   pruned     the greatest transaction that has lost a row; null when none has
--   said       what was done, or why nothing was; null where there was nothing to do
-- Used by: notifier.sweep.
create or replace function notifier.empty_leaf(
  _slot integer, _before timestamptz, _settled pg_snapshot, out pruned xid8, out said text
)
language plpgsql
set lock_timeout = '50ms'
-- By the indexes, whatever the leaf's statistics say: it may hold a hundred million rows.
set enable_seqscan = off
set jit = off as $$
declare
  _leaf constant text := format('notifier.notification_%s', empty_leaf._slot);
  -- Not settled, or created after all: where the clock was set back, the last rows are of a day to come.
  _keeps constant text := format(
    'select exists (select from %1$s n where n.xid >= pg_snapshot_xmax($1))
         or exists (select from %1$s n where n.xid = any (array(select pg_snapshot_xip($1))))
         or exists (select from (select created_at from %1$s order by id desc limit 1000) n where n.created_at >= $2)', _leaf);
  _found boolean;
begin
  execute format('select exists (select from %s)', _leaf) into _found;
  if not _found then
    return;
  end if;
  execute _keeps into _found using empty_leaf._settled, empty_leaf._before;
  if _found then
    said := _leaf || ' waits: it has notifications that were committed after the sweep before';
    return;
  end if;
  begin
    execute format('lock table %s in access exclusive mode', _leaf);
    -- Whoever wrote until now has committed: asked again, in a snapshot of its own.
    execute _keeps into _found using empty_leaf._settled, empty_leaf._before;
    if _found then
      raise lock_not_available;   -- gives the lock back
    end if;
    execute format('select n.xid from %s n order by n.xid desc limit 1', _leaf) into pruned;
    execute format('truncate %s', _leaf);
    said := _leaf || ' emptied';
  exception when lock_not_available then
    pruned := null;
    said := _leaf || ' waits: somebody reads it or writes to it';
  end;
end
$$;
