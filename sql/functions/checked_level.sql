-- notifier.checked_level: a level as DBAs write it, or a clear refusal.
--   _level    success, error, warning or info
--   returns   the same
--   raises    22023
-- Used by: notifier.define_event, notifier.define_timer, notifier.send.
create or replace function notifier.checked_level(_level text) returns text
language plpgsql immutable as $$
begin
  if checked_level._level is null or checked_level._level not in ('success', 'error', 'warning', 'info') then
    raise exception 'level % is not known', coalesce(quote_literal(checked_level._level), 'null')
      using errcode = 'invalid_parameter_value', hint = 'Write one of: success, error, warning, info.';
  end if;
  return checked_level._level;
end
$$;
