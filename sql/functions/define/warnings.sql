-- notifier.warnings: what a definition is not refused for, and its author will want to know.
--   _d        the definition
--   returns   a line each
-- Used by: notifier.define.
create or replace function notifier.warnings(_d notifier.definition) returns setof text
language plpgsql as $$
declare
  _plan  jsonb := notifier.event_plan(warnings._d);
  _grant text := notifier.unread_sequences((warnings._d).source);
begin
  -- A table of the query's own with such a name would do as well; nobody names one so.
  if _plan is not null
    and not _plan @? '$.** ? (@."Node Type" == "CTE Scan" && (@."CTE Name" == "new" || @."CTE Name" == "old" || @."CTE Name" == "due"))' then
    return next format('the query does not read %s: every %s tells all of its rows',
      case when (warnings._d).kind = 'timer' then '`due`' else
        array_to_string(array(select '`' || o || '`' from unnest(string_to_array(
          notifier.offers((warnings._d).kind, (warnings._d).operation, 'list'), ',')) o), ', ') end,
      case when (warnings._d).kind = 'timer' then 'firing' else 'statement' end);
  end if;
  return query select s from notifier.scans(warnings._d) s;
  if _grant is not null then
    return next 'an application that asks lastval() after it was told of is refused: ' || _grant;
  end if;
end
$$;
