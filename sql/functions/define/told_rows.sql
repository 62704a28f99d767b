-- notifier.told_rows: what notifier.told_select selects, as a row for each notification. Of one written row that is had for less: the
-- aggregates would be set up for each write.
--   _with      common table expressions the query reads, or empty
--   _d         the event
--   returns    a select of user text, message text, data jsonb
-- Used by: notifier.write_function.
create or replace function notifier.told_rows(_with text, _d notifier.definition) returns text
language sql stable
return
  case when told_rows._with = '' then '' else 'with ' || told_rows._with || E'\n' end
  || 'select q.user_id::text, '
  || notifier.message_expression(notifier.title(told_rows._d), (told_rows._d).message, (told_rows._d).columns) || ', '
  || notifier.data_expression((told_rows._d).columns)
  || E'\nfrom (select * from (\n' || (told_rows._d).query || E'\n) q offset 0) q where q.user_id is not null';
