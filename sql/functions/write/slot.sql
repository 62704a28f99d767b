-- notifier.slot: the leaf of notifier.notification that holds what was created at a time: its day, modulo 16.
--   _at      when the notification was created
--   returns  0..15
-- Used by: notifier.record, notifier.record_one, notifier.work, notifier.opened.
create or replace function notifier.slot(_at timestamptz) returns smallint
language sql stable parallel safe   -- as immutable, which date_part is not, it would not be inlined
return (date_part('day', slot._at - timestamptz 'epoch')::integer & 15)::smallint;   -- whole days of 24 hours, as of UTC
