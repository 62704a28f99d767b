-- notifier.told_select: the statement that evaluates an event: three arrays, one element for each notification. What notifier.refuse
-- is to leave out is among them: a filter here would be set up for each write.
--   _with      common table expressions the query reads, or empty
--   _into      ' into a, b, c' where plpgsql wants it, or empty
--   _d         the event
--   returns    a select of users text[], messages text[], data jsonb[]; they are null when nobody is told
-- Used by: notifier.define, notifier.check_event, notifier.write_function, notifier.timer_functions, notifier.preview_event.
create or replace function notifier.told_select(_with text, _into text, _d notifier.definition) returns text
language sql stable
return notifier.told_from(told_select._with,
  'array_agg(q.user_id::text) as users, array_agg('
  || notifier.message_expression(notifier.title(told_select._d), (told_select._d).message, (told_select._d).columns)
  || ') as messages, array_agg('
  || notifier.data_expression((told_select._d).columns)
  || ') as data' || told_select._into,
  told_select._d);
