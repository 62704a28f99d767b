-- notifier.trigger_name: what our trigger on a table is called: notifier_update_7. It has the function's number, since a partition
-- may be the source of events itself.
--   _operation   insert, update or delete
--   _function    the generated function
--   returns      the name
-- Used by: notifier.install_trigger, notifier.trigger_statement, notifier.check_triggers.
create or replace function notifier.trigger_name(_operation text, _function text) returns text
language sql immutable
return format('notifier_%s_%s', trigger_name._operation, substring(trigger_name._function from '\d+$'));
