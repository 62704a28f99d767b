-- notifier.trigger_statement: the statement that creates our trigger on a table.
--   _table       the table
--   _operation   insert, update or delete
--   _function    the generated function it calls
--   returns      a `create trigger`, without a semicolon
-- Used by: notifier.install_trigger, notifier.check_triggers.
create or replace function notifier.trigger_statement(_table regclass, _operation text, _function text) returns text
language sql stable
return format('create trigger %I after %s on %s referencing %s for each statement execute function %s()',
  notifier.trigger_name(trigger_statement._operation, trigger_statement._function), trigger_statement._operation,
  trigger_statement._table,
  case trigger_statement._operation
    when 'insert' then 'new table as new'
    when 'update' then 'old table as old new table as new'
    else 'old table as old' end,
  trigger_statement._function);
