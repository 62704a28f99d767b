-- notifier.announce: tell the service at once, if it listens. A transaction that NOTIFYed holds a database-wide lock while
-- it commits, so writers do it only while the relay asks for it by holding the bell (an advisory lock). The bell is latency
-- only: whatever goes wrong here undoes no row and fails no write, and the service finds the rows within two seconds.
--   _ids, _slot   notifications just written, all in one leaf; or
--   _due          the earliest of the timers just armed
-- Used by: notifier.record, notifier.arm. The key is that of notifier.lead.
create or replace function notifier.announce(_ids bigint[], _slot smallint, _due timestamptz) returns void
language plpgsql as $$
declare
  _payloads text[];
begin
  -- In one expression: between two statements a cancel would leave the lock behind in a pooled session. `doorbell = off`
  -- is for applications that use PREPARE TRANSACTION, which fails after NOTIFY. A full queue would fail the COMMIT.
  if coalesce(current_setting('notifier.doorbell', true), '') in ('off', 'false', '0')
    or not (case when pg_try_advisory_lock_shared(7809647138214477426)
                 then not pg_advisory_unlock_shared(7809647138214477426) else true end)
    or pg_notification_queue_usage() > 0.25
  then
    return;
  end if;

  -- A reference says only "read on". It stands for what NOTIFY would refuse (8,000 bytes, and the whole transaction with
  -- it) and for many at once, which are read faster than they are told.
  if announce._due is not null then
    _payloads := array[json_build_object('due', extract(epoch from announce._due - clock_timestamp()))::text];
  elsif cardinality(announce._ids) <= 32 then
    select array_agg(case when octet_length(p.payload) <= 7999 then p.payload else '{"read":true}' end order by n.id)
    into _payloads
    from notifier.notification n, lateral (select notifier.payload(n) as payload) p
    where n.id = any (announce._ids) and n.slot = announce._slot;
  else
    _payloads := array['{"read":true}'];
  end if;

  perform pg_notify(s.value, p.payload)
  from notifier.setting s, unnest(_payloads) as p(payload)
  where s.name = 'channel';
exception when others then
  null;
end
$$;
