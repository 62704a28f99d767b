-- The tables that the benches write to.

-- Its rows are told to their users.
create table public.told (
  id      bigint generated always as identity primary key,
  user_id bigint not null,
  number  bigint not null,
  filler  text   not null default ''
);

select notifier.define_event(
  name      => 'bench.told',
  source    => 'public.told',
  operation => 'insert',
  level     => 'info',
  message   => 'This is number {number}.',
  query     => $$ select user_id, number, nullif(filler, '') as filler from new $$);

-- The same row for plain LISTENs. The triggers that call the function are made where the size of a payload is known.
create table public.floor (like public.told including all);
create table public.hop   (like public.told including all);

create function public.ring_plainly() returns trigger language plpgsql as $$
begin
  perform pg_notify(tg_argv[1], rpad(new.number::text, tg_argv[0]::integer));
  return null;
end
$$;

-- An application's table, updated row by row: without a trigger, with an event, and with the trigger one finds in handbooks.
create table public.account (id bigint primary key, user_id bigint not null, balance bigint not null) with (fillfactor = 50);
create table public.account_told   (like public.account including all) with (fillfactor = 50);
create table public.account_rung   (like public.account including all) with (fillfactor = 50);
create table public.account_outbox (like public.account including all) with (fillfactor = 50);
create table public.account_least  (like public.account including all) with (fillfactor = 50);

select notifier.define_event(
  name      => 'bench.balance',
  source    => 'public.account_told',
  operation => 'update',
  level     => 'info',
  message   => 'Your balance is {balance}.',
  query     => $$ select user_id, id as account_id, balance from changed where balance is distinct from (was).balance $$);

create table public.outbox (
  id         bigint generated always as identity primary key,
  created_at timestamptz not null default clock_timestamp(),
  user_id    text  not null,
  data       jsonb not null
);

-- The least there is: a row of an outbox, and nobody is told.
create function public.outbox() returns trigger language plpgsql as $$
begin
  insert into public.outbox (user_id, data) values (new.user_id, jsonb_build_object('account_id', new.id, 'balance', new.balance));
  return null;
end
$$;

create trigger outbox after update on public.account_outbox for each row execute function public.outbox();

-- The least there is under our rules, and none of what makes it ours but these: the settings, whoever writes; a fault that fails no write; a
-- row that readers find by user, by id and by transaction. It knows its one event by heart, waits for locks, and tells nobody.
create table public.least (like notifier.notification_0 including all) with (fillfactor = 45);

do $do$
begin
  execute format($function$
    create function public.least() returns trigger %s as $body$
    declare
      _user text;
      _message text;
      _data jsonb;
    begin
      begin
        select n.user_id::text, 'Your balance is ' || n.balance || '.', jsonb_build_object('account_id', n.id, 'balance', n.balance)
        into _user, _message, _data
        from new n, old o where n.balance is distinct from o.balance;
      exception when others then
        return null;
      end;
      if _user is not null then
        insert into public.least (id, slot, user_id, event, level, message, data, created_at)
        values (nextval('public.outbox_id_seq'), 0, _user, 'bench.balance', 'info', _message, _data, clock_timestamp());
      end if;
      return null;
    end
    $body$$function$, notifier.function_settings('50ms'));
end $do$;

create trigger least after update on public.account_least referencing old table as old new table as new
for each statement execute function public.least();

create function public.outbox_and_notify() returns trigger language plpgsql as $$
declare
  _data constant jsonb := jsonb_build_object('account_id', new.id, 'balance', new.balance);
begin
  insert into public.outbox (user_id, data) values (new.user_id, _data);
  perform pg_notify('plain', json_build_object('user_id', new.user_id, 'event', 'bench.balance', 'level', 'info',
    'message', 'Your balance is ' || new.balance || '.', 'data', _data)::text);
  return null;
end
$$;

create trigger outbox_and_notify after update on public.account_rung for each row execute function public.outbox_and_notify();
