-- notifier.record: write notifications, then announce them if somebody listens.
--   _event, _level, _until      of all of them
--   _users, _messages, _data    one element each a notification
-- Used by: the generated functions (outside their exception blocks: an insert inside one spends a transaction id),
-- notifier.send, notifier.work.
create or replace function notifier.record(
  _event text, _level text, _users text[], _messages text[], _data jsonb[], _until timestamptz default null
) returns void
language plpgsql as $$
declare
  _now  constant timestamptz := clock_timestamp();
  _slot constant smallint := notifier.slot(_now);
  _ids  bigint[];
begin
  if not notifier.reserve(format('only notifier.notification, notifier.notification_%s', _slot)) then
    insert into notifier.spill (kind, record)
    select 'notification', jsonb_build_object('user_id', n.user_id, 'event', record._event, 'level', record._level,
      'message', n.message, 'data', n.data, 'created_at', _now, 'until', record._until)
    from unnest(record._users, record._messages, record._data) as n(user_id, message, data);
    return;
  end if;

  with written as (
    insert into notifier.notification (slot, created_at, user_id, event, level, message, data, until)
    select _slot, _now, n.user_id, record._event, record._level, n.message, n.data, record._until
    from unnest(record._users, record._messages, record._data) as n(user_id, message, data)
    returning id
  )
  select array_agg(w.id) into _ids from written w;

  perform notifier.announce(_ids, _slot, null);
end
$$;
