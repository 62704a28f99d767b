-- notifier.change_tables: what an event's query may read besides the transition tables, as common table expressions.
-- `changed` is one row for each changed row, the new columns as they are and the old row as `was`. Old and new rows are
-- paired by their position in the transition tables, which needs no key and survives a change of the key.
--   _fires     what the trigger fires on: insert, update or delete
--   _declared  the event's operation: with 'insert or update' an insert offers an empty `old` as well
--   _single    whether one row is changed: then there is nothing to pair, which takes a third of the time
--   returns    text to follow `with`, without it; empty for delete, which has `old` alone
-- Used by: notifier.probe_tables, notifier.event_plan, notifier.write_function, notifier.preview_event.
create or replace function notifier.change_tables(_fires text, _declared text, _single boolean default false) returns text
language sql immutable
-- Whole rows are taken from subqueries: a whole row of a transition table itself is read with the column numbers of parse
-- time, which are wrong as soon as the table has dropped a column.
return case change_tables._fires
  when 'insert' then
    case when change_tables._declared = 'insert or update' then 'old as (select * from new where false), ' else '' end
    || 'changed as (
       select n.*, "notifier old row" as was
       from new n left join (select * from new where false) as "notifier old row" on false)'
  when 'update' then
    case when change_tables._single then
      'changed as (
       select (n."notifier new row").*, o.was
       from (select "notifier new row" from (select * from new) as "notifier new row") n
       cross join (select "notifier old row" as was from (select * from old) as "notifier old row") o)'
    else
      'changed as (
       select (n."notifier new row").*, o.was
       from (select "notifier new row", row_number() over () as "position" from (select * from new) as "notifier new row") n
       join (select "notifier old row" as was, row_number() over () as "position" from (select * from old) as "notifier old row") o
         on n."position" = o."position")' end
  else '' end;
