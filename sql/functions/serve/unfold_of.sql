-- notifier.unfold_of: make rows of what a user was told that lies in notifier.bulk, with what lies beside it: what is to be noted of
-- a notification is noted in its row. Waits for whoever is making them.
--   _user     whose
-- Used by: notifier.mark_read, notifier.summarize.
create or replace function notifier.unfold_of(_user text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '2s' as $$
declare
  _id bigint;
begin
  for _id in select b.id from notifier.bulk b where unfold_of._user = any (b.users) order by b.id loop
    perform notifier.unfold(_id);
  end loop;
end
$$;
