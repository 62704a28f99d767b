-- notifier.unfold: make rows of what lies in notifier.bulk. They keep the transaction that told them: whoever has read that far has
-- been told, and whoever has not finds them.
--   _id       which
--   returns   how many were made; 0: somebody else has just made them
--   raises    55000 where a new epoch has to begin first: a row that is made here of another cluster's transaction would pass for one of this
-- Used by: notifier.work; notifier.unfold_of, for those that cannot wait for it.
create or replace function notifier.unfold(_id bigint) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp as $$
declare
  _made bigint;
begin
  -- Who has it locked makes the rows: then there is nothing left to read.
  perform from notifier.bulk b where b.id = unfold._id for update;
  if notifier.is_foreign() then
    raise exception 'this database is a copy of another one: a new epoch has to begin' using errcode = 'object_not_in_prerequisite_state',
      hint = 'A service begins it when it starts; without one: select notifier.new_epoch();';
  end if;
  insert into notifier.notification (id, slot, xid, user_id, event, level, message, data, created_at, until)
  select n.id, n.slot, n.xid, n.user_id, n.event, n.level, n.message, n.data, n.created_at, n.until
  from notifier.bulk_notification n where n.bulk_id = unfold._id and n.user_id is not null;
  get diagnostics _made = row_count;
  delete from notifier.bulk b where b.id = unfold._id;
  return _made;
end
$$;
