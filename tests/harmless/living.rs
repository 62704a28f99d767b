//! Living in somebody's database: what its owner does to it works as if we were not there, and what we do goes on.

use std::process::{Command, Output};

use parkmate_notifier::store::Store;

use tokio_postgres::Client;

use crate::support::checker::Place;
use crate::support::server::programs;
use crate::support::{Database, Service, Socket, database, eventually};

/// Statements that a migration of the application may hold, in an order that an application might have. After each the tables are
/// written, by a session that knows them from before and by one that does not.
const CHANGES: &[&str] = &[
    "alter table public.booking alter column status type varchar(40)",
    "alter table public.booking alter column user_id type int",
    "alter table public.booking alter column end_time type timestamp using end_time at time zone 'UTC'",
    "alter table public.booking alter column end_time type timestamptz using end_time at time zone 'UTC'",
    "alter table public.booking add column note jsonb not null default '{}'",
    "alter table public.booking drop column note",
    "alter table public.booking drop column created_at",
    "alter table public.booking rename column start_time to starts_at",
    "alter table public.booking add constraint not_long check (end_time < 'infinity')",
    "alter table public.booking replica identity full",
    "alter table public.booking alter column status set statistics 500",
    "create index concurrently booking_status on public.booking (status)",
    "reindex table public.booking",
    "cluster public.booking using booking_pkey",
    "vacuum full public.booking",
    "alter table public.parking_slot rename column label to name",
    "alter table public.parking_slot rename to place",
    "alter table public.payment drop column method",
    "alter table public.payment drop column status cascade",
    "alter table public.payment add column status text not null default 'pending'",
    "alter table public.payment rename to paid",
    "alter table public.paid rename to payment",
    "alter table public.payment disable trigger user",
    "alter table public.payment enable trigger user",
    "create schema app; alter table public.payment set schema app; alter schema app rename to shop",
    "alter table shop.payment set schema public",
    "alter table public.carwash set unlogged",
    "alter table public.carwash set logged",
    "truncate public.carwash",
    "truncate public.booking cascade",
    "drop table public.carwash",
    "drop table public.app_user cascade",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_the_tables_changes_them_as_if_we_were_not_there() {
    let database = Database::new().await;
    let app = database.another_app().await;
    let writes = "
        insert into booking (user_id, slot_id, end_time) values (8, 21, now() + interval '1 day');
        update booking set status = case when status = 'booked' then 'cancelled_by_admin' else 'booked' end;
        do $$ begin update payment set status = case when status = 'verified' then 'pending' else 'verified' end;
          exception when undefined_column or undefined_table then null; end $$";
    app.batch_execute(writes).await.unwrap();
    for change in CHANGES {
        for statement in change.split(';') {
            database.run(statement).await;
        }
        for session in [&app, &database.another_app().await] {
            session.batch_execute(writes).await.unwrap_or_else(|error| panic!("after {change}: {error:?}"));
        }
    }
    // Nothing of it was hidden: what the changes took from events is in the faults, and what they left is told.
    let faults = "select string_agg(distinct event || ' ' || sqlstate, ', ' order by event || ' ' || sqlstate) from notifier.fault where sqlstate <> 'NTF01'";
    assert_eq!(
        database.one::<String>(faults).await,
        "booking.created 42703, booking.created 42P01, payment.verified 42703",
        "of the label and the slot's name, and of the payment's method and status; and no other"
    );
    database.run("delete from notifier.notification").await;
    app.batch_execute(writes).await.unwrap();
    let declined = "select count(*) from notifier.notification where event = 'booking.declined'";
    assert!(database.one::<i64>(declined).await > 0);
}

/// Partitions come, go and come back; rows are told once whichever way they are written, as far as triggers reach.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_created_attached_and_detached() {
    let database = Database::new().await;
    database
        .run(
            "create table public.visit (id int, at date, who text, primary key (id, at)) partition by range (at);
             create table public.visit_1 partition of public.visit for values from ('2026-01-01') to ('2026-02-01');
             select notifier.define_event('visit.added', 'public.visit', 'insert or update', 'info', 'x', 'select who as user_id, id from changed');
             create table public.visit_2 partition of public.visit for values from ('2026-02-01') to ('2026-03-01');
             create table public.visit_3 (like public.visit including all);
             alter table public.visit attach partition public.visit_3 for values from ('2026-03-01') to ('2026-04-01');
             create table public.visit_default partition of public.visit default partition by range (at);
             create table public.visit_2027 partition of public.visit_default for values from ('2027-01-01') to ('2028-01-01');
             grant all on all tables in schema public to parking_app",
        )
        .await;
    let told = "select count(*) from notifier.notification where event = 'visit.added'";
    for (number, date) in ["2026-01-05", "2026-02-05", "2026-03-05", "2027-01-05"].into_iter().enumerate() {
        database.write(&format!("insert into visit values ({number}, '{date}', '8')")).await;
    }
    database.write("update visit set at = at + 31 where id < 2").await;
    assert_eq!(database.one::<i64>(told).await, 6);
    // Away and back again, with the trigger it was given when the event was defined, or without.
    for partition in ["visit_1", "visit_2"] {
        database.run(&format!("alter table public.visit detach partition public.{partition}")).await;
    }
    database.write("insert into visit_2 values (10, '2026-02-06', '8')").await;
    assert_eq!(database.one::<i64>(told).await, 6, "it has no trigger of ours");
    database.write("insert into visit_1 values (11, '2026-01-06', '8')").await;
    assert_eq!(database.one::<i64>(told).await, 7, "this one kept it");
    database
        .run(
            "alter table public.visit attach partition public.visit_1 for values from ('2026-01-01') to ('2026-02-01');
             drop table public.visit_2; alter table public.visit detach partition public.visit_3",
        )
        .await;
    database.write("insert into visit values (12, '2026-01-06', '8')").await;
    assert_eq!(database.one::<i64>(told).await, 8);
    assert_eq!(database.faults().await, 0);
}

/// Postgres has no transition tables over foreign partitions: what would fail the application's writes is refused.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_over_a_foreign_partition_is_refused_since_its_writes_would_fail() {
    let database = Database::new().await;
    let superuser = database.superuser().await;
    let available = "select from pg_available_extensions where name = 'file_fdw'";
    if superuser.query(available, &[]).await.unwrap().is_empty() {
        println!("skipped: this Postgres came without file_fdw");
        return;
    }
    superuser
        .batch_execute(
            "create extension file_fdw; create server files foreign data wrapper file_fdw;
             create table public.visit (id int, at date, who text) partition by range (at);
             create table public.visit_1 partition of public.visit for values from ('2026-01-01') to ('2026-02-01');
             create foreign table public.visit_old partition of public.visit for values from ('2000-01-01') to ('2026-01-01')
               server files options (filename '/dev/null');
             grant select, trigger on all tables in schema public to parkmate;
             grant all on public.visit, public.visit_1 to parking_app",
        )
        .await
        .unwrap();
    let define = |source: &str| {
        format!(
            "select notifier.define_event('visit.added', '{source}', 'insert', 'info', 'x', 'select who as user_id from new')"
        )
    };
    let error = database.owner.batch_execute(&define("public.visit")).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "42809");
    assert_eq!(error.message(), "event visit.added: below public.visit there is a foreign table: public.visit_old");
    assert_eq!(error.hint(), Some("Define the event on those of its partitions that are ordinary tables."));
    assert_eq!(
        database.one::<i64>("select count(*) from pg_trigger where tgrelid = 'public.visit'::regclass").await,
        0
    );
    database.run(&define("public.visit_1")).await;
    database.write("insert into visit values (1, '2026-01-05', '8')").await;
    database.write("insert into visit_1 values (1, '2026-01-05', '8')").await;
    assert_eq!(database.one::<i64>("select count(*) from notifier.notification").await, 1, "the direct one");

    // Attached later, it cannot be refused by us: check() says what happens and what ends it.
    let later = "alter table public.visit detach partition public.visit_old";
    superuser.batch_execute(later).await.unwrap();
    database.run(&define("public.visit")).await;
    let later =
        "alter table public.visit attach partition public.visit_old for values from ('2000-01-01') to ('2026-01-01')";
    superuser.batch_execute(later).await.unwrap();
    let found = database
        .rows("select problem, fix from notifier.check() where event = 'visit.added' and severity = 'error'")
        .await;
    assert_eq!(found.len(), 1);
    assert!(found[0].get::<_, &str>(0).contains("the foreign table public.visit_old through public.visit"));
    superuser.batch_execute(found[0].get(1)).await.unwrap();
    database.write("insert into visit values (2, '2026-01-05', '8')").await;
}

/// A transaction that is prepared is told when it is committed, whether nobody listens or nobody is to be rung.
#[tokio::test(flavor = "multi_thread")]
async fn prepared_transactions_are_told_when_they_are_committed() {
    let database = Database::new().await;
    let prepare = |name: &str| {
        format!(
            "begin; update payment set status = 'verified' where id = 204;
             update payment set status = 'pending' where id = 204;
             insert into booking (user_id, slot_id, end_time) values (8, 21, now() + interval '1 day');
             prepare transaction '{}_{name}'",
            database.name
        )
    };
    let commit = |name: &str| format!("commit prepared '{}_{name}'", database.name);
    let verified = "select count(*) from notifier.notification where event = 'payment.verified'";

    // Nobody listens.
    database.write(&prepare("alone")).await;
    assert_eq!(database.one::<i64>(verified).await, 0);
    database.write(&commit("alone")).await;
    assert_eq!(database.one::<i64>(verified).await, 1);
    // And with rows that spilled, and a fault.
    let locker = database.superuser().await;
    database.run("alter table public.parking_lot rename to lot").await;
    locker.batch_execute("begin; lock table notifier.notification").await.unwrap();
    database.write(&prepare("spilling")).await;
    locker.batch_execute("rollback").await.unwrap();
    database.write(&commit("spilling")).await;
    database.run("alter table public.lot rename to parking_lot").await;
    assert_eq!(
        database
            .one::<i64>("select count(*) from notifier.fault where sqlstate <> 'NTF01' and event = 'booking.created'")
            .await,
        1
    );

    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    for told in [david.frame().await, david.frame().await] {
        assert_eq!(told["event"], "payment.verified");
    }
    // Somebody listens: NOTIFY would fail it, which is why there is a setting. (A relay that stood still has lost the bell.)
    let mut tries = 0;
    let error = loop {
        david.meanwhile(eventually("writers are rung", || service.is_announced_to())).await;
        if let Err(error) = database.app.batch_execute(&prepare("rung")).await {
            break error;
        }
        database.write(&format!("rollback prepared '{}_rung'", database.name)).await;
        tries += 1;
        assert!(tries < 5, "it was prepared");
    };
    assert_eq!(error.code().unwrap().code(), "0A000");
    database.write("rollback; set notifier.doorbell = off").await;
    database.write(&prepare("silent")).await;
    david.nothing_but_a_marker(&database).await;
    database.write(&commit("silent")).await;
    assert_eq!(david.frame().await["event"], "payment.verified");
    david.nothing_but_a_marker(&database).await;
}

/// Dumps of a database and their restores, with the server's own programs.
struct Dumps {
    database: Database,
    folder: tempfile::TempDir,
    bin: String,
}

impl Dumps {
    async fn new() -> Self {
        let database = Database::new().await;
        let bin = programs(&database.superuser().await).await;
        // As an application that is dumped by its own role has it.
        database.run("grant select on all sequences in schema public to parking_app").await;
        Self { database, folder: tempfile::tempdir().unwrap(), bin }
    }

    fn url(&self, role: &str, name: &str) -> String {
        let place = Place::of(&self.database);
        Place { database: name.to_owned(), ..place }.url(role)
    }

    /// A new, empty database beside it.
    async fn beside(&self, name: &str) -> String {
        let name = format!("{}_{name}", self.database.name);
        let admin = self.database.superuser().await;
        admin.batch_execute(&format!("create database {name} owner parkmate")).await.unwrap();
        name
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        Command::new(format!("{}/{program}", self.bin))
            .args(arguments)
            .current_dir(self.folder.path())
            .env("LC_ALL", "C")
            .output()
            .unwrap()
    }

    fn ok(&self, program: &str, arguments: &[&str]) {
        let output = self.run(program, arguments);
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Restores the application without us: its triggers are the only complaint.
    fn restore_but_triggers(&self, arguments: &[&str]) {
        let output = self.run("pg_restore", arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        let errors: Vec<&str> =
            said.lines().filter(|line| line.contains("error: ") || line.contains("Command was:")).collect();
        assert!(!errors.is_empty() && errors.len().is_multiple_of(2), "{said}");
        for pair in errors.chunks(2) {
            assert!(pair[0].ends_with("schema \"notifier\" does not exist"), "{said}");
            assert!(pair[1].starts_with("Command was: CREATE TRIGGER notifier_"), "{said}");
        }
    }
}

const VERIFY: &str = "update public.payment set status = 'pending' where id = 204;
                      update public.payment set status = 'verified' where id = 204";

/// A socket on a database that the service has just found is told what is written there, and nothing that the origin has told.
async fn tells(url: &str, app: &str) {
    let service = Service::at(url).await;
    let owner = database::connect(url).await;
    owner
        .batch_execute("update notifier.notification set delivered_at = now() where delivered_at is null")
        .await
        .unwrap();
    let mut david = Socket::open(service.address, "8").await;
    database::connect(app).await.batch_execute(VERIFY).await.unwrap();
    let frame = david.frame().await;
    assert_eq!((&frame["event"], &frame["replayed"]), (&"payment.verified".into(), &false.into()), "{frame}");
    owner.batch_execute("select notifier.send('8', 'info', 'the end')").await.unwrap();
    assert_eq!(david.frame().await["message"], "the end");
}

/// How many rows each table of ours has.
async fn counts(client: &Client) -> Vec<(String, i64)> {
    let tables = "select format('notifier.%I', relname) from pg_class where relnamespace = 'notifier'::regnamespace and relkind = 'r' order by 1";
    let mut counts = Vec::new();
    for row in client.query(tables, &[]).await.unwrap() {
        let table: String = row.get(0);
        let count = client.query_one(&format!("select count(*) from {table}"), &[]).await.unwrap().get(0);
        counts.push((table, count));
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_dumped_goes_on_in_another_one() {
    let dumps = Dumps::new().await;
    let origin = &dumps.database;
    // What is in it is in the dump: notifications, timers, history, a paused event, faults, something sent for later.
    origin.write(VERIFY).await;
    origin.write("insert into booking (user_id, slot_id, end_time) values (8, 21, now() + interval '1 day')").await;
    origin
        .run(
            "select notifier.send('8', 'info', 'later', send_at => now() + interval '1 day');
             select notifier.pause_event('booking.completed', 'a rest')",
        )
        .await;
    let (from, role) = (dumps.url("parkmate", &origin.name), "parking_app");
    let secret = "select value from notifier.setting where name = 'channel'";
    dumps.ok("pg_dump", &["--dbname", &from, "--file", "plain.sql"]);
    dumps.ok("pg_dump", &["--dbname", &from, "--format=custom", "--file", "custom"]);
    dumps.ok("pg_dump", &["--dbname", &from, "--format=directory", "--jobs=2", "--file", "directory"]);
    for way in ["plain", "custom", "directory"] {
        let name = dumps.beside(way).await;
        let url = dumps.url("parkmate", &name);
        if way == "plain" {
            dumps.ok(
                "psql",
                &["--dbname", &url, "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--quiet", "--file", "plain.sql"],
            );
        } else {
            dumps.ok("pg_restore", &["--dbname", &url, "--exit-on-error", way]);
        }
        let copy = database::connect(&url).await;
        assert_eq!(counts(&copy).await, counts(&origin.owner).await, "{way}: it holds what its origin holds");
        // Before anything of ours is run on it.
        database::connect(&dumps.url(role, &name)).await.batch_execute(VERIFY).await.unwrap();
        let verified = "select count(*) from notifier.notification where event = 'payment.verified'";
        assert_eq!(copy.query_one(verified, &[]).await.unwrap().get::<_, i64>(0), 2, "{way}");
        Store::new(&url.parse().unwrap(), 2).unwrap().migrate().await.unwrap();
        tells(&url, &dumps.url(role, &name)).await;
        let reason: String =
            copy.query_one("select reason from notifier.epoch order by number desc limit 1", &[]).await.unwrap().get(0);
        assert_eq!(reason, "restored into another database", "{way}");
        let channel: String = copy.query_one(secret, &[]).await.unwrap().get(0);
        assert_ne!(channel, origin.one::<String>(secret).await, "{way}: they do not share a secret");
        copy.batch_execute(include_str!("../../sql/parkmate/events.sql")).await.unwrap();
        let changed: i64 = copy.query_one("select count(*) from notifier.event_history", &[]).await.unwrap().get(0);
        assert_eq!(changed, 0, "{way}: the script finds everything as it was");
    }
}

/// The application alone, for another machine or of its own role: complaints are about our triggers only, and it works without us.
#[tokio::test(flavor = "multi_thread")]
async fn the_application_is_restored_without_us() {
    let dumps = Dumps::new().await;
    let origin = dumps.database.name.clone();
    let (owner, app) = (dumps.url("parkmate", &origin), dumps.url("parking_app", &origin));

    // Its own role may not read our schema, and says so; without it the dump is whole.
    let output = dumps.run("pg_dump", &["--dbname", &app, "--file", "refused.sql"]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("permission denied for schema notifier"), "{said}");
    dumps.ok("pg_dump", &["--dbname", &app, "--exclude-schema=notifier", "--format=custom", "--file", "app"]);
    dumps.ok("pg_dump", &["--dbname", &owner, "--exclude-schema=notifier", "--format=custom", "--file", "excluded"]);
    dumps.ok("pg_dump", &["--dbname", &owner, "--schema=public", "--format=custom", "--file", "public"]);
    dumps.ok("pg_dump", &["--dbname", &owner, "--format=custom", "--file", "all"]);

    for (file, arguments) in [
        ("app", &["--no-owner"][..]),
        ("excluded", &[]),
        ("public", &["--clean", "--if-exists"]),
        ("all", &["--schema=public"]),
    ] {
        let name = dumps.beside(file).await;
        let url = dumps.url("parkmate", &name);
        let mut all = vec!["--dbname", &url];
        all.extend(arguments);
        all.push(file);
        dumps.restore_but_triggers(&all);
        // `--clean` made the schema anew, with nobody's rights in it.
        database::connect(&url).await.batch_execute("grant usage on schema public to parking_app").await.unwrap();
        database::connect(&dumps.url("parking_app", &name)).await.batch_execute(VERIFY).await.unwrap();
        // A migrate and the script of the events, and it tells again.
        Store::new(&url.parse().unwrap(), 2).unwrap().migrate().await.unwrap();
        database::connect(&url).await.batch_execute(include_str!("../../sql/parkmate/events.sql")).await.unwrap();
        tells(&url, &dumps.url("parking_app", &name)).await;
    }
}

/// Its tables are dropped and come back from a dump, and we stay: the triggers of the dump and the events find each other again.
#[tokio::test(flavor = "multi_thread")]
async fn tables_that_come_back_from_a_dump_are_told_once() {
    let dumps = Dumps::new().await;
    let database = &dumps.database;
    let url = dumps.url("parkmate", &database.name);
    dumps.ok("pg_dump", &["--dbname", &url, "--format=custom", "--file", "all"]);
    let told = "select count(*) from notifier.notification where event = 'payment.verified'";
    for (mend, expected) in
        [("select", 1), (include_str!("../../sql/parkmate/events.sql"), 2), ("select notifier.regenerate()", 3)]
    {
        dumps.ok(
            "pg_restore",
            &["--dbname", &url, "--schema=public", "--clean", "--if-exists", "--exit-on-error", "all"],
        );
        database.run(mend).await;
        database.another_app().await.batch_execute(VERIFY).await.unwrap();
        assert_eq!(database.one::<i64>(told).await, expected, "{mend}");
    }
    assert_eq!(database.one::<i64>("select count(*) from notifier.event where installed").await, 10);
    assert_eq!(database.one::<i64>("select count(*) from notifier.event_history").await, 0);
    let twice = "select count(*) from (select from pg_trigger where not tgisinternal group by tgrelid, tgtype having count(*) > 1) t";
    assert_eq!(database.one::<i64>(twice).await, 0, "no table has two triggers for one operation");
}

/// Restoring rows into tables that have our triggers is writing: whoever does not want it told says so.
#[tokio::test(flavor = "multi_thread")]
async fn rows_alone_are_restored_silently_when_asked_for() {
    let dumps = Dumps::new().await;
    let database = &dumps.database;
    let url = dumps.url("parkmate", &database.name);
    database.write("insert into booking (user_id, slot_id, end_time) values (8, 21, now() + interval '1 day')").await;
    dumps.ok(
        "pg_dump",
        &["--dbname", &url, "--data-only", "--table=public.booking", "--format=custom", "--file", "rows"],
    );
    let told = "select count(*) from notifier.notification";
    let before: i64 = database.one(told).await;
    database.run("alter table public.payment drop constraint payment_booking_id_fkey; alter table public.carwash drop constraint carwash_booking_id_fkey; delete from public.booking").await;
    dumps.ok("pg_restore", &["--dbname", &format!("{url}?options=-cnotifier.mute%3Don"), "rows"]);
    assert_eq!(database.one::<i64>("select count(*) from public.booking").await, 5);
    assert_eq!(database.one::<i64>(told).await, before);
}

/// Our inserts take numbers from our sequences, and the application is given those of its own all the same.
#[tokio::test(flavor = "multi_thread")]
async fn lastval_is_the_applications_own() {
    let database = Database::new().await;
    database.run("grant usage on all sequences in schema public to parking_app").await;
    let last = async || database.app.query_one("select lastval()", &[]).await.map(|row| row.get::<_, i64>(0));
    // Armed, told and failed; one row and many; and told again without a number of its own.
    database.run("select notifier.define_event('a.fails', 'public.booking', 'insert', 'info', 'x', 'select (1 / (id - id))::text as user_id from new')").await;
    let insert = "insert into booking (user_id, slot_id, end_time) select 8, 21, now() + interval '1 day' from generate_series(1, 2000) n";
    for rows in [1, 3, 50, 2_000] {
        let ids: i64 = database
            .app
            .query_one(&format!("with made as ({insert} where n <= {rows} returning id) select max(id) from made"), &[])
            .await
            .unwrap()
            .get(0);
        assert_eq!(last().await.unwrap(), ids, "{rows} rows");
    }
    let id = last().await.unwrap();
    database.write("update payment set status = 'verified' where id = 201").await;
    assert_eq!(last().await.unwrap(), id);
    // The next one, from the application's own sequence.
    database.write("insert into employee (name) values ('Eva')").await;
    let employee = "select currval(pg_get_serial_sequence('employee', 'id'))";
    assert_eq!(last().await.unwrap(), database.app.query_one(employee, &[]).await.unwrap().get::<_, i64>(0));
    assert!(database.one::<i64>("select count(*) from notifier.notification").await > 50);
    assert_eq!(database.faults().await, 1);
    // Where it may not be read, nothing fails.
    let other = database.another_app().await;
    database.run("revoke all on all sequences in schema public from parkmate, parking_app").await;
    other
        .batch_execute("insert into booking (user_id, slot_id, end_time) values (8, 21, now() + interval '1 day')")
        .await
        .unwrap();
    // But who asks for it is refused, which is said where an event is defined, and later.
    let grant = "grant select on sequence public.booking_id_seq to parkmate;";
    let said = database.rows("select notifier.define_event('a.told', 'public.booking', 'insert', 'info', 'x', 'select user_id from new')").await;
    let said: Vec<String> = said.iter().map(|row| row.get(0)).filter(|line: &String| line.contains(grant)).collect();
    assert!(said.len() == 1 && said[0].starts_with("warning: "), "{said:?}");
    let unread = format!(
        "select count(*) from notifier.check() where event = 'a.told' and severity = 'warning' and fix = '{grant}'"
    );
    assert_eq!(database.one::<i64>(&unread).await, 1);
    database.run(grant).await;
    assert_eq!(database.one::<i64>(&unread).await, 0);
}

/// Whatever an application sets for its own statements.
#[tokio::test(flavor = "multi_thread")]
async fn settings_that_change_how_sql_is_read_change_nothing_of_ours() {
    let database = Database::new().await;
    for setting in [
        "plpgsql.extra_errors = 'all'",
        "plpgsql.check_asserts = off",
        "array_nulls = off",
        "transform_null_equals = on",
        "plan_cache_mode = force_custom_plan",
        "plan_cache_mode = force_generic_plan",
        "exit_on_error = on",
        "quote_all_identifiers = on",
        "from_collapse_limit = 1",
        "enable_seqscan = off",
        "work_mem = '64kB'",
        "xmloption = document",
        "default_transaction_isolation = 'serializable'",
        "default_transaction_isolation = 'repeatable read'",
        "synchronous_commit = off",
        "client_encoding = 'LATIN1'",
        "default_tablespace = ''",
        "notifier.doorbell = 'nonsense'",
        "notifier.mute = 'nonsense'",
        "notifier.spilling = 'on'",
        "notifier.waited = 'nonsense'",
    ] {
        let app = database.another_app().await;
        app.batch_execute(&format!("set {setting}")).await.unwrap();
        app.batch_execute(VERIFY).await.unwrap_or_else(|error| panic!("{setting}: {error:?}"));
        app.batch_execute(
            "insert into booking (user_id, slot_id, end_time) select 8, 21, now() from generate_series(1, 40)",
        )
        .await
        .unwrap_or_else(|error| panic!("{setting}: {error:?}"));
        database.run("select notifier.work()").await;
        let told = "select count(*) filter (where event = 'payment.verified'), count(*) filter (where event = 'booking.created')
                    from notifier.notification";
        let row = database.rows(told).await;
        assert_eq!((row[0].get::<_, i64>(0), row[0].get::<_, i64>(1)), (1, 40), "{setting}");
        database.run("delete from notifier.notification").await;
    }
    assert_eq!(database.faults().await, 0);
}
