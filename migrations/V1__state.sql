-- The state of parkmate-notifier: tables and indexes, never a function (those are in sql/functions and are applied again
-- by each `migrate`). Tables that an application's transaction writes have no foreign key, no unique constraint but their
-- own identity, no trigger and no counter: two writers never meet on a row of ours.

-- A user's id as an index can hold it: a longer one is a fault of the event, never of the application's write.
create domain notifier.user_key as text
  constraint user_key_has_1_to_255_bytes check (octet_length(value) between 1 and 255);

create domain notifier.level as text
  constraint level_is_success_error_warning_or_info check (value in ('success', 'error', 'warning', 'info'));

-- What differs between databases and is decided once: the channel's secret name, the time zone messages are written in.
create table notifier.setting (
  name  text primary key,
  value text not null
);

insert into notifier.setting (name, value) values
  ('channel',  'notifier_' || replace(gen_random_uuid()::text, '-', '')),
  ('timezone', current_setting('TimeZone'));

-- The notifications: the truth that NOTIFY only announces. A ring of 16 leaves by the day of creation: old days are
-- emptied leaf by leaf, which no writer waits for, and no leaf is ever created or dropped.
create sequence notifier.notification_id;

create table notifier.notification (
  id            bigint      not null default nextval('notifier.notification_id'),
  slot          smallint    not null,
  xid           xid8        not null default pg_current_xact_id(),
  user_id       text        not null,
  event         text        not null,
  level         notifier.level not null,
  message       text        not null,
  data          jsonb       not null,
  created_at    timestamptz not null,
  until         timestamptz,                -- past it, it is history and no longer a toast
  delivered_at  timestamptz,                -- a socket of the user confirmed it
  summarized_at timestamptz,                -- told as "n more wait in your inbox": not sent again
  read_at       timestamptz,
  primary key (id, slot),
  constraint slot_is_the_day_of_creation
    check (slot = (floor(extract(epoch from created_at) / 86400)::bigint % 16)::smallint)
) partition by list (slot);

do $$
begin
  for _slot in 0..15 loop
    -- fillfactor: delivered_at is in no index, so confirming is a heap-only update where the page has room.
    execute format('create table notifier.notification_%s partition of notifier.notification for values in (%s)
                    with (fillfactor = 85)', _slot, _slot);
  end loop;
end $$;

create index notification_xid_index on notifier.notification (xid);
create index notification_user_index on notifier.notification (user_id, id) include (read_at);

-- What a transaction could not write because somebody held a lock on our table: nobody locks or maintains this one, and
-- the service moves its rows to where they belong.
create table notifier.spill (
  id        bigint generated always as identity primary key,
  kind      text   not null constraint kind_is_known check (kind in ('notification', 'timer', 'backfill')),
  record    jsonb  not null
);

-- What DBAs defined. `source` follows its table through a rename, and by name into a restored database; `source_name` is what
-- it was called when it was defined, to notice a swap of names.
create table notifier.definition (
  name        text           primary key,
  kind        text           not null constraint kind_is_write_or_timer check (kind in ('write', 'timer')),
  source      regclass       not null,
  source_name text           not null,
  operation   text           not null
    constraint operation_is_known check (operation in ('insert', 'update', 'delete', 'insert or update')),
  level       notifier.level not null,
  message     text           not null,
  query       text           not null,
  due         text,
  until       text,
  columns     jsonb          not null,      -- of the query, in order: [{"name": .., "type": ..}]
  version     integer        not null default 1,
  defined_at  timestamptz    not null default clock_timestamp(),
  defined_by  text           not null default session_user,
  constraint a_timer_has_due_and_until check ((kind = 'timer') = (due is not null) and (kind = 'timer') = (until is not null))
);

create index definition_source_index on notifier.definition (source);

create table notifier.event_history (
  name        text        not null,
  version     integer     not null,
  definition  jsonb       not null,         -- the row of notifier.definition as it was
  replaced_at timestamptz not null default clock_timestamp(),
  replaced_by text        not null default session_user,
  primary key (name, version)
);

-- Names of generated functions come from here and never from an OID: a restore keeps names, and OIDs come back as others.
create table notifier.generated (
  id        integer generated always as identity primary key,
  kind      text not null constraint kind_is_write_or_timer check (kind in ('write', 'timer')),
  source    regclass,                       -- of a write
  operation text,                           -- of a write
  event     text,                           -- of a timer
  constraint a_generated_function_serves_one_thing unique (source, operation),
  constraint a_timer_has_one_generated_function unique (event),
  constraint a_write_has_source_and_operation check ((kind = 'write') = (source is not null and operation is not null)),
  constraint a_timer_has_event check ((kind = 'timer') = (event is not null))
);

-- "Look at this row at that time": rows of writers only ever added, by the service taken away. Not unique, since a unique
-- constraint would make writers wait for the scheduler; duplicates collapse when fired.
create table notifier.timer (
  id      bigint      generated always as identity primary key,
  event   text        not null,
  key     jsonb       not null,             -- the source row's primary key, its columns as texts: ["7"]
  due_at  timestamptz not null,
  barrier xid8,                             -- of the service: looked at once and not told; once more when this is past
  looks   integer     not null default 0    -- of the service: how often it waited for the barrier
);

create index timer_event_due_index on notifier.timer (event, due_at);

-- What was fired: written by the service alone, so that a timer tells once whatever the number of instances.
create table notifier.fired (
  event  text        not null,
  key    jsonb       not null,
  due_at timestamptz not null,
  until  timestamptz not null,              -- the row may go when this has passed
  primary key (event, key, due_at)
);

-- Rows that were there before their timer was defined: the service arms them in batches, the next 24 hours first.
create table notifier.backfill (
  event      text        primary key,
  pass       smallint    not null default 1, -- 1: due within 24 hours; 2: all; 3: all once more, after the barrier
  after_key  jsonb,                          -- the last key this pass has seen
  barrier    xid8,                           -- taken when the service begins, which is after the definition was committed
  not_before timestamptz not null default '-infinity'
);

-- Notifications sent by hand for later.
create table notifier.scheduled (
  id      bigint         generated always as identity primary key,
  send_at timestamptz    not null,
  user_id text           not null,
  event   text           not null,
  level   notifier.level not null,
  message text           not null,
  data    jsonb          not null
);

create index scheduled_send_at_index on notifier.scheduled (send_at);

-- Faults of events, at most one row for each event and transaction; notifier.fault counts them.
create table notifier.fault_record (
  id          bigint      generated always as identity primary key,
  event       text        not null,
  sqlstate    text        not null,
  message     text        not null,
  recorded_at timestamptz not null default clock_timestamp()
);

create index fault_record_event_index on notifier.fault_record (event);
