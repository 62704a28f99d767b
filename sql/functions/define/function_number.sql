-- notifier.function_number: the number in the name of a generated function, the same for as long as what it serves exists.
--   _kind                'write' or 'timer'
--   _source, _operation  of a write: the table and insert, update or delete
--   _event               of a timer
--   returns              the number, for notifier.on_write_, notifier.fire_, notifier.backfill_
-- Used by: notifier.write_function, notifier.timer_functions, notifier.work.
create or replace function notifier.function_number(
  _kind text, _source regclass default null, _operation text default null, _event text default null
) returns integer
language plpgsql as $$
declare
  _id integer;
begin
  select g.id into _id from notifier.generated g
  where g.kind = function_number._kind
    and (g.source, g.operation, g.event)
        is not distinct from (function_number._source, function_number._operation, function_number._event);
  if _id is null then
    insert into notifier.generated (kind, source, operation, event)
    values (function_number._kind, function_number._source, function_number._operation, function_number._event)
    returning id into _id;
  end if;
  return _id;
end
$$;
