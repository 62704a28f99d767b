-- notifier.unfold: make rows of what lies in notifier.bulk. They keep the transaction that told them: whoever has read that far has
-- been told, and whoever has not finds them.
--   _id       which
--   returns   how many were made; 0: somebody else has just made them
-- Used by: notifier.work; notifier.unfold_of, for those that cannot wait for it.
create or replace function notifier.unfold(_id bigint) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp as $$
declare
  _made bigint;
begin
  -- Who has it locked makes the rows: then there is nothing left to read.
  perform from notifier.bulk b where b.id = unfold._id for update;
  insert into notifier.notification (id, slot, xid, user_id, event, level, message, data, created_at, until)
  select n.id, n.slot, n.xid, n.user_id, n.event, n.level, n.message, n.data, n.created_at, n.until
  from notifier.bulk_notification n where n.bulk_id = unfold._id;
  get diagnostics _made = row_count;
  delete from notifier.bulk b where b.id = unfold._id;
  return _made;
end
$$;
