-- notifier.record: write notifications, then announce them if somebody listens.
--   _event, _level, _until      of all of them
--   _users, _messages, _data    one element each a notification
-- Used by: the generated functions (outside their exception blocks: an insert inside one spends a transaction id),
-- notifier.send, notifier.work.
create or replace function notifier.record(
  _event text, _level text, _users text[], _messages text[], _data jsonb[], _until timestamptz default null
) returns void
language plpgsql
set lock_timeout = 0 as $$   -- notifier.reserve has waited
declare
  _now      constant timestamptz := clock_timestamp();
  _slot     constant smallint := notifier.slot(_now);
  _xid      xid8;
  _ids      bigint[];
  _payload  text;
  _payloads text[];
begin
  if not notifier.reserve('only notifier.notification, notifier.notification_' || _slot, 'notifier.notification_id') then
    perform notifier.put_aside('notification', array_agg(jsonb_build_object('user_id', n.user_id, 'event', record._event,
      'level', record._level, 'message', n.message, 'data', n.data, 'created_at', _now, 'until', record._until)))
    from (select unnest(record._users) as user_id, unnest(record._messages) as message, unnest(record._data) as data) n;
    return;
  end if;

  if cardinality(record._users) = 1 then
    -- What nearly every write tells, by itself: half the time of the other. The id is the one that was taken to reserve.
    _ids := array[currval('notifier.notification_id')];
    insert into notifier.notification (id, slot, created_at, user_id, event, level, message, data, until)
    values (_ids[1], _slot, _now, record._users[1], record._event, record._level, record._messages[1], record._data[1], record._until);
  else
    -- Arrays are unnested in select lists: in FROM they would go through temporary files, which temp_file_limit counts.
    _ids := array(select nextval('notifier.notification_id') from (select generate_series(1, cardinality(record._users))) s);
    insert into notifier.notification (id, slot, created_at, user_id, event, level, message, data, until)
    select unnest(_ids), _slot, _now, unnest(record._users), record._event, record._level, unnest(record._messages),
           unnest(record._data), record._until;
  end if;

  if notifier.rung() then
    -- Many at once are read faster than they are told, and what is too large for NOTIFY has to be: "read on".
    if cardinality(_ids) > 32 then
      _payloads := array['{"read":true}'];
    else
      _xid := pg_current_xact_id();   -- in a variable, and the payload's function is inlined
      -- Nothing is read back from the table: under SERIALIZABLE that would conflict with other writers.
      for _i in 1 .. cardinality(_ids) loop
        if octet_length(record._messages[_i]) > 7999 or pg_column_size(record._data[_i]) > 7999 then
          _payload := null;
        else
          _payload := notifier.payload(row(_ids[_i], _slot, _xid, record._users[_i], record._event, record._level,
            record._messages[_i], record._data[_i], _now, null, null, null, null)::notifier.notification);
        end if;
        _payloads := _payloads || case when octet_length(_payload) <= 7999 then _payload else '{"read":true}' end;
      end loop;
    end if;
    perform notifier.announce(_payloads);
  end if;
end
$$;
