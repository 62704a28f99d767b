-- notifier.match_expression: whether an event's query tells anybody, as an SQL expression.
--   _with      common table expressions the query reads, or empty
--   _query     the event's query
--   returns    an SQL expression of type boolean
-- Used by: notifier.write_function.
create or replace function notifier.match_expression(_with text, _query text) returns text
language sql immutable
return format(E'exists (%sselect from (\n%s\n) q where q.user_id is not null)',
  case when match_expression._with <> '' then 'with ' || match_expression._with || E'\n' end, match_expression._query);
