//! Who may do what, and what somebody learns who may do nothing.

use std::collections::BTreeSet;

use parkmate_notifier::store::Store;
use tokio_postgres::Client;

use crate::support::checker::Place;
use crate::support::{Database, Service, Socket, database, eventually};

/// What the three roles may call and read: this, and nothing else. A function that is new is in no list until somebody says so.
const ADMIN: &[&str] = &[
    "function check()",
    "function define_event(text,regclass,text,text,text,text,text)",
    "function define_timer(text,regclass,text,text,text,text,text,text)",
    "function drop_event(text)",
    "function event_stats(timestamp with time zone)",
    "function export_events()",
    "function new_epoch()",
    "function pause_event(text,text)",
    "function preview_event(text,text,jsonb,jsonb)",
    "function restore_event(text,integer)",
    "function resume_event(text)",
    "function revoke_user(text)",
    "function rotate_channel()",
    "function sweep(interval)",
    "select bulk_notification",
    "select event",
    "select event_history",
    "select fault",
    "select notification",
];

const SENDER: &[&str] =
    &["function cancel_send(text)", "function send(text,text,text,jsonb,text,timestamp with time zone,text)"];

const SERVICE: &[&str] = &[
    "function auth_function(text)",
    "function authenticate(text,text[])",
    "function beat(text)",
    "function become_relay()",
    "function committing()",
    "function confirm(bigint[],smallint[],bigint[])",
    "function hang_bell(bigint)",
    "function identify(text)",
    "function inbox(text,bigint,integer,boolean)",
    "function issue_ticket(bytea,text,double precision,double precision,bytea)",
    "function mark_read(text,bigint[],bigint,text)",
    "function missed(text[],text[],text[],bigint[],integer)",
    "function note_position(text,pg_snapshot)",
    "function opened(text[],text[],text[],text[],text[],boolean[],interval,integer)",
    "function pass_on(bigint,text,pg_snapshot,pg_snapshot)",
    "function read_on(pg_snapshot)",
    "function redeem_tickets(bytea[])",
    "function remember(text[],text[],text[],text[],text[])",
    "function revocations(pg_snapshot)",
    "function revoked(text[])",
    "function stream(pg_snapshot,boolean)",
    "function summarize(text,text,pg_snapshot,bigint)",
    "function take_down_bell()",
    "function tend(bigint)",
    "function unread(text[])",
    "function work(interval)",
    "select schema_history",
    "select setting",
];

/// All that a role may do in our schema, by whatever way it came to that.
async fn rights(client: &Client, role: &str) -> BTreeSet<String> {
    let sql = "
        select 'function ' || replace(substr(p.oid::regprocedure::text, length('notifier.') + 1), chr(34), '')
        from pg_proc p where p.pronamespace = 'notifier'::regnamespace and has_function_privilege($1, p.oid, 'execute')
        union all
        select lower(r.name) || ' ' || c.relname
        from pg_class c, unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) as r(name)
        where c.relnamespace = 'notifier'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f') and has_table_privilege($1, c.oid, r.name)
        union all
        select lower(r.name) || ' ' || c.relname || '.' || a.attname
        from pg_class c, pg_attribute a, unnest(array['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) as r(name)
        where c.relnamespace = 'notifier'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f') and a.attrelid = c.oid and a.attnum > 0
          and has_column_privilege($1, c.oid, a.attnum, r.name) and not has_table_privilege($1, c.oid, r.name)
        union all
        select lower(r.name) || ' ' || c.relname
        from pg_class c, unnest(array['USAGE', 'SELECT', 'UPDATE']) as r(name)
        where c.relnamespace = 'notifier'::regnamespace and c.relkind = 'S' and has_sequence_privilege($1, c.oid, r.name)
          -- What lastval() of anybody's session is put back with.
          and (c.relname, r.name) <> ('others_last', 'SELECT')
        union all
        select 'create in the schema' where has_schema_privilege($1, 'notifier', 'create')";
    client.query(sql, &[&role]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// On a server of its own: roles belong to a server, and other tests look for theirs.
async fn with_roles() -> Database {
    let database = Database::alone().await;
    database
        .superuser()
        .await
        .batch_execute(
            "create role notifier_admin nologin; create role notifier_sender nologin; create role notifier_service nologin;
             create role a_dba login in role notifier_admin; create role a_sender login in role notifier_sender;
             create role a_service login in role notifier_service; create role nobody login",
        )
        .await
        .unwrap();
    Store::new(&database.url().parse().unwrap(), 2).unwrap().migrate().await.unwrap();
    database
}

async fn as_role(database: &Database, role: &str) -> Client {
    database::connect(&Place::of(database).url(role)).await
}

async fn refused(client: &Client, sql: &str) {
    let error = client.batch_execute(sql).await.expect_err(sql);
    assert_eq!(error.code().unwrap().code(), "42501", "{sql}: {error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_do_its_work_and_nothing_else() {
    let database = with_roles().await;
    for (role, expected) in [
        ("notifier_admin", ADMIN),
        ("notifier_sender", SENDER),
        ("notifier_service", SERVICE),
        ("parking_app", &[]),
        ("public", &[]),
    ] {
        let expected: BTreeSet<String> = expected.iter().map(|&right| right.to_owned()).collect();
        assert_eq!(rights(&database.owner, role).await, expected, "{role}");
    }
    // Functions made from now on are nobody's either.
    database.run("select notifier.define_event('payment.more', 'public.payment', 'delete', 'info', 'x', 'select user_id from old')").await;
    assert!(rights(&database.owner, "public").await.is_empty());
    // Whoever is in no role does not even look into the schema.
    for role in ["parking_app", "nobody"] {
        let client = as_role(&database, role).await;
        for object in ["notifier.event", "notifier.fault", "notifier.setting", "notifier.notification"] {
            refused(&client, &format!("select from {object}")).await;
        }
    }
    for (role, client) in
        [("a_sender", as_role(&database, "a_sender").await), ("a_service", as_role(&database, "a_service").await)]
    {
        for forbidden in ["select from notifier.event", "select notifier.check()", "select notifier.export_events()"] {
            refused(&client, forbidden).await;
        }
        assert!(role.starts_with("a_"));
    }
}

/// The DBA's day, as a role that owns nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_admin_who_owns_nothing_looks_after_events() {
    let database = with_roles().await;
    let dba = as_role(&database, "a_dba").await;
    let run = async |sql: &str| dba.query(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    run("select notifier.define_event('payment.seen', 'public.payment', 'update', 'info', 'Seen {id}.', 'select user_id, id from new')").await;
    run("select notifier.define_timer('booking.soon', 'public.booking', 'end_time', 'info', 'Soon.', 'select user_id from due')").await;
    let preview = run("select * from notifier.preview_event('payment.seen', 'id = 204')").await;
    assert_eq!((preview.len(), preview[0].get::<_, &str>("user_id")), (1, "8"));
    run("select notifier.pause_event('payment.seen', 'a rest')").await;
    database.write("update payment set amount = amount where id = 204").await;
    assert_eq!(database.one::<i64>("select count(*) from notifier.notification").await, 0);
    run("select notifier.resume_event('payment.seen')").await;
    database.write("update payment set amount = amount where id = 204").await;
    assert_eq!(database.one::<i64>("select count(*) from notifier.notification").await, 1);
    let script: String =
        run("select * from notifier.export_events()").await.iter().map(|row| row.get::<_, String>(0) + "\n").collect();
    assert!(script.contains("payment.seen") && script.contains("booking.soon"), "{script}");
    dba.batch_execute(&script).await.unwrap();
    database.run("alter table public.payment drop column user_id").await;
    database.write("update payment set amount = amount where id = 204").await;
    let found = run("select problem from notifier.check() where event = 'payment.seen' and severity = 'error'").await;
    assert!(!found.is_empty(), "check() shows what broke");
    assert!(!run("select * from notifier.fault where event = 'payment.seen'").await.is_empty());
    assert!(!run("select * from notifier.event_stats(now() - interval '1 hour')").await.is_empty());
    run("select notifier.drop_event('payment.seen')").await;
    run("select notifier.drop_event('booking.soon')").await;
    assert!(!run("select * from notifier.event_history where name = 'payment.seen'").await.is_empty());
    for forbidden in [
        "update notifier.notification set message = 'x'",
        "select * from notifier.setting",
        "insert into notifier.definition default values",
        "delete from notifier.fault_record",
        "select notifier.record('e', 'info', array['8'], array['x'], array['{}'::jsonb])",
        "select notifier.send('8', 'info', 'x')",
        "select notifier.work()",
        "create table notifier.mine (id int)",
        "select * from public.booking",
        "drop trigger notifier_update_6 on public.payment",
    ] {
        refused(&dba, forbidden).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_sends_and_takes_back() {
    let database = with_roles().await;
    let service = Service::at(&Place::of(&database).url("a_service")).await;
    let mut david = Socket::open(service.address, "8").await;
    let sender = as_role(&database, "a_sender").await;
    sender.batch_execute("select notifier.send('8', 'info', 'now', '{\"n\": 1}', 'my.event')").await.unwrap();
    assert_eq!(david.frame().await["event"], "my.event");
    sender
        .batch_execute(
            "select notifier.send('8', 'info', 'later', send_at => now() + interval '1 hour', key => 'k');
             select notifier.cancel_send('k')",
        )
        .await
        .unwrap();
    // The service, with its role, does what there is to do; an application without any writes.
    database
        .write(
            "insert into booking (id, user_id, slot_id, end_time) overriding system value values (900, 8, 21, now() + interval '1 minute');
             update payment set status = 'verified' where id = 204",
        )
        .await;
    let events: BTreeSet<String> =
        [david.frame().await, david.frame().await].iter().map(|frame| frame["event"].to_string()).collect();
    assert_eq!(events.into_iter().collect::<Vec<_>>(), ["\"booking.expiring\"", "\"payment.verified\""]);
    for forbidden in [
        "select currval('notifier.notification_id')",
        "select last_value from notifier.notification_id",
        "select * from notifier.scheduled",
        "select notifier.schedule(now(), 'k')",
        "select notifier.payload(null)",
        "select notifier.define_event('a.b', 'public.payment', 'update', 'info', 'x', 'select user_id from new')",
        "select notifier.rotate_channel()",
    ] {
        refused(&sender, forbidden).await;
    }
}

/// Whoever has no right with us finds neither the channel nor a notification, in no catalog, view, setting or error.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_right_learns_neither_channel_nor_notifications() {
    let database = with_roles().await;
    let service = Service::at(&Place::of(&database).url("a_service")).await;
    let mut david = Socket::open(service.address, "8").await;
    eventually("writers are rung", || service.is_announced_to()).await;
    database.run("select notifier.send('8', 'info', 'a secret word: xyzzy')").await;
    assert_eq!(david.frame().await["event"], "message");
    let channel: String = database.one("select value from notifier.setting where name = 'channel'").await;

    for role in ["nobody", "parking_app", "a_sender"] {
        let client = as_role(&database, role).await;
        if role == "parking_app" {
            client.batch_execute("update payment set status = 'verified' where id = 204").await.unwrap();
        }
        // Every relation of the catalogs that it may read, as text.
        let views = client
            .query(
                "select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
                 where c.relkind in ('r', 'v') and n.nspname in ('pg_catalog', 'information_schema') and has_table_privilege(c.oid, 'select')",
                &[],
            )
            .await
            .unwrap();
        assert!(views.len() > 100);
        for view in views {
            let view: String = view.get(0);
            let hits = client
                .query(
                    &format!("select left(v::text, 500) from {view} v where v::text ~ $1"),
                    &[&format!("{channel}|xyzzy")],
                )
                .await;
            // Some cannot be read by such a role after all.
            let Ok(hits) = hits else { continue };
            // Its own question is not what it finds.
            let hits: Vec<String> =
                hits.iter().map(|row| row.get(0)).filter(|hit: &String| !hit.contains("v::text")).collect();
            assert!(hits.is_empty(), "{role} reads in {view}: {hits:?}");
        }
        for question in [
            "select query from pg_stat_activity where usename = 'a_service' and query not in ('<insufficient privilege>', '')",
            "select * from pg_listening_channels()",
        ] {
            assert!(client.query(question, &[]).await.unwrap().is_empty(), "{role}: {question}");
        }
        for forbidden in [
            "select currval('notifier.notification_id'), nextval('notifier.notification_id')",
            "select * from notifier.notification_0",
            "select * from notifier.unread(array['8'])",
            "select * from notifier.read_on('1:1:')",
            "select * from notifier.stream('1:1:')",
            "select * from notifier.inbox('8', null, 10, false)",
            "copy notifier.notification to stdout",
            "begin; lock table notifier.notification",
            "create table public.heir () inherits (notifier.notification)",
            "create view public.peep as select * from notifier.notification",
        ] {
            let error = client.batch_execute(forbidden).await.expect_err(forbidden);
            assert_eq!(error.code().unwrap().code(), "42501", "{role}: {forbidden}");
            let said = format!("{error:?}");
            client.batch_execute("rollback").await.unwrap();
            assert!(!said.contains(&channel) && !said.contains("xyzzy"), "{said}");
        }
    }
}

/// Names that stand in the way: whatever an application puts in front of a name that we use, ours is meant.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_capture_nothing() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    let superuser = database.superuser().await;
    // A schema of the attacker's with a twin of whatever our functions name without a schema, each of which tells that it was used.
    superuser
        .batch_execute("create schema evil authorization parking_app; grant usage on schema evil to parkmate")
        .await
        .unwrap();
    let twins = superuser
        .query(
            // Of each built-in function whose name stands in one of ours, and of each operator.
            "select format('create or replace function evil.%I(%s) returns %s language plpgsql as %L', p.proname,
                           pg_get_function_identity_arguments(p.oid), pg_get_function_result(p.oid),
                           format('begin raise exception ''hijacked: %s''; end', p.proname))
             from pg_proc p
             where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f' and not p.proretset
               and p.prorettype not in ('internal'::regtype, 'cstring'::regtype, 'trigger'::regtype, 'event_trigger'::regtype)
               and pg_get_function_identity_arguments(p.oid) !~ 'internal|cstring|OUT|VARIADIC|any|\"char\"'
               and pg_get_function_result(p.oid) !~ 'any|handler|TABLE|pg_'
               and exists (select from pg_proc o where o.pronamespace = 'notifier'::regnamespace and o.prosrc ~ ('\\m' || p.proname || '\\M'))",
            &[],
        )
        .await
        .unwrap();
    assert!(twins.len() > 20, "{}", twins.len());
    let app = database.another_app().await;
    for twin in &twins {
        let twin: String = twin.get(0);
        app.batch_execute(&twin).await.unwrap_or_else(|error| panic!("{twin}: {error:?}"));
    }
    for (operator, types) in [
        ("=", "text, text"),
        ("||", "text, text"),
        ("<>", "text, text"),
        (">", "bigint, bigint"),
        ("+", "bigint, bigint"),
        (">", "integer, integer"),
        ("<=", "bigint, integer"),
        ("<", "timestamptz, timestamptz"),
        ("-", "jsonb, text"),
        ("~", "text, text"),
    ] {
        let (left, right) = types.split_once(", ").unwrap();
        let name = format!("evil.\"f{operator}{left}{right}\"");
        let result = if "=<>".contains(operator) || operator == "<=" || operator == "~" { "boolean" } else { left };
        app.batch_execute(&format!(
            "create or replace function {name}({types}) returns {result} language plpgsql as 'begin raise exception ''hijacked operator''; end';
             create operator evil.{operator} (function = {name}, leftarg = {left}, rightarg = {right})"
        ))
        .await
        .unwrap_or_else(|error| panic!("{operator} {types}: {error:?}"));
    }
    // Temporary tables, types and functions of every name that we or the events use.
    for name in [
        "notification",
        "timer",
        "setting",
        "spill",
        "fault_record",
        "definition",
        "booking",
        "payment",
        "parking_slot",
        "parking_lot",
        "new",
        "old",
        "changed",
        "due",
        "pg_class",
        "pg_trigger",
        "q",
        "s",
    ] {
        app.batch_execute(&format!("create temp table {name} (id int, user_id text default 'hijacked', value text)"))
            .await
            .unwrap();
    }
    app.batch_execute(
        "create domain pg_temp.text as pg_catalog.int4; create domain pg_temp.jsonb as pg_catalog.int4; create domain pg_temp.timestamptz as pg_catalog.int4;
         create function pg_temp.record(text, text, text[], text[], jsonb[]) returns void language plpgsql as 'begin raise exception ''hijacked''; end';
         set search_path = evil, pg_temp, public, pg_catalog",
    )
    .await
    .unwrap();
    app.batch_execute(
        "update public.payment set status = 'verified' where id operator(pg_catalog.=) 204;
         insert into public.booking (id, user_id, slot_id, end_time) overriding system value values (900, 8, 21, pg_catalog.now());
         update public.booking set status = 'cancelled_by_admin' where id operator(pg_catalog.=) 900",
    )
    .await
    .unwrap_or_else(|error| panic!("{error:?}"));
    for event in ["payment.verified", "booking.declined"] {
        assert_eq!(david.frame().await["event"], event);
    }
    david.nothing_but_a_marker(&database).await;
    assert_eq!(database.faults().await, 0);
    assert_eq!(
        database
            .one::<i64>("select count(*) from notifier.notification where event = 'booking.created' and user_id = '4'")
            .await,
        1,
        "the recipient comes from the real tables"
    );
    // And for those who call functions of ours.
    let attacked = "set search_path = evil, pg_temp, public, pg_catalog";
    database.run("create temp table notification (id int); create temp table definition (id int)").await;
    database.run(attacked).await;
    database
        .run(
            "select notifier.send('8', 'info', 'by hand');
             select notifier.define_event('payment.more', 'public.payment', 'delete', 'info', 'x', 'select user_id from old');
             select notifier.pause_event('payment.more'); select notifier.resume_event('payment.more');
             select notifier.preview_event('payment.verified', 'id operator(pg_catalog.=) 204'); select notifier.export_events();
             select notifier.check(); select notifier.drop_event('payment.more')",
        )
        .await;
    assert_eq!(david.frame().await["message"], "by hand");
}
