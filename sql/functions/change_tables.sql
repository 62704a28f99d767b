-- notifier.change_tables: what an event's query may read besides the transition tables, as common table expressions.
-- `changed` is one row for each changed row, the new columns as they are and the old row as `was`. Old and new rows are
-- paired by their position in the transition tables, which needs no key and survives a change of the key.
--   _fires     what the trigger fires on: insert, update or delete
--   _declared  the event's operation: with 'insert or update' an insert offers an empty `old` as well
--   returns    text to follow `with`, without it; empty for delete, which has `old` alone
-- Used by: notifier.probe, notifier.write_function.
create or replace function notifier.change_tables(_fires text, _declared text) returns text
language sql immutable
return case change_tables._fires
  when 'insert' then
    case when change_tables._declared = 'insert or update' then 'old as (select * from new where false), ' else '' end
    || 'changed as (select "new row".*, was from new as "new row" left join (select * from new where false) as was on false)'
  when 'update' then
    'changed as (
       select (n."new row").*, o.was
       from (select "new row", row_number() over () as "position" from new as "new row") n
       join (select was, row_number() over () as "position" from old as was) o on n."position" = o."position")'
  else '' end;
