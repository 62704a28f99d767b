-- What delivery survives with: which history of the database this is, how far it was read, and what each device has had.

-- It returns more from here on, and what a function returns cannot be replaced: it is created again with the others.
drop function if exists notifier.stream(pg_snapshot);

-- A history of the database in which ids and transaction ids come once. Another begins whenever they may have come back: after
-- a restart of the server, a promotion, a restore. The last row is the present one.
create table notifier.epoch (
  number            integer     generated always as identity primary key,
  token             text        not null default left(replace(gen_random_uuid()::text, '-', ''), 16),   -- cursors carry it
  system_identifier bigint      not null,
  database          oid         not null,
  position          pg_snapshot not null default '4:4:',   -- all that is visible in it is the same as in the epoch before
  started_at        timestamptz not null default clock_timestamp(),
  reason            text        not null
);

insert into notifier.epoch (system_identifier, database, reason)
select s.system_identifier, d.oid, 'installed'
from pg_control_system() s, pg_catalog.pg_database d where d.datname = current_database();

-- Which run of the server the present epoch belongs to. Unlogged: the server empties it when it recovers from a crash, when a
-- standby is promoted, and when a physical backup is restored, which is when committed transactions may be gone.
create unlogged table notifier.incarnation (
  epoch      integer     primary key,
  timeline   text        not null,
  started_at timestamptz not null
);

insert into notifier.incarnation (epoch, timeline, started_at)
select e.number, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), pg_postmaster_start_time() from notifier.epoch e;

-- How far the stream was read, and how far it may be forgotten: one row, written by the service alone.
create table notifier.progress (
  only_row boolean     primary key default true constraint progress_is_one_row check (only_row),
  epoch    integer     not null default 1,                      -- the present one
  position pg_snapshot not null default pg_current_snapshot(),  -- all that is visible in it is as durable as this row
  noted_at timestamptz not null default clock_timestamp(),
  swept_at timestamptz not null default '-infinity',            -- when expired notifications were last looked for
  -- What was visible at swept_at. A prepared transaction, or one that was long open, commits rows that were created long ago and
  -- that nobody has read yet: only what was visible when the sweep before ended may go.
  swept_position pg_snapshot not null default pg_current_snapshot(),
  pruned   xid8        not null default '0'                     -- no transaction after it has lost a row to that
);

insert into notifier.progress default values;

-- What a device has had: all of its user's that is visible in `position`, and the notifications in `told` beside it.
create table notifier.device (
  user_id  text        not null,
  device   text        not null,
  epoch    integer     not null,
  position pg_snapshot not null,
  told     bigint[]    not null default '{}',
  seen_at  timestamptz not null default clock_timestamp(),
  primary key (user_id, device)
) with (fillfactor = 85);
