-- notifier.summarize: note that older notifications were told as "n more wait in your inbox", so that no later connection
-- pours them out.
--   _user      the user
--   _epoch, _within   the position at which they were counted; of another epoch it is ignored
--   _before    the oldest id that was sent by itself
--   returns    how many were noted: at most 5,000 of the oldest, and then there may be more. 5,000 too where rows have yet to be made
-- Used by: the confirmations (src/confirmations.rs).
create or replace function notifier.summarize(_user text, _epoch text, _within pg_snapshot, _before bigint) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
declare
  _count bigint;
begin
  if notifier.unfold_of(summarize._user) then
    return 5000;
  end if;
  with locked as (
    select n.id, n.slot
    from notifier.notification n
    where n.user_id = summarize._user and n.id < summarize._before and pg_visible_in_snapshot(n.xid, summarize._within)
      and n.delivered_at is null and n.summarized_at is null
      and (select notifier.is_present(summarize._epoch))
    order by n.id
    limit 5000
    for update skip locked
  ), summarized as (
    update notifier.notification n set summarized_at = clock_timestamp()
    from locked l where n.id = l.id and n.slot = l.slot
    returning n.id
  )
  select count(*) into _count from summarized;
  return _count;
end
$$;
