-- What one statement told by the thousand, in arrays: told from here at once, and made rows of a moment later. It holds no row that two
-- transactions write, nobody locks it, and in it a notification takes a writer a quarter of what a row with its indexes does.
create table notifier.bulk (
  id         bigint         primary key,              -- the first of `ids`
  slot       smallint       not null,
  xid        xid8           not null default pg_current_xact_id(),
  event      text           not null,
  level      notifier.level not null,
  created_at timestamptz    not null,
  until      timestamptz,
  ids        bigint[]       not null,                 -- one element each a notification, as in all arrays here
  users      text[]         not null,
  messages   text[]         not null,
  data       jsonb[]        not null
);

-- Read twice and gone: compressing them would cost the application's write more than the disk does.
alter table notifier.bulk
  alter column ids      set storage external,
  alter column users    set storage external,
  alter column messages set storage external,
  alter column data     set storage external;

-- Asked hundreds of times a second while many write.
create index bulk_xid_index on notifier.bulk (xid);
