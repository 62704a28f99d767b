-- A dump holds unlogged tables too: restored into the very database it is of, while the server runs, it brings the present incarnation
-- back with all else, and ids with it. A row that was restored is of another transaction than the one that wrote it says.
alter table notifier.incarnation add column written_by bigint not null default 0;   -- its own version's xmin

do $$ begin
  update notifier.incarnation set written_by = 1;
  update notifier.incarnation set written_by = xmin::text::bigint;
end $$;
