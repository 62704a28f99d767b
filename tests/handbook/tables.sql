-- What the recipes of sql/README.md find in their database: a Django application's tables, and those of a help desk.

create table public.auth_user (
  id       integer primary key,
  username text    not null
);

create table public.users_profile (
  id      bigint  primary key,
  user_id integer not null unique references public.auth_user
);

create table public.authtoken_token (
  key     text    primary key,
  user_id integer not null unique references public.auth_user
);

create table public."PAYEMENT" (
  "ID"         bigint         generated always as identity primary key,
  "PROFILE_ID" bigint         not null references public.users_profile,
  "AMOUNT"     numeric(10, 2) not null,
  "STATUS"     text           not null
);

insert into public.auth_user values (42, 'paula');
insert into public.users_profile values (900, 42);
insert into public.authtoken_token values ('b1946ac92492d2347c6235b4d2611184', 42);

create table public.team_member (
  team_id bigint,
  user_id bigint,
  is_lead boolean not null default false,
  primary key (team_id, user_id)
);

create table public.ticket (
  id         bigint      generated always as identity primary key,
  opened_by  bigint      not null,
  assignee   bigint,
  team_id    bigint,
  watchers   bigint[]    not null default '{}',
  subject    text        not null,
  status     text        not null default 'open',
  updated_at timestamptz not null default now(),
  created_at timestamptz not null default now(),
  deleted_at timestamptz
);

insert into public.team_member values (1, 22, false), (1, 23, false), (1, 24, true);
insert into public.ticket (opened_by, assignee, team_id, watchers, subject) values
  (21, 22, 1, '{}',       'Printer on fire'),
  (21, 23, 1, '{21,25,26}', 'Out of paper'),
  (21, 23, 1, '{}',       'No coffee'),
  (21, 23, 1, '{25}',     'Lights flicker');
