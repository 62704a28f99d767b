-- notifier.doorbell: whether writers NOTIFY what they commit.
--   _setting  the setting notifier.doorbell; by default that of this session
--   returns   'auto': while the relay asks for it; 'on': always; 'off': never, for applications that use PREPARE TRANSACTION, which
--             fails after NOTIFY
-- Used by: notifier.rung, notifier.tend.
create or replace function notifier.doorbell(_setting text default current_setting('notifier.doorbell', true)) returns text
language sql immutable parallel safe
return case lower(coalesce(_setting, ''))
  when 'off' then 'off' when 'false' then 'off' when '0' then 'off' when 'no' then 'off'
  when 'on' then 'on' when 'true' then 'on' when '1' then 'on' when 'yes' then 'on'
  else 'auto' end;
