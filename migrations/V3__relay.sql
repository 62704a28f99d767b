-- One relay at a time, and the number that fences it off from those before it.

-- They return more from here on, and what a function returns cannot be replaced. An instance of the version before that still runs
-- beside this one leads until it ends if it does so already, and otherwise no more; it reads on by itself.
drop function if exists notifier.lead();
drop function if exists notifier.stream(pg_snapshot);
drop function if exists notifier.change_tables(text, text);

alter table notifier.progress
  add column generation bigint not null default 0;          -- of the relay: one more with each that takes over
