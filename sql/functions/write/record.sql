-- notifier.record: write notifications, then announce them if somebody listens. Those of a statement that tells more than 1,000 are
-- written in arrays, which takes a fraction of the time, and the service makes rows of them.
--   _event, _level, _until      of all of them
--   _users, _messages, _data    one element each a notification
-- Leaves lock_timeout at 0, to the end of the SET clause it was called under: putting it back would cost each write as much as a lock.
-- Used by: the generated functions (outside their exception blocks: an insert inside one spends a transaction id) where it is more than
-- one, or anything is unusual; notifier.record_one, notifier.send, notifier.work.
create or replace function notifier.record(
  _event text, _level text, _users text[], _messages text[], _data jsonb[], _until timestamptz default null
) returns void
language plpgsql as $$
declare
  _now      constant timestamptz := clock_timestamp();
  _slot     constant smallint := notifier.slot(_now);
  _size     constant integer := cardinality(record._users);
  _bulk     constant boolean := _size > 1000;
  _id       bigint;
  _last     bigint[];
  _xid      xid8;
  _ids      bigint[];
  _each     integer;
  _payload  text;
  _payloads text[];
begin
  _id := notifier.reserve_number(
    case when _bulk then 'notifier.bulk' else 'only notifier.notification, notifier.notification_' || _slot end,
    'notifier.notification_id');
  if _id is not null and _size = 1 then
    -- What nearly every write tells, by itself: half the time of the other.
    insert into notifier.notification (id, slot, created_at, user_id, event, level, message, data, until)
    values (_id, _slot, _now, record._users[1], record._event, record._level, record._messages[1], record._data[1], record._until);
  elsif _id is null then
    if not notifier.set_aside('notification', (
      select array_agg(jsonb_build_object('user_id', n.user_id, 'event', record._event,
        'level', record._level, 'message', n.message, 'data', n.data, 'created_at', _now, 'until', record._until))
      from (select unnest(record._users) as user_id, unnest(record._messages) as message, unnest(record._data) as data) n))
    then
      -- Nothing is left but to let the application go on.
      raise warning 'notifier: % notifications of event % lost, since every table of ours is locked', _size, record._event;
    end if;
    return;
  else
    _last := notifier.keep_lastval();
    -- Arrays are unnested in select lists: in FROM they would go through temporary files, which temp_file_limit counts.
    _ids := array(select nextval('notifier.notification_id') from (select generate_series(1, _size)) s);
    if _bulk then
      -- Some 2,000 in a row, or as many as have 512 KB: whoever reads takes a row in one piece, and keeps three of them in memory. But
      -- each slice walks its array from the beginning: 100 at most.
      _each := greatest(1, _size / 100, least(2000,
        512000 * _size::bigint / (pg_column_size(record._messages)::bigint + pg_column_size(record._data))));
      insert into notifier.bulk (id, slot, event, level, created_at, until, ids, users, messages, data)
      select _ids[f.first], _slot, record._event, record._level, _now, record._until, _ids[f.first : f.last],
             record._users[f.first : f.last], record._messages[f.first : f.last], record._data[f.first : f.last]
      from (select s.first, s.first + _each - 1 as last from generate_series(1, _size, _each) as s(first)) f;
    else
      insert into notifier.notification (id, slot, created_at, user_id, event, level, message, data, until)
      select unnest(_ids), _slot, _now, unnest(record._users), record._event, record._level, unnest(record._messages),
             unnest(record._data), record._until;
    end if;
    perform notifier.put_back_lastval(_last);
  end if;

  if notifier.rung() then
    -- Many at once are read faster than they are told, and what is too large for NOTIFY has to be: "read on".
    if _size > 32 then
      _payloads := array['{"read":true}'];
    else
      _xid := pg_current_xact_id();   -- in a variable, and the payload's function is inlined
      -- Nothing is read back from the table: under SERIALIZABLE that would conflict with other writers.
      for _i in 1 .. _size loop
        if octet_length(record._messages[_i]) > 7999 or pg_column_size(record._data[_i]) > 7999 then
          _payload := null;
        else
          _payload := notifier.payload(row(case when _size = 1 then _id else _ids[_i] end, _slot, _xid, record._users[_i], record._event,
            record._level, record._messages[_i], record._data[_i], _now, null, null, null, null)::notifier.notification);
        end if;
        _payloads := _payloads || case when octet_length(_payload) <= 7999 then _payload else '{"read":true}' end;
      end loop;
    end if;
    perform notifier.announce(_payloads);
  end if;
end
$$;
