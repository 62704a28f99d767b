-- notifier.muted: whether this transaction asked to tell nobody (`set local notifier.mute = on`, for a bulk load).
--   returns  true while muted; after `set local` has ended the setting is '', which is no boolean and means no
-- Used by: the generated trigger functions.
create or replace function notifier.muted() returns boolean
language sql stable parallel safe
return coalesce(current_setting('notifier.mute', true), '') in ('on', 'true', '1');
