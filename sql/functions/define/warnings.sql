-- notifier.warnings: what a definition is not refused for, and its author will want to know.
--   _d        the definition
--   returns   a line each
-- Used by: notifier.define.
create or replace function notifier.warnings(_d notifier.definition) returns setof text
language plpgsql as $$
declare
  _plan  jsonb := notifier.event_plan(warnings._d);
  _never boolean;
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
  -- Of some rows that are there: what `until` comes to depends on them.
  if (warnings._d).kind = 'timer' then
    begin
      execute format(E'select bool_and(r.until <= r.due) from (select (%s\n) as due, (%s\n) as until from %s s limit 100) r',
        (warnings._d).due, (warnings._d).until, (warnings._d).source) into _never;
    exception when others then null;   -- of a row for which it comes to nothing it is told when that is written
    end;
    if _never then
      return next '`until` is not after `due` in any row that was looked at, so that it tells nobody: write when it is of no use any more';
    end if;
  end if;
  if exists (
    select from jsonb_array_elements((warnings._d).columns) c
    where c ->> 'name' = 'user_id' and c ->> 'type' in ('real', 'double precision')
  ) then
    return next 'user_id is a number that may have a fraction, and users are told by its text: 7.5 is nobody. Write user_id::bigint';
  end if;
  if _grant is not null then
    return next 'an application that asks lastval() after it was told of is refused: ' || _grant;
  end if;
end
$$;
