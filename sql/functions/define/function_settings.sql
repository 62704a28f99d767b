-- notifier.function_settings: what every generated function runs under, whoever wrote the row and however their session is set.
--   _lock_timeout   how long one lock may take
--   returns         SECURITY DEFINER and the SET clauses of `create function`
-- Used by: notifier.write_function, notifier.timer_functions.
create or replace function notifier.function_settings(_lock_timeout text) returns text
language sql stable
return format(
  -- Texts of keys have to be read back, and literals of queries read as they were written.
  -- row_security off: a policy on a joined table is a fault somebody sees, not silently nobody told. jit off: estimates of
  -- a statement that once was large must not cost every small one a compilation.
  'language plpgsql security definer
set search_path = pg_catalog, pg_temp
set timezone = %L
set datestyle = ''ISO, YMD''
set intervalstyle = postgres
set bytea_output = hex
set extra_float_digits = 1
set standard_conforming_strings = on
set exit_on_error = off
set row_security = off
set jit = off
set lock_timeout = %L',
  (select s.value from notifier.setting s where s.name = 'timezone'), function_settings._lock_timeout);
