-- notifier.revoke_user: close all sockets of a user, on every instance, within two seconds of the commit. A JWT that was issued
-- before is worth nothing from now on; a token that the application's own function knows is asked for again. Only ever adds a row:
-- any number may call it for one user at once, as often as they like, and nobody waits.
--   user_id   whose; it need not have a socket, now or ever
--   raises    22004 without a user, 22023 for a user_id of 0 or more than 255 bytes
-- NOTIFYs {"revoked":{"user_id","at"}}, `at` in seconds since 1970. Whoever does not hear it reads the row within a second.
-- Used by: DBAs, and applications that are granted it: when somebody is blocked, changes a password, logs out everywhere.
create or replace function notifier.revoke_user(user_id text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
  _at timestamptz;
begin
  if revoke_user.user_id is null then
    raise exception 'user_id is null' using errcode = 'null_value_not_allowed', hint = 'select notifier.revoke_user(''42'')';
  end if;
  if octet_length(revoke_user.user_id) not between 1 and 255 then
    raise exception 'user_id has % bytes', octet_length(revoke_user.user_id) using errcode = 'invalid_parameter_value',
      hint = 'Give the id that the user connects with, which has 1 to 255: select notifier.revoke_user(''42'')';
  end if;
  -- Later than the one before, whatever the clock says since: a server that was promoted may have one that is behind.
  insert into notifier.revocation (user_id, revoked_at)
  values (revoke_user.user_id, greatest(clock_timestamp(), (
    select max(r.revoked_at) + interval '1 microsecond' from notifier.revocation r where r.user_id = revoke_user.user_id)))
  returning revoked_at into _at;
  -- Rare, and nobody asks to be rung for it: whatever the relay does with notifications, this is told at once. A full queue would
  -- fail the commit.
  if notifier.doorbell() <> 'off' and pg_notification_queue_usage() < 0.25 then
    -- numeric: a float would be written as extra_float_digits says.
    perform notifier.announce(array[json_build_object('revoked', json_build_object(
      'user_id', revoke_user.user_id, 'at', extract(epoch from _at)))::text]);
  end if;
end
$$;
