-- notifier.told_from: a statement over what an event's query tells, each notification a row `q`.
--   _with      common table expressions the query reads, or empty
--   _what      what is selected of `q`
--   _d         the event
--   returns    a select
-- Used by: notifier.told_select, notifier.told_rows.
create or replace function notifier.told_from(_with text, _what text, _d notifier.definition) returns text
language sql stable
return
  case when told_from._with = '' then '' else 'with ' || told_from._with || E'\n' end || 'select ' || told_from._what
  -- The line break after the query makes a comment at its end harmless.
  -- `offset 0`: what the query calls is called once for each row, and not for each place its column is used in.
  || E'\nfrom (select * from (\n' || (told_from._d).query || E'\n) q offset 0) q where q.user_id is not null';
