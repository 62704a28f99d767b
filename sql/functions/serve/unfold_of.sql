-- notifier.unfold_of: make rows of what a user was told that lies in notifier.bulk, with what lies beside it: what is to be noted of
-- a notification is noted in its row. Waits for whoever is making them. Some 20,000 at most: it is asked for more.
--   _user     whose
--   _ids      only where one of these is; null: wherever
--   returns   whether there may be more
-- Used by: notifier.mark_read, notifier.summarize.
create or replace function notifier.unfold_of(_user text, _ids bigint[] default null) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '2s' as $$
declare
  _found constant bigint[] := array(
    select b.id from notifier.bulk b
    where unfold_of._user = any (b.users) and (unfold_of._ids is null or b.ids && unfold_of._ids)
    order by b.id limit 11);
begin
  perform notifier.unfold(f.id) from (select unnest(_found[:10]) as id) f;
  return cardinality(_found) > 10;
end
$$;
