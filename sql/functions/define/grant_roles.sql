-- notifier.grant_roles: give the three roles what they need and nothing else, where they exist. Where the database's owner
-- does it all, none has to.
--   notifier_admin     defines events
--   notifier_sender    may call notifier.send
--   notifier_service   runs the binary
-- Used by: migrate.
create or replace function notifier.grant_roles() returns void
language plpgsql
set search_path = pg_catalog, pg_temp as $$
begin
  revoke all on all functions in schema notifier from public;
  if to_regrole('notifier_admin') is not null then
    grant usage on schema notifier to notifier_admin;
    grant select on notifier.event, notifier.fault, notifier.event_history, notifier.notification, notifier.bulk_notification
      to notifier_admin;
    grant execute on function
      notifier.define_event(text, regclass, text, text, text, text, text),
      notifier.define_timer(text, regclass, text, text, text, text, text, text),
      notifier.drop_event(text),
      notifier.pause_event(text, text),
      notifier.resume_event(text),
      notifier.preview_event(text, text, jsonb, jsonb),
      notifier.restore_event(text, integer),
      notifier.export_events(),
      notifier.event_stats(timestamptz),
      notifier.check(),
      notifier.sweep(interval),
      notifier.revoke_user(text),
      notifier.new_epoch(),
      notifier.rotate_channel()
      to notifier_admin;
  end if;
  if to_regrole('notifier_sender') is not null then
    grant usage on schema notifier to notifier_sender;
    grant execute on function
      notifier.send(text, text, text, jsonb, text, timestamptz, text),
      notifier.cancel_send(text)
      to notifier_sender;
  end if;
  if to_regrole('notifier_service') is not null then
    grant usage on schema notifier to notifier_service;
    grant select on notifier.setting, notifier.schema_history to notifier_service;
    grant execute on function
      notifier.identify(text),
      notifier.read_on(pg_snapshot), notifier.stream(pg_snapshot, boolean),
      notifier.note_position(text, pg_snapshot),
      notifier.opened(text[], text[], text[], text[], text[], boolean[], interval, integer),
      notifier.missed(text[], text[], text[], bigint[], integer),
      notifier.confirm(bigint[], smallint[], bigint[]),
      notifier.summarize(text, text, pg_snapshot, bigint),
      notifier.remember(text[], text[], text[], text[], text[]),
      notifier.inbox(text, bigint, integer, boolean),
      notifier.unread(text[]),
      notifier.mark_read(text, bigint[], bigint, text),
      notifier.auth_function(text),
      notifier.authenticate(text, text[]),
      notifier.revoked(text[]),
      notifier.revocations(pg_snapshot),
      notifier.issue_ticket(bytea, text, double precision, double precision, bytea),
      notifier.redeem_tickets(bytea[]),
      notifier.work(interval),
      notifier.become_relay(),
      notifier.hang_bell(bigint),
      notifier.take_down_bell(),
      notifier.pass_on(bigint, text, pg_snapshot, pg_snapshot),
      notifier.tend(bigint),
      notifier.committing(),
      notifier.beat(text)
      to notifier_service;
  end if;
end
$$;
