-- notifier.title: what an error calls a definition: event booking.declined, timer booking.expiring.
--   _d        the definition
--   returns   the words
-- Used by: notifier.define and what checks for it.
create or replace function notifier.title(_d notifier.definition) returns text
language sql immutable
return case (title._d).kind when 'timer' then 'timer ' else 'event ' end || coalesce((title._d).name, '(without a name)');
