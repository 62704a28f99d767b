-- Who may connect: users whose credentials ended before their time, and tickets to open one socket with.

-- They return more from here on, and what a function returns cannot be replaced: they are created again with the functions.
drop function if exists notifier.stream(pg_snapshot);
drop function if exists notifier.opened(text[], text[], text[], text[], text[], boolean[], interval, integer);

-- "What this user was given until now is worth nothing." Callers only ever add; the newest row of each user stays for good, so that
-- a long-lived token does not come to life again.
create table notifier.revocation (
  id         bigint            generated always as identity primary key,
  user_id    notifier.user_key not null,
  revoked_at timestamptz       not null default clock_timestamp(),
  xid        xid8              not null default pg_current_xact_id()
);

create index revocation_xid_index on notifier.revocation (xid);
create index revocation_user_index on notifier.revocation (user_id, revoked_at, id);

-- Unlogged: after a crash a ticket of half a minute is too old in any case.
create unlogged table notifier.ticket (
  hash               bytea             primary key      -- SHA-256 of the ticket, which is nowhere in the database
    constraint hash_has_32_bytes check (octet_length(hash) = 32),
  user_id            notifier.user_key not null,
  issued_at          double precision,                  -- of the credential it was given for, as that says: seconds since 1970
  credential_expires timestamptz,                       -- null: not by itself
  sealed             bytea,                             -- that credential, which only the ticket opens
  expires_at         timestamptz       not null
);

create index ticket_user_index on notifier.ticket (user_id, expires_at);
create index ticket_expires_index on notifier.ticket (expires_at);
