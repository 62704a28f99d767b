-- What DBAs look after their events with: pauses, notifications sent for later that can be taken back, and faults in few rows.

-- They get other columns, and what a view returns cannot be replaced: they are created again with the functions.
drop view if exists notifier.event;
drop view if exists notifier.fault;

-- What users are told it is: several definitions, on several tables, may tell of one event.
alter table notifier.definition add column event text;
update notifier.definition set event = name;
alter table notifier.definition alter column event set not null;

-- Paused is regenerated without it: a disabled trigger would still cost its transition tables.
alter table notifier.definition
  add column paused_at      timestamptz,
  add column paused_by      text,
  add column paused_because text,
  add constraint a_pause_says_by_whom_and_why
    check ((paused_at is null) = (paused_by is null) and (paused_at is null) = (paused_because is null));

-- notifications and timers: those of a statement that told very many, in arrays. scheduled: as a row of notifier.scheduled.
alter table notifier.spill
  drop constraint kind_is_known,
  add constraint kind_is_known
    check (kind in ('notification', 'notifications', 'timer', 'timers', 'backfill', 'scheduled'));
-- Read once and gone: compressing it would cost the application's write more than the disk does.
alter table notifier.spill alter column record set storage external;

-- A row without a user takes back what was sent for later under its key before it.
alter table notifier.scheduled
  add column key text,
  alter column user_id drop not null,
  alter column event   drop not null,
  alter column level   drop not null,
  alter column message drop not null,
  alter column data    drop not null,
  add constraint a_scheduled_row_tells_or_takes_back
    check (num_nulls(user_id, event, level, message, data) = 0
           or num_nulls(user_id, event, level, message, data) = 5 and key is not null);

create index scheduled_key_index on notifier.scheduled (key) where key is not null;

-- Faults that the service has counted: writers only ever add to notifier.fault_record.
create table notifier.fault_total (
  event      text        not null,
  sqlstate   text        not null,
  message    text        not null,                    -- at most 500 characters, so that an index holds it
  first_seen timestamptz not null,
  last_seen  timestamptz not null,
  count      bigint      not null,
  last_id    bigint      not null,                    -- of notifier.fault_record
  primary key (event, sqlstate, message)
);

-- Events that did nothing but fail since then, as far as the service has counted.
create table notifier.failing (
  event  text        primary key,
  since  timestamptz not null,
  faults bigint      not null
);

-- What lastval() of a session is put back with: see notifier.put_back_lastval. Its values are those of others.
create sequence notifier.others_last minvalue -9223372036854775808 cycle;
-- lastval() asks for the right to read it. To name it, a role would need the schema as well.
grant select on sequence notifier.others_last to public;

-- Very many rows may be due at one instant: they are told apart by their keys, of which an index holds any by its hash.
drop index notifier.timer_event_due_index;
create index timer_event_due_index on notifier.timer (event, due_at, jsonb_hash(key));
