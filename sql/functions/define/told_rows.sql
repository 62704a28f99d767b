-- notifier.told_rows: what notifier.told_select selects, as a row for each notification. Of one written row that is had for less: the
-- aggregates would be set up for each write.
--   _with      common table expressions the query reads, or empty
--   _d         the event
--   returns    a select of user text, message text, data jsonb
-- Used by: notifier.write_function.
create or replace function notifier.told_rows(_with text, _d notifier.definition) returns text
language sql stable
return notifier.told_from(told_rows._with,
  'q.user_id::text, '
  || notifier.message_expression(notifier.title(told_rows._d), (told_rows._d).message, (told_rows._d).columns) || ', '
  || notifier.data_expression((told_rows._d).columns),
  told_rows._d);
