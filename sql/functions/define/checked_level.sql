-- notifier.checked_level: a level as DBAs write it, or a clear refusal.
--   _level    success, error, warning or info
--   returns   the same
--   raises    22023
-- Used by: notifier.define_event, notifier.define_timer, notifier.send.
create or replace function notifier.checked_level(_level text) returns text
language plpgsql immutable as $$
declare
  _levels constant text[] := array['success', 'error', 'warning', 'info'];
begin
  if checked_level._level is null or checked_level._level <> all (_levels) then
    raise exception 'level % is not known', coalesce(quote_literal(checked_level._level), 'null')
      using errcode = 'invalid_parameter_value',
            detail = 'The levels are, in lower case: success, error, warning, info.',
            hint = coalesce('Perhaps you meant level => ' || quote_literal(notifier.nearest(trim(checked_level._level), _levels)) || '.',
              'A level is how the message looks to the user: write level => ''info'' where nothing is good or bad about it.');
  end if;
  return checked_level._level;
end
$$;
