-- notifier.changed_rows: the rows of a preview with some columns changed.
--   _change   an object of columns, or null
--   returns   a select over "notifier rows", which has them as "notifier row"
-- Used by: notifier.preview_event.
create or replace function notifier.changed_rows(_change jsonb) returns text
language sql immutable
return format('select o.* from "notifier rows" cross join lateral jsonb_populate_record("notifier row", %L) o',
  coalesce(changed_rows._change, '{}'));
