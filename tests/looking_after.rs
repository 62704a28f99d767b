//! What a DBA looks after events with: the script that defines them all, what each did, and what broke.

use std::time::{Duration, Instant};

use parkmate_notifier::store::Store;
use tokio_postgres::Client;

use crate::support::{Database, Service, Socket, database, eventually};

async fn export(database: &Database) -> String {
    database.one("select notifier.export_events()").await
}

async fn versions(database: &Database) -> String {
    database.one("select string_agg(name || ' ' || version, ', ' order by name) from notifier.event").await
}

/// Tables and texts that are not easily written down again.
const ODD_TABLES: &str = r#"
    create schema "My App";
    create table "My App"."PAY""MENT's" ("user" text, "End" timestamptz, "$$" int, primary key ("$$", "user"));
    create table public.plain (id int primary key, user_id int, at timestamptz);"#;
const ODD_EVENTS: &str = r#"
    select notifier.define_event('odd.quotes', '"My App"."PAY""MENT''s"', 'insert or update', 'info',
      E'It''s \\ {{"x"}} \\n $$ {n}\nand a line %L %s',
      E'select "user" as user_id, "$$" as n, ''$query$'' as q, E''\\\\\\t'' as e\r\n\tfrom   changed   -- who''s told;');
    select notifier.define_event('odd.one_line', 'public.plain', 'delete', 'success', 'Gone.', 'select user_id from old -- $;  ');
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_exported_script_brings_all_events_back_and_changes_nothing_where_they_are() {
    let database = Database::new().await;
    database.run(ODD_TABLES).await;
    database.run(ODD_EVENTS).await;
    // Queries with the letters that quote them.
    for (name, query) in [
        ("odd.d0", "select user_id, 'a$' as \"$\" from new -- $"),
        ("odd.d1", "\n  select user_id, '$$' as a from new"),
        ("odd.d2", "select user_id, '$$ $query$ $query' as a from new /* $query$\n */"),
        ("odd.d3", "select user_id, '$$' as \"$query\" from new -- $query"),
        ("odd.d4", "select user_id from new -- $query"),
    ] {
        let define = "select notifier.define_event($1, 'public.plain', 'insert', 'info', $1, $2)";
        database.owner.query(define, &[&name, &query]).await.unwrap();
        let kept: String = database.one(&format!("select query from notifier.event where name = '{name}'")).await;
        assert_eq!(kept, query);
    }
    database
        .run("select notifier.pause_event('booking.expired'); select notifier.pause_event('booking.declined', e'It''s \\\\ $$ much');
             select notifier.define_timer('odd.timer', 'public.plain', e'  at /* when\\nit is */ \\n', 'info', 'Now.', 'select user_id from due')")
        .await;
    let (script, before) = (export(&database).await, versions(&database).await);
    let written = include_str!("../sql/parkmate/events.sql");
    let as_written = script.split("\n\n").filter(|statement| written.contains(*statement)).count();
    assert_eq!(as_written, 8, "but for two that are paused, laid out as a person would\n{script}");
    assert!(script.contains("\nselect notifier.pause_event('booking.expired');\n"), "{script}");

    database.run(&script).await;
    assert_eq!(versions(&database).await, before, "on top of itself it changes nothing");
    assert_eq!(export(&database).await, script);

    database.run("select notifier.drop_event(name) from notifier.event").await;
    assert_eq!(export(&database).await.matches("define").count(), 1, "the first line alone");
    database.run(&script).await;
    assert_eq!(export(&database).await, script);

    let copy = Database::new().await;
    copy.run("select notifier.drop_event(name) from notifier.event").await;
    copy.run(ODD_TABLES).await;
    copy.run(&script).await;
    assert_eq!(export(&copy).await, script);
    let all = "select string_agg(to_jsonb(d)::text, e'\\n' order by name) from (select name, kind, source, operation, level, message,
               query, due, until, installed, paused, paused_because from notifier.event) d";
    assert_eq!(copy.one::<String>(all).await, database.one::<String>(all).await);

    // All or nothing.
    copy.run("select notifier.drop_event(name) from notifier.event; drop table public.plain").await;
    copy.owner.batch_execute(&script).await.unwrap_err();
    copy.run("rollback").await;
    assert_eq!(copy.one::<i64>("select count(*) from notifier.event").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exported_script_pauses_what_is_paused_and_leaves_out_what_has_no_table() {
    let database = Database::new().await;
    database
        .run(
            "select notifier.drop_event(name) from notifier.event where name not in ('payment.verified', 'carwash.completed');
             create table public.later (user_id int); create table public.gone (user_id int);
             select notifier.define_event('later.event', 'public.later', 'insert', 'info', 'a\\b', 'select user_id from new');
             select notifier.define_event('gone.event', 'public.gone', 'insert', 'info', 'Gone.', e'select user_id\nfrom new');
             drop table public.gone, public.later; create table public.later (user_id int);
             select notifier.pause_event('payment.verified', 'too many')",
        )
        .await;
    assert_eq!(
        export(&database).await,
        r#"-- The events and timers of schema notifier: all are defined, or none.
begin;
set local standard_conforming_strings = on;

select notifier.define_event(
  name      => 'carwash.completed',
  source    => 'public.carwash',
  operation => 'update',
  level     => 'success',
  message   => 'Your car wash ({service}) is completed.',
  query     => $$
    select booking.user_id, changed.id as carwash_id, changed.booking_id, changed.service
    from   changed
    join   public.booking on booking.id = changed.booking_id
    where  lower(changed.status) = 'completed' and lower((changed.was).status) is distinct from 'completed'
  $$);

-- Not defined, because the table is gone:
-- select notifier.define_event(
--   name      => 'gone.event',
--   source    => 'public.gone',
--   operation => 'insert',
--   level     => 'info',
--   message   => 'Gone.',
--   query     => $$select user_id
-- from new
--   $$);

select notifier.define_event(
  name      => 'later.event',
  source    => 'public.later',
  operation => 'insert',
  level     => 'info',
  message   => 'a\b',
  query     => $$select user_id from new$$);

select notifier.define_event(
  name      => 'payment.verified',
  source    => 'public.payment',
  operation => 'update',
  level     => 'success',
  message   => 'Cash payment verified.',
  query     => $$
    select user_id, id as payment_id, booking_id, amount
    from   changed
    where  lower(method) = 'cash'
      and  lower(status) = 'verified' and lower((was).status) is distinct from 'verified'
  $$);
select notifier.pause_event('payment.verified', because => 'too many');

commit;
"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_each_event_did_is_counted_since_a_time() {
    let database = Database::new().await;
    let hour = "now() - interval '1 hour'";
    let told = async |since: &str, event: &str| {
        database.forget_slowness().await;
        let stats = format!(
            "select format('%s %s: %s to %s, %s delivered, %s read, %s wait, %s, %s, %s faults', s.event, s.kind, s.notifications,
                    s.users, s.delivered, s.read, s.waiting, coalesce(s.median_delivery::text, 'never'),
                    coalesce(now() - s.last_told_at < interval '1 minute', false), s.faults)
             from notifier.event_stats({since}) s where s.event = '{event}'"
        );
        database.rows(&stats).await.first().map(|row| row.get::<_, String>(0)).unwrap_or_default()
    };
    assert_eq!(database.one::<i64>("select count(*) from notifier.event_stats()").await, 10, "told or not");
    let nothing = "payment.verified write: 0 to 0, 0 delivered, 0 read, 0 wait, never, f, 0 faults";
    assert_eq!(told(hour, "payment.verified").await, nothing);

    // Five, of two users, of which one was dealt with in each way, and the last but one is too late to wait.
    for _ in 0..2 {
        database.write("update payment set status = 'verified' where method = 'cash'").await;
        database.write("update payment set status = 'pending'").await;
    }
    database.write("update payment set status = 'verified' where id = 201").await;
    let ids: Vec<i64> = database.one("select array_agg(id order by id) from notifier.notification").await;
    assert_eq!(ids.len(), 5);
    for (id, set) in [
        (ids[0], "delivered_at = created_at + interval '1 second', read_at = created_at + interval '1 minute'"),
        (ids[1], "delivered_at = created_at + interval '3 seconds'"),
        (ids[2], "summarized_at = created_at"),
        (ids[3], "until = created_at"),
    ] {
        database.run(&format!("update notifier.notification set {set} where id = {id}")).await;
    }
    let five = "payment.verified write: 5 to 2, 2 delivered, 1 read, 1 wait, 00:00:02, t, 0 faults";
    assert_eq!(told(hour, "payment.verified").await, five);
    assert_eq!(told("null", "payment.verified").await, five);
    assert_eq!(told("'-infinity'", "payment.verified").await, five);
    assert_eq!(told("clock_timestamp()", "payment.verified").await, nothing);

    // Yesterday's and last week's, and what was there before `since`.
    for days in [2, 8, 14] {
        database
            .run(&format!(
                "insert into notifier.notification (slot, user_id, event, level, message, data, created_at)
                 select notifier.slot(c.at), '9', 'booking.declined', 'info', 'x', '{{}}', c.at
                 from (select now() - interval '{days} days' as at) c"
            ))
            .await;
    }
    for (since, count) in [("1 day", 0), ("49 hours", 1), ("9 days", 2), ("15 days", 3), ("16 days", 3), ("90 days", 3)]
    {
        let declined = told(&format!("now() - interval '{since}'"), "booking.declined").await;
        assert!(declined.starts_with(&format!("booking.declined write: {count} to ")), "{since}: {declined}");
    }

    // What was sent, and what is no more.
    database.run("select notifier.send('7', 'info', 'Hello.', event => 'by.hand'); select notifier.drop_event('payment.verified')").await;
    assert_eq!(told(hour, "by.hand").await, "by.hand sent: 1 to 1, 0 delivered, 0 read, 1 wait, never, t, 0 faults");
    assert_eq!(told(hour, "payment.verified").await, five.replace("write", "dropped"));

    // Faults, as they come and as the service has counted them.
    database.run("alter table public.booking rename column status to state").await;
    database.write("update booking set state = state where id = 101").await;
    database
        .run(
            "insert into notifier.fault_total (event, sqlstate, message, first_seen, last_seen, count, last_id)
             values ('booking.declined', '22012', 'a', now() - interval '3 days', now() - interval '5 minutes', 7, 1),
                    ('booking.declined', '22012', 'b', now() - interval '3 days', now() - interval '2 days', 9, 1)",
        )
        .await;
    let declined = "booking.declined write: 0 to 0, 0 delivered, 0 read, 0 wait, never, f, 8 faults";
    assert_eq!(told(hour, "booking.declined").await, declined);
}

/// A day's statistics do not read two weeks of notifications.
#[tokio::test(flavor = "multi_thread")]
async fn statistics_read_no_leaves_but_those_of_their_days() {
    let database = Database::new().await;
    let scanned = "select count(*) from pg_locks l join pg_class c on c.oid = l.relation
                   where l.pid = pg_backend_pid() and c.relname ~ '^notification_[0-9]+$'";
    for (since, leaves) in [("1 hour", 2..=3), ("3 days", 5..=5), ("30 days", 16..=16)] {
        database.run("begin").await;
        database.rows(&format!("select * from notifier.event_stats(now() - interval '{since}')")).await;
        let locked: i64 = database.one(scanned).await;
        database.run("rollback").await;
        assert!(leaves.contains(&locked), "{since}: {locked}");
    }
}

type Finding = [String; 4];

fn finding(severity: &str, event: &str, problem: impl Into<String>, fix: impl Into<String>) -> Finding {
    [severity.into(), event.into(), problem.into(), fix.into()]
}

async fn check(database: &Database) -> Vec<Finding> {
    let rows = database.rows("select severity, coalesce(event, ''), problem, fix from notifier.check()").await;
    let found = rows.iter().map(|row| std::array::from_fn(|column| row.get(column)));
    // That a query was slow says something of the machine.
    found.filter(|found: &Finding| !found[2].contains("its query took more than ")).collect()
}

/// What is found, and then what is still found when all that was to be done was done.
async fn check_and_fix(database: &Database, expected: &[Finding]) {
    assert_eq!(check(database).await, expected);
    for [.., fix] in expected {
        database.run(fix).await;
    }
    assert_eq!(check(database).await, [[""; 4]; 0]);
}

/// A database with ten events, none of them broken, and a session that is the relay for as long as it lives.
async fn served() -> (Database, Client) {
    let database = Database::new().await;
    let relay = database::connect(&database.url()).await;
    relay.query("select notifier.become_relay()", &[]).await.unwrap();
    // As a service does that has just begun.
    database.run("update notifier.progress set swept_at = now()").await;
    assert_eq!(check(&database).await, [[""; 4]; 0]);
    (database, relay)
}

async fn definition_of(database: &Database, event: &str) -> String {
    let statement =
        format!("select notifier.define_statement(d, d.source_name) from notifier.definition d where name = '{event}'");
    database.one(&statement).await
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_is_well_nothing_is_found_and_nothing_is_left_behind() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut dora = Socket::open(service.address, "7").await;
    database.write("update payment set status = 'verified' where id = 201").await;
    assert_eq!(dora.frame().await["event"], "payment.verified");
    database.run("alter table public.carwash rename to car_wash; alter table public.booking add note text").await;
    assert_eq!(check(&database).await, [[""; 4]; 0]);

    for broken in [false, true] {
        if broken {
            let break_it = "alter table public.payment drop column method; alter table public.booking alter end_time type timestamp";
            database.run(break_it).await;
        }
        for begin in ["begin", "begin read only"] {
            database.run(begin).await;
            // (The service may have met it meanwhile, and kept a fault.)
            let mut found = check(&database).await;
            found.retain(|[_, _, problem, _]| !problem.starts_with("failed "));
            assert_eq!(found.len(), if broken { 3 } else { 0 }, "{found:?}");
            let left = "select pg_current_xact_id_if_assigned() is not null or exists (
                select from pg_locks l join pg_class c on c.oid = l.relation
                where l.pid = pg_backend_pid() and c.relnamespace = 'public'::regnamespace)";
            assert!(!database.one::<bool>(left).await, "a transaction id or a lock is left: {begin}, broken: {broken}");
            database.run("rollback").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_was_dropped_or_changed_places_is_found() {
    let (database, _relay) = served().await;
    let define = definition_of(&database, "carwash.completed").await;
    database.run("drop table public.carwash").await;
    let dropped = finding(
        "error",
        "carwash.completed",
        "its table public.carwash was dropped",
        "select notifier.drop_event('carwash.completed');",
    );
    check_and_fix(&database, &[dropped]).await;

    // A table made anew, as tools for migrations do.
    let assigned = definition_of(&database, "employee.assigned").await;
    database
        .run(
            "create table new_assignment (like public.employee_assignment including all); drop table public.employee_assignment;
             alter table new_assignment rename to employee_assignment; grant insert on public.employee_assignment to parking_app",
        )
        .await;
    let again = finding(
        "error",
        "employee.assigned",
        "its table public.employee_assignment was dropped, and another one has that name",
        &assigned,
    );
    check_and_fix(&database, &[again]).await;
    database
        .write("insert into employee_assignment (id, employee_id, lot_id) overriding system value values (1, 401, 1)")
        .await;
    assert_eq!(database.one::<i64>("select count(*) from notifier.notification").await, 1);

    // A copy that took the table's place. Renamed alone it is followed.
    database
        .run(&format!("create table public.carwash (id int, booking_id int, service text, status text); {define}"))
        .await;
    database.run("alter table public.carwash rename to carwash_old").await;
    assert_eq!(check(&database).await, [[""; 4]; 0]);
    database.run("create table public.carwash (like public.carwash_old)").await;
    let swapped = finding(
        "error",
        "carwash.completed",
        "it is on public.carwash_old, which was called public.carwash when it was defined; another table has that name now",
        &define,
    );
    check_and_fix(&database, &[swapped]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_is_gone_or_does_not_fire_is_found() {
    let (database, _relay) = served().await;
    let trigger: String = database
        .one("select tgname::text from pg_trigger where tgrelid = 'public.payment'::regclass and tgname like 'notifier_update_%'")
        .await;
    let function = trigger.replace("notifier_update_", "notifier.on_write_");
    let events = "booking.renewal_failed, booking.renewed, payment.verified";
    let enable = format!("alter table public.payment enable trigger {trigger};");
    let create = format!(
        "create trigger {trigger} after update on public.payment referencing old table as old new table as new \
         for each statement execute function {function}();"
    );
    for (change, is, fix) in [
        (format!("alter table public.payment disable trigger {trigger}"), "is disabled", &enable),
        (format!("alter table public.payment enable replica trigger {trigger}"), "fires in replication alone", &enable),
        (format!("drop trigger {trigger} on public.payment"), "is missing", &create),
    ] {
        database.run(&change).await;
        let installed = "select installed from notifier.event where name = 'payment.verified'";
        assert!(!database.one::<bool>(installed).await, "{change}");
        let problem = format!("the trigger {trigger} on public.payment {is}: no update is told");
        check_and_fix(&database, &[finding("error", events, problem, fix)]).await;
        assert!(database.one::<bool>(installed).await, "{change}");
        database.run(&format!("alter table public.payment enable always trigger {trigger}")).await;
        assert_eq!(check(&database).await, [[""; 4]; 0], "always is at least as often");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_or_child_that_came_later_is_found() {
    let (database, _relay) = served().await;
    database
        .run(
            "create table public.log (id int, user_id int) partition by list (id);
             create table public.log_1 partition of public.log for values in (1);
             create table public.\"Base\" (id int, user_id int); create table public.child_1 () inherits (public.\"Base\");
             select notifier.define_event('log.written', 'public.log', 'delete', 'info', 'Written.', 'select user_id from old');
             select notifier.define_event('base.written', 'public.\"Base\"', 'insert', 'info', 'Written.', 'select user_id from new');
             create table public.log_2 partition of public.log for values in (2) partition by list (id);
             create table public.log_22 partition of public.log_2 for values in (2);
             create table public.child_2 () inherits (public.\"Base\"); create table public.\"Child 3\" () inherits (public.child_2)",
        )
        .await;
    let number = async |table: &str| -> String {
        database
            .one(&format!("select id::text from notifier.generated where source = 'public.{table}'::regclass"))
            .await
    };
    let (log, base) = (number("log").await, number("\"Base\"").await);
    let child = |table: &str| {
        finding(
            "error",
            "base.written",
            format!(
                "the trigger notifier_insert_{base} on {table} is missing: no insert is told that is made on this child and \
                 not on public.\"Base\""
            ),
            format!(
                "create trigger notifier_insert_{base} after insert on {table} referencing new table as new \
                 for each statement execute function notifier.on_write_{base}();"
            ),
        )
    };
    let partition = |table: &str| {
        finding(
            "warning",
            "log.written",
            format!(
                "the trigger notifier_delete_{log} on {table} is missing: no delete is told that is made on this partition and \
                 not on public.log"
            ),
            format!(
                "create trigger notifier_delete_{log} after delete on {table} referencing old table as old \
                 for each statement execute function notifier.on_write_{log}();"
            ),
        )
    };
    let told = "select count(*) from notifier.notification";
    database
        .run("insert into public.log values (1, 7), (2, 7), (2, 8); delete from public.log where user_id = 8")
        .await;
    assert_eq!(database.one::<i64>(told).await, 1, "through the parent it is told");
    let expected =
        [child("public.\"Child 3\""), child("public.child_2"), partition("public.log_2"), partition("public.log_22")];
    check_and_fix(&database, &expected).await;
    database
        .run("delete from public.log_22; insert into public.child_2 values (1, 7); insert into public.\"Child 3\" values (1, 7)")
        .await;
    assert_eq!(database.one::<i64>(told).await, 4);

    // What leaves takes its trigger along, and would go on telling.
    database
        .run("alter table public.child_1 no inherit public.\"Base\"; alter table public.log detach partition public.log_1")
        .await;
    let left = |event: &str, operation: &str, number: &str, table: &str, source: &str| {
        let trigger = format!("notifier_{operation}_{number}");
        let problem = format!(
            "the trigger {trigger} on {table} still tells of each {operation} there, though that is no part of {source} any more"
        );
        finding("warning", event, problem, format!("drop trigger {trigger} on {table};"))
    };
    let expected = [
        left("base.written", "insert", &base, "public.child_1", "public.\"Base\""),
        left("log.written", "delete", &log, "public.log_1", "public.log"),
    ];
    check_and_fix(&database, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_can_be_planned_no_more_is_found() {
    let (database, _relay) = served().await;
    let superuser = database.superuser().await;
    let twice = "create function public.twice(int) returns int immutable language sql as 'select 2 * $1'";
    superuser
        .batch_execute(&format!(
            "create table public.prices (id int, price int); grant select on public.prices to parkmate;
             {twice}; revoke execute on function public.twice(int) from public;
             grant execute on function public.twice(int) to parkmate"
        ))
        .await
        .unwrap();
    database
        .run(
            "create table public.t (id int primary key, user_id int, a bigint, paid_at timestamptz);
             select notifier.define_event('q.columns', 'public.t', 'insert or update', 'info', '{a} {paid_at:HH24}', 'select user_id, a, paid_at from changed');
             select notifier.define_event('q.prices', 'public.t', 'delete', 'info', '{price}',
               'select user_id, p.price, public.twice(p.price) as p2 from old join public.prices p using (id)')",
        )
        .await;
    let put_back = "Write a column that is there; another table's have to be joined. Then define it again.";
    let columns = definition_of(&database, "q.columns").await;
    for (break_it, problem, fix, mend_it) in [
        ("drop column a", "the query cannot run: column \"a\" does not exist", put_back, "add column a bigint"),
        (
            "rename column paid_at to payd_at",
            "the query cannot run: column \"paid_at\" does not exist",
            "Perhaps you meant to reference the column \"changed.payd_at\". Then define it again.",
            "rename column payd_at to paid_at",
        ),
        (
            "alter column paid_at type boolean using null",
            "the query returns something else than when it was defined: function to_char(boolean, unknown) does not exist",
            &columns,
            "alter column paid_at type timestamptz using null",
        ),
    ] {
        database.run(&format!("alter table public.t {break_it}")).await;
        assert_eq!(check(&database).await, [finding("error", "q.columns", problem, fix)], "{break_it}");
        database.run(&format!("alter table public.t {mend_it}")).await;
        assert_eq!(check(&database).await, [[""; 4]; 0], "{break_it}");
    }
    // A text fits as well as a number did.
    database.run("alter table public.t alter column a type text").await;
    assert_eq!(check(&database).await, [[""; 4]; 0]);

    for (break_it, problem, fix, mend_it) in [
        (
            "revoke select on public.prices from parkmate",
            "the query may not be run by parkmate: permission denied for table prices",
            "As the owner of what is read: grant select on public.prices to parkmate;",
            "grant select on public.prices to parkmate",
        ),
        (
            "revoke execute on function public.twice(int) from parkmate",
            "the query may not be run by parkmate: permission denied for function twice",
            "As the owner of what is read: grant execute on function public.twice(integer) to parkmate;",
            "grant execute on function public.twice(int) to parkmate",
        ),
        (
            "alter table public.prices enable row level security",
            "the query may not be run by parkmate: query would be affected by row-level security policy for table \"prices\"",
            "As its owner, grant parkmate what is missing.",
            "alter table public.prices disable row level security",
        ),
        (
            "drop table public.prices",
            "the query reads public.prices, and there is no such table",
            "Write a table that is there, with its schema, as in public.parking_lot. Then define it again.",
            "create table public.prices (id int, price int); grant select on public.prices to parkmate",
        ),
        (
            "drop function public.twice(int)",
            "the query cannot run: function public.twice(integer) does not exist",
            "Look for it with \\df, and cast what it is given to the types that it takes. Then define it again.",
            twice,
        ),
    ] {
        superuser.batch_execute(break_it).await.unwrap();
        assert_eq!(check(&database).await, [finding("error", "q.prices", problem, fix)], "{break_it}");
        superuser.batch_execute(mend_it).await.unwrap();
        assert_eq!(check(&database).await, [[""; 4]; 0], "{break_it}");
    }

    // One that is broken in a way of its own does not keep the others from being looked at.
    database
        .run("update notifier.definition set message = '{', columns = 'null' where name = 'q.columns'; drop table public.carwash")
        .await;
    let found = check(&database).await;
    assert_eq!(found.iter().map(|found| found[1].as_str()).collect::<Vec<_>>(), ["carwash.completed", "q.columns"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_that_lost_its_key_or_its_instant_is_found() {
    let (database, _relay) = served().await;
    database.run("alter table public.booking drop constraint booking_pkey cascade").await;
    let keyless = |event: &str| {
        finding(
            "error",
            event,
            "its table public.booking has no primary key any more, by which a timer finds its rows",
            "alter table public.booking add primary key (...);",
        )
    };
    assert_eq!(check(&database).await, [keyless("booking.expired"), keyless("booking.expiring")]);
    database.run("alter table public.booking add primary key (id)").await;
    assert_eq!(check(&database).await, [[""; 4]; 0]);

    let grace =
        "create function public.grace() returns interval immutable language sql as $$ select interval '1 minute' $$";
    database
        .run(&format!(
            "{grace}; select notifier.drop_event(name) from notifier.event where source = 'public.booking';
             select notifier.define_timer('a.timer', 'public.booking', 'created_at', 'info', 'x', 'select user_id from due',
                                          'end_time + public.grace()');
             drop function public.grace(); alter table public.booking alter end_time type timestamp"
        ))
        .await;
    let until = finding(
        "error",
        "a.timer",
        "until cannot run: function public.grace() does not exist",
        "Look for it with \\df, and cast what it is given to the types that it takes. Then define it again.",
    );
    assert_eq!(check(&database).await, [until]);
    database.run(grace).await;
    let local = finding(
        "error",
        "a.timer",
        "until is of type timestamp without time zone, not timestamptz",
        "Define it again, and say which zone it is in: (end_time + public.grace()) at time zone 'Europe/Berlin'",
    );
    assert_eq!(check(&database).await, [local]);
    database.run("alter table public.booking alter end_time type timestamptz").await;
    assert_eq!(check(&database).await, [[""; 4]; 0]);
    database.run("alter table public.booking drop column created_at").await;
    let [due] = &check(&database).await[..] else { panic!("one finding") };
    assert_eq!(due[2], "due cannot run: column \"created_at\" does not exist");
}

/// As after the restore of a part.
#[tokio::test(flavor = "multi_thread")]
async fn generated_functions_that_are_missing_are_found_and_migrate_brings_them_back() {
    let (database, _relay) = served().await;
    let migrate = async || {
        Store::new(&database.url().parse().unwrap(), 2).unwrap().migrate().await.expect("migrate");
    };
    let timer: i32 = database.one("select id from notifier.generated where event = 'booking.expiring'").await;
    for lose in [
        format!("drop function notifier.fire_{timer}()"),
        format!("drop function notifier.backfill_{timer}(jsonb, boolean)"),
        "delete from notifier.generated where event = 'booking.expiring'".to_owned(),
    ] {
        database.run(&lose).await;
        let missing =
            finding("error", "booking.expiring", "the functions that fire it are missing", "parkmate-notifier migrate");
        assert_eq!(check(&database).await, [missing], "{lose}");
        migrate().await;
        assert_eq!(check(&database).await, [[""; 4]; 0], "{lose}");
    }

    let write: i32 = database.one("select id from notifier.generated where source = 'public.carwash'::regclass").await;
    for lose in [
        format!("drop function notifier.on_write_{write} cascade"),
        "delete from notifier.generated where source = 'public.carwash'::regclass".to_owned(),
    ] {
        database.run(&lose).await;
        let missing = finding(
            "error",
            "carwash.completed",
            "the function that is to tell of each update of public.carwash is missing",
            "parkmate-notifier migrate",
        );
        assert_eq!(check(&database).await, [missing], "{lose}");
        migrate().await;
        let [untold] = &check(&database).await[..] else { panic!("the trigger is missing now") };
        assert!(untold[2].ends_with(" on public.carwash is missing: no update is told"), "{untold:?}");
        database.run(&untold[3]).await;
        assert_eq!(check(&database).await, [[""; 4]; 0], "{lose}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_are_found_until_the_event_is_defined_anew() {
    let (database, _relay) = served().await;
    let define = |query: &str| {
        format!(
            "select notifier.define_event('a.b', 'public.payment', 'update', 'info', 'x', 'select user_id, {query} as n from changed')"
        )
    };
    database.run(&define("1 / (amount - amount)::int")).await;
    assert_eq!(check(&database).await, [[""; 4]; 0]);
    let times = async |sqlstate: &str, text: &str| -> String {
        let times = format!(
            "select format('{text}', date_trunc('second', min(first_seen)), date_trunc('second', max(last_seen)))
             from notifier.fault where sqlstate = '{sqlstate}' and last_seen > now() - interval '1 day'"
        );
        database.one(&times).await
    };
    let fix =
        "Correct the query, or what it reads. Faults from before the event was defined as it is now are not listed.";
    database.write("update payment set amount = 1 where id = 201").await;
    let once = times("22012", "failed at %s: division by zero (22012)").await;
    assert_eq!(check(&database).await, [finding("error", "a.b", once, fix)]);
    database.write("update payment set amount = 2 where id = 201").await;
    // What the service has counted, and what is long ago.
    database
        .run(
            "insert into notifier.fault_total (event, sqlstate, message, first_seen, last_seen, count, last_id)
             values ('a.b', '22012', 'division by 0', now() - interval '3 days', now() - interval '5 hours', 40, 1),
                    ('a.b', '22003', 'out of range', now() - interval '3 days', now() - interval '25 hours', 40, 1);
             update notifier.definition set defined_at = now() - interval '4 days' where name = 'a.b'",
        )
        .await;
    let often = times("22012", "failed 42 times from %s to %s: division by zero (22012)").await;
    assert_eq!(check(&database).await, [finding("error", "a.b", often, fix)]);
    database.run(&define("1")).await;
    assert_eq!(check(&database).await, [[""; 4]; 0]);

    // Slow is not untold. What fails for nobody's event is the service's own.
    for (event, sqlstate, message) in [
        ("a.b", "NTF01", "its query took long"),
        ("notifier.sweep", "55P03", "locked"),
        ("dropped.since", "22012", "x"),
    ] {
        database.run(&format!("select notifier.keep_fault('{event}', '{sqlstate}', '{message}')")).await;
    }
    let slow = times("NTF01", "slow at %s: its query took long (NTF01)").await;
    let sweep = times("55P03", "failed at %s: locked (55P03)").await;
    let by_hand = "It is tried again every ten minutes; by hand: select notifier.sweep();";
    let expected = [finding("warning", "a.b", slow, fix), finding("warning", "notifier.sweep", sweep, by_hand)];
    assert_eq!(check(&database).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_paused_is_found_and_by_whom() {
    let (database, _relay) = served().await;
    database
        .run(
            "select notifier.pause_event('booking.created'); select notifier.pause_event('booking.expired', 'the garage is closed');
             select notifier.pause(d, 'notifier', 'it failed 1000 times') from notifier.definition d where d.name = 'payment.verified'",
        )
        .await;
    let at = "select date_trunc('second', paused_at)::text from notifier.event where name = 'booking.created'";
    let at: String = database.one(at).await;
    database.run(&format!("update notifier.definition set paused_at = '{at}' where paused_at is not null")).await;
    let paused = |severity: &str, event: &str, by: &str, because: &str| {
        let problem = format!("paused by {by} at {at}: {because}");
        finding(severity, event, problem, format!("select notifier.resume_event('{event}');"))
    };
    let expected = [
        paused("warning", "payment.verified", "the service", "it failed 1000 times"),
        paused("note", "booking.created", "parkmate", "by hand"),
        paused("note", "booking.expired", "parkmate", "the garage is closed"),
    ];
    check_and_fix(&database, &expected).await;

    // What is wrong besides is no worse than the pause, which it may be the reason for.
    database.run("select notifier.pause_event('carwash.completed'); drop table public.carwash").await;
    let found = check(&database).await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((found[0][0].as_str(), found[0][2].as_str()), ("warning", "its table public.carwash was dropped"));
    assert!(found[1][2].starts_with("paused by parkmate"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_away_or_does_not_read_is_found() {
    let database = Database::new().await;
    let start = "Start `parkmate-notifier serve`.";
    assert_eq!(check(&database).await, [finding("note", "", "no service has read this database yet", start)]);
    let service = Service::on(&database).await;
    eventually("it is the relay", || service.is_announced_to()).await;
    eventually("it has swept", || async { database.one("select swept_at > '-infinity' from notifier.progress").await })
        .await;
    database.run("update notifier.progress set noted_at = now() - interval '2 hours'").await;
    assert_eq!(check(&database).await, [[""; 4]; 0], "in a quiet database nothing is noted");
    service.stop().await;
    let sessions = "select count(*) from pg_stat_activity where application_name = 'parkmate-notifier' and datname = current_database()";
    eventually("its sessions end", || async { database.one::<i64>(sessions).await == 0 }).await;
    database.run("update notifier.progress set noted_at = now()").await;
    assert_eq!(check(&database).await, [[""; 4]; 0], "it read just now");

    let away = "update notifier.progress set noted_at = now() - interval '61 seconds'";
    database.run(away).await;
    let gone = "no service is connected: what is told reaches nobody";
    assert_eq!(check(&database).await, [finding("error", "", gone, start)]);
    let locker = database.superuser().await;
    database.run("select notifier.send('7', 'info', 'Hello.')").await;
    locker.batch_execute("begin; lock table notifier.notification").await.unwrap();
    database.write("update payment set status = 'verified' where id = 201").await;
    locker.batch_execute("rollback").await.unwrap();
    let since: String = database.one("select date_trunc('second', created_at)::text from notifier.notification").await;
    let waiting = |count: i32| {
        let problem = format!("{gone}; notifications that wait: {count}, the first since {since}");
        finding("error", "", problem, start)
    };
    let spilled = finding(
        "error",
        "",
        "rows of notifier.spill and notifier.bulk that wait for a service to move them to where they belong: 1",
        "select notifier.work();",
    );
    assert_eq!(check(&database).await, [waiting(1), spilled.clone()]);
    database.run(&spilled[3]).await;
    assert_eq!(check(&database).await, [waiting(2)]);
    let service = Service::on(&database).await;
    eventually("it is the relay", || service.is_announced_to()).await;
    assert_eq!(check(&database).await, [[""; 4]; 0]);

    // It began with what was told then, and noted nothing of what was told before: that is no sign of anything.
    database.run(away).await;
    let impatient = "select severity, problem, fix from notifier.check_service('0')";
    assert_eq!(database.rows(impatient).await.len(), 0);
    service.stop().await;

    // Another session is the relay, and reads nothing.
    let relay = database::connect(&database.url()).await;
    eventually("it is the relay", || async {
        relay.query_one("select notifier.become_relay()", &[]).await.unwrap().get::<_, Option<i64>>(0).is_some()
    })
    .await;
    assert_eq!(database.rows(impatient).await.len(), 0);
    database.run("select notifier.send('7', 'info', 'Hello again.')").await;
    assert_eq!(check(&database).await, [[""; 4]; 0], "what was told just now may wait");
    let deaf = &database.rows(impatient).await[0];
    assert_eq!(
        [0, 1, 2].map(|column| deaf.get::<_, &str>(column)),
        [
            "error",
            "a service is connected and does not read; notifications that wait: 1",
            "Its /readyz says what is wrong.",
        ]
    );
}

/// Any role can take the lock of the sweep, and keep it.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_never_comes_is_found() {
    let (database, _relay) = served().await;
    database.run("update notifier.progress set swept_at = now() - interval '4 hours'").await;
    let holder = database.superuser().await;
    holder.batch_execute("select pg_advisory_lock(7809647138214477430)").await.unwrap();
    let impatient = "select severity, problem, fix from notifier.check_service('0')";
    let found = &database.rows(impatient).await[0];
    assert_eq!(
        [0, 1].map(|column| found.get::<_, &str>(column)),
        ["warning", "nothing that has expired was let go of for three hours and longer"]
    );
    assert_eq!(database.one::<String>(found.get(2)).await, "nothing done: another session sweeps");
    holder.batch_execute("select pg_advisory_unlock(7809647138214477430)").await.unwrap();
    database.rows(found.get(2)).await;
    assert_eq!(database.rows(impatient).await.len(), 0);
}

/// A function of this database that says so stands in for a queue of gigabytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_fills_up_is_found() {
    let (database, _relay) = served().await;
    let superuser = database.superuser().await;
    let problem = "the NOTIFY queue of the server is 40 % full, because a session that listens does not read; once it is full \
                   every COMMIT that NOTIFYs fails, and ours are told later already";
    let look = "select pid, datname, usename, application_name, state, xact_start from pg_stat_activity order by xact_start limit 5;";
    for (part, expected) in [(0.4, vec![finding("warning", "", problem, look)]), (0.25, vec![])] {
        let says = format!(
            "create or replace function pg_catalog.pg_notification_queue_usage() returns double precision
             language sql volatile as 'select {part}::float8'"
        );
        superuser.batch_execute(&says).await.unwrap();
        // Sessions keep what they have looked up.
        let newcomer = database.anew().await;
        assert_eq!(check(&newcomer).await, expected);
        newcomer.run(look).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_of_a_superuser_and_owners_who_cannot_dump_are_found() {
    let (database, _relay) = served().await;
    let superuser = database.superuser().await;
    superuser.batch_execute("alter function notifier.drop_event(text) owner to postgres").await.unwrap();
    let belongs = |count: i64| {
        format!("functions of schema notifier that belong to postgres, a superuser, and run as one: {count}")
    };
    let one = finding("warning", "", belongs(1), "alter function notifier.drop_event(text) owner to parkmate;");
    assert_eq!(check(&database).await, std::slice::from_ref(&one));
    superuser.batch_execute(&one[3]).await.unwrap();
    assert_eq!(check(&database).await, [[""; 4]; 0]);

    // pg_dump begins by locking all tables.
    let owner = format!("owner_of_{}", database.name);
    superuser
        .batch_execute(&format!(
            "create role {owner} login; alter table public.carwash owner to {owner};
             alter table public.employee_assignment owner to {owner};
             grant select, trigger on public.carwash, public.employee_assignment to parkmate;
             grant select on sequence public.carwash_id_seq, public.employee_assignment_id_seq to parkmate"
        ))
        .await
        .unwrap();
    let dumper = database::connect(&database::postgres().url(&owner, &database.name)).await;
    let dump = "lock table notifier.definition in access share mode";
    dumper.batch_execute(&format!("begin; {dump}")).await.unwrap_err();
    let note = finding(
        "note",
        "carwash.completed, employee.assigned",
        format!(
            "pg_dump of this database by {owner}, who owns public.carwash, public.employee_assignment, fails on schema notifier"
        ),
        format!("grant pg_read_all_data to {owner}; -- or: pg_dump --exclude-schema=notifier"),
    );
    assert_eq!(check(&database).await, std::slice::from_ref(&note));
    superuser.batch_execute(&note[3]).await.unwrap();
    assert_eq!(check(&database).await, [[""; 4]; 0]);
    dumper.batch_execute(&format!("rollback; begin; {dump}; rollback")).await.unwrap();

    // A superuser who did it all.
    let database = Database::empty().await;
    let url = database::postgres().url("postgres", &database.name);
    Store::new(&url.parse().unwrap(), 2).unwrap().migrate().await.unwrap();
    let superuser = database.superuser().await;
    let found =
        superuser.query_one("select severity, problem, fix from notifier.check() where severity = 'warning'", &[]);
    let found = found.await.unwrap();
    let definer = "select count(*) from pg_proc where pronamespace = 'notifier'::regnamespace and prosecdef";
    assert_eq!(found.get::<_, String>(1), belongs(superuser.query_one(definer, &[]).await.unwrap().get(0)));
    assert_eq!(
        found.get::<_, String>(2),
        "Give the schema notifier, its tables and its functions to a role that is none, and run `parkmate-notifier migrate` as \
         that role."
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_somebody_holds_locked_is_waited_for_once() {
    // 50 ms for each of them would be more.
    const AT_ONCE: Duration = Duration::from_millis(2_500);
    let (database, _relay) = served().await;
    let many = "select notifier.define_event('many.e' || n, 'public.employee', 'insert', 'info', 'x', 'select user_id from (select 7 as user_id from new) n')
                from generate_series(1, 50) n";
    database.run(many).await;
    let locker = database.superuser().await;
    locker.batch_execute("begin; lock table public.employee").await.unwrap();
    // Where the machine stood still meanwhile it is looked at again.
    let (mut took, mut found) = (Duration::MAX, Vec::new());
    for _ in 0..5 {
        let begun = Instant::now();
        found = check(&database).await;
        took = took.min(begun.elapsed());
        if took < AT_ONCE {
            break;
        }
    }
    let locked = "it could not be looked at: somebody holds a lock on a table that it reads";
    assert_eq!(found.len(), 51);
    assert_eq!(found[0], finding("note", "employee.assigned", locked, "Look again."));
    assert!(found.iter().all(|found| found[2] == locked), "{found:?}");
    assert!(took < AT_ONCE, "{took:?}");
    locker.batch_execute("rollback").await.unwrap();
    assert_eq!(check(&database).await, [[""; 4]; 0]);
}
