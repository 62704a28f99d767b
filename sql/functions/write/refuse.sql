-- notifier.refuse: leave out of an event's notifications those whose user_id is empty or longer than 255 bytes, which no index
-- could hold, or is null as a text, and keep a fault of it.
--   _event      whose they are
--   _users, _messages, _data   one element each a notification; they come back without the refused ones, and are null when nobody is left
-- Used by: the generated functions; by those of tables where one is among them, since to hand over what very many are told takes longer
-- than to look.
create or replace function notifier.refuse(_event text, inout _users text[], inout _messages text[], inout _data jsonb[])
language plpgsql as $$
declare
  _refused bigint;
begin
  select count(*) into _refused from (select unnest(refuse._users) as user_id) n
  where coalesce(octet_length(n.user_id), 0) not between 1 and 255;
  if _refused = 0 then
    return;
  end if;
  perform notifier.keep_fault(refuse._event, '22001', _refused || ' rows with a user_id that is empty or longer than 255 bytes');
  select array_agg(n.user_id), array_agg(n.message), array_agg(n.data) into _users, _messages, _data
  from (select unnest(refuse._users) as user_id, unnest(refuse._messages) as message, unnest(refuse._data) as data) n
  where octet_length(n.user_id) between 1 and 255;
end
$$;
