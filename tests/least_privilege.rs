//! `deploy/roles.sql`: with the roles that it makes everything works, and none of them may do more than it says there.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use parkmate_notifier::store::Store;

use crate::support::server::Server;
use crate::support::{Service, Socket, database};

const ROLES: &str = include_str!("../deploy/roles.sql");
const EVENTS: &str = include_str!("../sql/parkmate/events.sql");

/// A database `app` with the parking application's tables, which belong to `parkmate`, and nothing of ours. `owner` is the
/// database's.
async fn fresh(owner: &str) -> Server {
    let server = Server::empty(&[]).await;
    let superuser = server.superuser("postgres").await;
    superuser
        .batch_execute("create role parkmate login; create role parking_app login; create role nobody login")
        .await
        .unwrap();
    superuser.batch_execute(owner).await.unwrap();
    superuser.batch_execute("create database app owner the_owner").await.unwrap();
    let superuser = server.superuser("app").await;
    superuser.batch_execute("grant create on schema public to parkmate").await.unwrap();
    database::load_parkmate(&as_role(&server, "parkmate").await).await;
    server
}

async fn as_role(server: &Server, role: &str) -> Client {
    database::connect(&server.place().url(role)).await
}

/// Every statement is refused for want of a right, and says no other reason.
async fn refused(client: &Client, statements: &[&str]) {
    for sql in statements {
        let error = client.batch_execute(sql).await.expect_err(sql);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{sql}: {error:?}");
    }
}

async fn notification_arrives(server: &Server) {
    as_role(server, "a_dba").await.batch_execute(EVENTS).await.expect("the DBA defines the ten events");
    let service = Service::at(&server.place().url("notifier_service")).await;
    let mut driver = Socket::open(service.address, "7").await;
    let app = as_role(server, "parking_app").await;
    app.batch_execute("update payment set status = 'verified' where id = 201").await.expect("the application writes");
    assert_eq!(driver.frame().await["event"], "payment.verified");
    // A timer reads the table again, as the owner of our functions.
    app.batch_execute("update booking set end_time = now() + interval '1 second' where id = 101").await.unwrap();
    let event = driver.frame().await["event"].clone();
    assert!(event == "booking.expiring" || event == "booking.expired", "{event}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_least_rights_everything_works_and_nothing_else_does() {
    let server = fresh("create role the_owner").await;
    let superuser = server.superuser("app").await;
    for _ in 0..2 {
        superuser.batch_execute(ROLES).await.expect("roles.sql, twice");
    }
    superuser
        .batch_execute(
            "create role a_dba login in role notifier_admin;
             create table public.secret (id int); alter table public.secret owner to parkmate",
        )
        .await
        .unwrap();
    let migrated = Store::new(&server.place().url("notifier_owner").parse().unwrap(), 2).unwrap().migrate().await;
    assert!(!migrated.expect("migrate as notifier_owner").superuser);
    superuser.batch_execute(ROLES).await.expect("roles.sql once more");
    notification_arrives(&server).await;

    // None of them is more than it looks.
    let more = superuser
        .query(
            "select rolname from pg_roles where rolname like 'notifier\\_%'
             and (rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls
                  or has_database_privilege(rolname, 'app', 'create'))",
            &[],
        )
        .await
        .unwrap();
    assert!(more.is_empty(), "{more:?}");

    let owner = as_role(&server, "notifier_owner").await;
    refused(
        &owner,
        &[
            "update public.booking set status = 'x'",
            "delete from public.payment",
            "insert into public.payment (booking_id, user_id, amount) values (101, 7, 1)",
            "truncate public.booking",
            "select from public.secret",
            "drop table public.booking",
            "create schema another",
            "create role another",
        ],
    )
    .await;

    let service = as_role(&server, "notifier_service").await;
    refused(
        &service,
        &[
            "select notifier.define_event('a.b', 'public.payment', 'delete', 'info', 'x', 'select user_id from old')",
            "select notifier.drop_event('payment.verified')",
            "select notifier.pause_event('payment.verified')",
            "select * from notifier.preview_event('payment.verified')",
            "select * from notifier.export_events()",
            "select * from notifier.check()",
            "select notifier.rotate_channel()",
            "select notifier.revoke_user('7')",
            "select notifier.send('7', 'info', 'x')",
            "create function notifier.mine() returns int language sql as 'select 1'",
            "create table notifier.mine (id int)",
            "create schema another",
            "select from public.booking",
            "select from public.payment",
            "select from public.app_user",
            "select from notifier.notification",
            "select from notifier.definition",
            "select from notifier.event",
            "update notifier.setting set value = 'x'",
            "update notifier.notification set message = 'x'",
            "set role notifier_owner",
            "set role notifier_admin",
        ],
    )
    .await;

    // A function that knows the application's credentials is called, and what it reads is not read: as roles.sql says at its end.
    superuser
        .batch_execute(
            "create schema app authorization parkmate; set role parkmate;
             create table app.session (token text, user_id text);
             insert into app.session values ('abc', '7');
             create function app.authenticate(token text) returns table (user_id text, expires_at timestamptz)
               language sql stable security definer set search_path = pg_catalog, pg_temp as
               $$ select s.user_id, null::timestamptz from app.session s where s.token = authenticate.token $$;
             grant usage on schema app to notifier_service;
             revoke execute on function app.authenticate(text) from public;
             grant execute on function app.authenticate(text) to notifier_service; reset role",
        )
        .await
        .unwrap();
    let user: String = service.query_one("select user_id from app.authenticate('abc')", &[]).await.unwrap().get(0);
    assert_eq!(user, "7");
    refused(&service, &["select from app.session"]).await;
    for role in ["parking_app", "a_dba", "notifier_owner"] {
        refused(&as_role(&server, role).await, &["select from app.authenticate('abc')", "select from app.session"])
            .await;
    }

    // From a shell too: who may look is shown what there is, and who may not is told who may.
    let check = async |role: &str| {
        let place = server.place().url(role);
        let output =
            crate::support::process::binary().args(["check", "--database-url", &place]).output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for role in ["notifier_owner", "a_dba"] {
        let (code, error) = check(role).await;
        assert!(code == Some(0) || error.contains("somebody is not told"), "{role}: {error}");
    }
    for role in ["notifier_service", "parking_app"] {
        let (code, error) = check(role).await;
        assert!(code == Some(1) && error.contains("a member of notifier_admin"), "{role}: {error}");
    }

    // The DBA defines events and sees all notifications, by design; what they run as is not theirs.
    let dba = as_role(&server, "a_dba").await;
    assert!(!dba.query("select message from notifier.notification where user_id = '7'", &[]).await.unwrap().is_empty());
    dba.batch_execute("select notifier.revoke_user('7')").await.expect("the DBA revokes");
    refused(
        &dba,
        &[
            "select from public.booking",
            "update public.payment set status = 'x'",
            "select from notifier.setting",
            "select from notifier.ticket",
            "delete from notifier.revocation",
            "update notifier.notification set user_id = '8'",
            "delete from notifier.definition",
            "create function notifier.mine() returns int language sql as 'select 1'",
            "select notifier.work(interval '7 days')",
            "select notifier.beat('x')",
            "select notifier.send('7', 'info', 'x')",
            "set role notifier_owner",
            "set role notifier_service",
            // Not even by a query: the owner of the functions may not read it.
            "select notifier.define_event('a.b', 'public.payment', 'delete', 'info', 'x', 'select user_id, s.id from old, public.secret s')",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_learns_nothing_of_ours() {
    let server = fresh("create role the_owner").await;
    let superuser = server.superuser("app").await;
    superuser.batch_execute(ROLES).await.unwrap();
    Store::new(&server.place().url("notifier_owner").parse().unwrap(), 2).unwrap().migrate().await.unwrap();
    let service = Service::at(&server.place().url("notifier_service")).await;
    let channel = "select value from notifier.setting where name = 'channel'";
    let channel: String = superuser.query_one(channel, &[]).await.unwrap().get(0);
    // A session whose last words hold the name: there is something to find.
    let listener = as_role(&server, "notifier_service").await;
    listener.batch_execute(&format!("listen \"{channel}\"")).await.unwrap();
    let seen = "select count(*) from pg_stat_activity where position($1 in query) > 0 and pid <> pg_backend_pid()";
    assert!(superuser.query_one(seen, &[&channel]).await.unwrap().get::<_, i64>(0) >= 1);

    for role in ["parking_app", "nobody"] {
        let client = as_role(&server, role).await;
        let objects = "select format('select from notifier.%I', c.relname) from pg_class c
                       where c.relnamespace = 'notifier'::regnamespace and c.relkind in ('r', 'p', 'v')";
        let objects: Vec<String> = superuser.query(objects, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        assert!(objects.len() > 20, "{objects:?}");
        refused(&client, &objects.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let calls = "select count(*) from pg_proc p
                     where p.pronamespace = 'notifier'::regnamespace and has_function_privilege($1, p.oid, 'execute')";
        assert_eq!(superuser.query_one(calls, &[&role]).await.unwrap().get::<_, i64>(0), 0);
        refused(&client, &["select notifier.beat('x')", "select notifier.send('7', 'info', 'x')"]).await;
        // The name is not where everybody may look.
        for place in [
            seen,
            "select count(*) from pg_proc where position($1 in prosrc) > 0",
            "select count(*) from pg_stats where position($1 in most_common_vals::text) > 0",
            "select count(*) from pg_listening_channels() c where c = $1",
            "select count(*) from pg_settings where position($1 in setting) > 0",
        ] {
            assert_eq!(client.query_one(place, &[&channel]).await.unwrap().get::<_, i64>(0), 0, "{role}: {place}");
        }
    }
    service.stop().await;
}

/// As where nobody is a superuser: the database's owner may create roles, and the tables are another's.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_superuser_the_owners_of_database_and_tables_do_it() {
    let server = fresh("create role the_owner login createrole").await;
    let owner = as_role(&server, "the_owner").await;
    owner.batch_execute(ROLES).await.expect("as the database's owner");
    let migrated = Store::new(&server.place().url("notifier_owner").parse().unwrap(), 2).unwrap().migrate().await;
    migrated.expect("migrate");
    owner.batch_execute("create role a_dba login in role notifier_admin").await.unwrap();
    let error = as_role(&server, "a_dba").await.batch_execute(EVENTS).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{error:?}");
    as_role(&server, "parkmate").await.batch_execute(ROLES).await.expect("as the tables' owner");
    notification_arrives(&server).await;
    // It was a member for as long as the schema was made.
    let member = "select pg_has_role('the_owner', 'notifier_owner', 'usage')";
    assert!(!server.superuser("app").await.query_one(member, &[]).await.unwrap().get::<_, bool>(0));
}
