-- notifier.event_plan: how Postgres would run an event's query for one changed row, or a timer's for one that is due. The row is
-- stood in for, so that the plan has only what the query itself reads. Nothing is run.
--   _d        the definition
--   returns   EXPLAIN's JSON; null when the query does not fit its tables any more
-- Used by: notifier.scans, notifier.warnings.
create or replace function notifier.event_plan(_d notifier.definition) returns jsonb
language plpgsql as $$
declare
  _operation text := split_part((event_plan._d).operation, ' or ', -1);
  _row       text := format('as materialized (select (null::%s).*)', (event_plan._d).source);
  _with      text;
  _plan      json;
begin
  _with := case when (event_plan._d).kind = 'timer' then 'due ' || _row
    else concat_ws(', ',
      case when _operation <> 'delete' then 'new ' || _row end,
      case when _operation <> 'insert' then 'old ' || _row end,
      nullif(notifier.change_tables(_operation, (event_plan._d).operation, true), '')) end;
  execute format(E'explain (verbose, format json) with %s select * from (\n%s\n) q where q.user_id is not null', _with, (event_plan._d).query)
  into _plan;
  raise exception using errcode = 'NTF00';
exception
  when sqlstate 'NTF00' then
    return _plan::jsonb;   -- without the locks that planning takes
  when serialization_failure or deadlock_detected then raise;
  when others then return null;
end
$$;
