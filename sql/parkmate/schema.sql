-- The parking application's tables, as far as its ten events need them. An application of its own has these already; here
-- they stand for it in the demo, the tests and the handbook. Nothing in them knows of notifications.

create table public.app_user (
  id    bigint generated always as identity primary key,
  name  text   not null,
  email text   not null unique
);

create table public.parking_lot (
  id       bigint generated always as identity primary key,
  owner_id bigint not null references public.app_user,
  name     text   not null
);

create table public.parking_slot (
  id     bigint generated always as identity primary key,
  lot_id bigint not null references public.parking_lot,
  label  text   not null
);

create table public.booking (
  id         bigint      generated always as identity primary key,
  user_id    bigint      not null references public.app_user,
  slot_id    bigint      not null references public.parking_slot,
  start_time timestamptz not null default now(),
  end_time   timestamptz not null,
  status     text        not null default 'booked',   -- booked, checked_in, completed, cancelled, cancelled_by_admin
  created_at timestamptz not null default now()
);

create table public.payment (
  id         bigint         generated always as identity primary key,
  booking_id bigint         not null references public.booking,
  user_id    bigint         not null references public.app_user,
  amount     numeric(10, 2) not null,
  method     text           not null default 'card',      -- card, cash
  status     text           not null default 'pending',   -- pending, success, failed, verified
  is_renewal boolean        not null default false,
  created_at timestamptz    not null default now()
);

create table public.carwash (
  id         bigint generated always as identity primary key,
  booking_id bigint not null references public.booking,
  service    text   not null default 'exterior',
  status     text   not null default 'requested'           -- requested, in_progress, completed
);

create table public.employee (
  id   bigint generated always as identity primary key,
  name text   not null
);

create table public.employee_assignment (
  id          bigint      generated always as identity primary key,
  employee_id bigint      not null references public.employee,
  lot_id      bigint      not null references public.parking_lot,
  assigned_at timestamptz not null default now()
);

create index booking_user_index on public.booking (user_id);
create index parking_slot_lot_index on public.parking_slot (lot_id);
