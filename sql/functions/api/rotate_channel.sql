-- notifier.rotate_channel: give the channel another secret name. Instances that listen follow within two seconds, and lose
-- nothing by it: what is announced meanwhile they read.
-- Used by: DBAs, when the name may have become known; notifier.begin_epoch, notifier.new_epoch.
create or replace function notifier.rotate_channel() returns void
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
  update notifier.setting set value = 'notifier_' || replace(gen_random_uuid()::text, '-', '') where name = 'channel';
end;
