-- Who may do what, with as little as each needs. Run it in the application's database, before the first `migrate`, with any client:
--
--   psql "$DATABASE" -v ON_ERROR_STOP=1 -f deploy/roles.sql
--
-- as a superuser, or as the database's owner where that one may create roles (managed Postgres). It may be run again at any time:
-- it takes nothing away and changes no role that is there. It sets no passwords; afterwards, for the two that log in:
--
--   \password notifier_owner
--   \password notifier_service
--
--   notifier_owner     owns the schema `notifier` and runs `migrate`; nobody else. No superuser. What events do is done as this role:
--                      it reads the tables that events read, and writes to none of the application's
--   notifier_service   runs `serve`: calls the functions that serving takes. It reads no table of the application, defines nothing,
--                      creates nothing
--   notifier_admin     for the people who define events, and who may call notifier.revoke_user: `grant notifier_admin to alice`. They
--                      are trusted with what notifier_owner can read, since a query of theirs runs as that role, and with all
--                      notifications. They cannot write to the application's tables, and not to ours but by the functions
--   notifier_sender    for code that calls notifier.send itself: `grant notifier_sender to jobs`
--
-- The application's own role needs nothing of ours, and is given nothing: its writes are seen by triggers that run as notifier_owner.
-- Without rights on the schema it cannot read settings, notifications or the channel's name. What shows the name all the same is
-- the text of the statement LISTEN: pg_stat_activity to members of pg_monitor and pg_read_all_stats, and the log of a server with
-- log_statement = all. Whoever has learned it can be locked out by notifier.rotate_channel().
--
-- Rights on functions and tables of the schema `notifier` are given to these roles by `migrate`, each time: they have to exist
-- before it. Other names than these four it does not know; make your own roles members of them.

do $$
begin
  if to_regrole('notifier_owner') is null then
    create role notifier_owner login;
  end if;
  if to_regrole('notifier_service') is null then
    create role notifier_service login;
  end if;
  if to_regrole('notifier_admin') is null then
    create role notifier_admin nologin;
  end if;
  if to_regrole('notifier_sender') is null then
    create role notifier_sender nologin;
  end if;
end
$$;

-- The schema is made here, so that notifier_owner needs no right to create any in this database.
do $$
declare
  _owner name := (select r.rolname from pg_catalog.pg_namespace n join pg_catalog.pg_roles r on r.oid = n.nspowner
                  where n.nspname = 'notifier');
  -- From 16 on whoever made a role is its member without being able to act as it.
  _member bool := case when current_setting('server_version_num')::int >= 160000 then pg_has_role('notifier_owner', 'set')
                       else pg_has_role('notifier_owner', 'member') end;
begin
  if _owner is null then
    -- Who is no superuser gives a schema only to a role that he can act as: for as long as this takes.
    if not _member then
      execute format('grant notifier_owner to %I', current_user);
    end if;
    create schema notifier authorization notifier_owner;
    if not _member then
      execute format('revoke notifier_owner from %I', current_user);
    end if;
  elsif _owner <> 'notifier_owner' then
    raise exception 'the schema notifier belongs to %', _owner
      using hint = 'It was migrated as that role. Go on with it as the owner, or give the schema, its tables, views, sequences, types '
                   'and functions to notifier_owner first.';
  end if;
end
$$;

-- Where not everybody may connect.
do $$
declare
  _role text;
begin
  foreach _role in array array['notifier_owner', 'notifier_service', 'notifier_admin', 'notifier_sender'] loop
    if not has_database_privilege(_role, current_database(), 'connect') then
      execute format('grant connect on database %I to %I', current_database(), _role);
    end if;
  end loop;
end
$$;

-- The application's tables: as their owner, or as a superuser. Name those that have events on them, and those that queries join;
-- what is missing here is named by notifier.define_event, with the statement that grants it. Others it does not get to see.
do $$
declare
  _tables constant text[] := array[
    'public.app_user', 'public.parking_lot', 'public.parking_slot', 'public.booking', 'public.payment', 'public.carwash',
    'public.employee', 'public.employee_assignment'];
  _name text;
  _table pg_catalog.pg_class;
  _sequence regclass;
begin
  foreach _name in array _tables loop
    select * into _table from pg_catalog.pg_class c where c.oid = to_regclass(_name);
    if _table.oid is null then
      raise notice 'there is no table %: nothing is granted on it', _name;
    elsif not pg_has_role(_table.relowner, 'usage') then
      raise notice '% belongs to %: run this as that role to grant on it', _name, _table.relowner::regrole;
    else
      -- `public` is there for everybody as a rule, another schema is not.
      if not has_schema_privilege('notifier_owner', _table.relnamespace, 'usage') then
        execute format('grant usage on schema %s to notifier_owner', _table.relnamespace::regnamespace);
      end if;
      execute format('grant select, trigger on %s to notifier_owner', _name);
      -- What the application has from lastval() after an insert is put back by our trigger, which needs to see the sequence.
      for _sequence in
        select d.objid::regclass from pg_catalog.pg_depend d join pg_catalog.pg_class s on s.oid = d.objid and s.relkind = 'S'
        where d.classid = 'pg_catalog.pg_class'::regclass and d.refclassid = 'pg_catalog.pg_class'::regclass
          and d.refobjid = _table.oid and d.deptype in ('a', 'i')
      loop
        execute format('grant select on sequence %s to notifier_owner', _sequence);
      end loop;
    end if;
  end loop;
end
$$;

-- Where `serve` runs with --auth sql, the function that looks at credentials is the application's, `security definer` with a
-- search_path of its own, so that the service calls it and reads no table of credentials (sql/auth has some ready to run):
--
--   grant usage on schema app to notifier_service;
--   revoke execute on function app.authenticate(text) from public;
--   grant execute on function app.authenticate(text) to notifier_service;
