//! `migrate` and what `serve` thinks of its result.

use futures_util::future::join_all;
use parkmate_notifier::store::Store;

use crate::support::{Database, database, eventually};

fn store(url: &str) -> Store {
    Store::new(&url.parse().unwrap(), 2).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn four_instances_may_migrate_at_once_and_again() {
    let database = Database::empty().await;
    for round in 0..2 {
        let url = database.url();
        let stores = [store(&url), store(&url), store(&url), store(&url)];
        let migrated = join_all(stores.iter().map(Store::migrate)).await;
        let applied: usize = migrated.into_iter().map(|result| result.expect("migrate").applied.len()).sum();
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap().count();
        assert_eq!(applied, if round == 0 { files } else { 0 }, "each migration once");
    }
    assert!(!database.one::<bool>("select rolsuper from pg_roles where rolname = current_user").await);
    store(&database.url()).check_schema().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_migrated_or_newer_is_refused_in_words() {
    let database = Database::empty().await;
    let store = store(&database.url());
    let error = store.check_schema().await.unwrap_err().to_string();
    assert!(error.contains("run `parkmate-notifier migrate` first"), "{error}");
    let tables: i64 = database.one("select count(*) from pg_namespace where nspname = 'notifier'").await;
    assert_eq!(tables, 0, "asking changed nothing");

    store.migrate().await.unwrap();
    database
        .run(
            "insert into notifier.schema_history (version, name, applied_on, checksum) values (9999, 'later', '', '0')",
        )
        .await;
    let error = store.check_schema().await.unwrap_err().to_string();
    assert!(error.contains("newer than this binary"), "{error}");
    let error = store.migrate().await.err().unwrap().to_string();
    assert!(error.contains("newer than this binary"), "{error}");

    database.run("delete from notifier.schema_history").await;
    let error = store.check_schema().await.unwrap_err().to_string();
    assert!(error.contains("is at version 0"), "{error}");
}

/// Functions belong to a release as much as tables do: another release's are not served on, and what this one no longer has goes.
#[tokio::test(flavor = "multi_thread")]
async fn functions_of_another_release_are_refused_and_replaced() {
    let database = Database::empty().await;
    let store = store(&database.url());
    store.migrate().await.unwrap();
    database.run("update notifier.setting set value = 'another' where name = 'functions'").await;
    database.run("create function notifier.of_an_older_release() returns int language sql as 'select 1'").await;
    let error = store.check_schema().await.unwrap_err().to_string();
    assert!(error.contains("another release's"), "{error}");
    store.migrate().await.unwrap();
    store.check_schema().await.unwrap();
    assert_eq!(database.one::<i64>("select count(*) from pg_proc where proname = 'of_an_older_release'").await, 0);
}

/// A database of the first release, with a function of it that returned something else.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_the_first_version_is_brought_to_this_one() {
    let (new, old) = (Database::empty().await, Database::empty().await);
    store(&new.url()).migrate().await.unwrap();
    let first = "select name, applied_on, checksum from notifier.schema_history where version = 1";
    let first = &new.rows(first).await[0];
    let (name, applied_on, checksum): (String, String, String) = (first.get(0), first.get(1), first.get(2));
    old.run("create schema notifier").await;
    old.run(include_str!("../migrations/V1__state.sql")).await;
    old.run(&format!(
        "create table notifier.schema_history (version int4 primary key, name varchar(255), applied_on varchar(255), checksum varchar(255));
         insert into notifier.schema_history values (1, '{name}', '{applied_on}', '{checksum}');
         create function notifier.stream(_after pg_snapshot) returns table (\"position\" text, work double precision, notification text)
         language sql as $$ select '4:4:', 0.0::double precision, '' $$"
    ))
    .await;
    // Somebody reads while it migrates: neither waits for the other for long.
    let (reader, watcher, store_of_old) = (old.superuser().await, old.superuser().await, store(&old.url()));
    reader.batch_execute("begin; select from notifier.notification").await.unwrap();
    let leave = async {
        eventually("it waits for the reader", || async {
            let waits = "select exists (select from pg_locks where not granted and relation = 'notifier.notification'::regclass)";
            watcher.query_one(waits, &[]).await.unwrap().get(0)
        })
        .await;
        reader.batch_execute("rollback").await.unwrap();
    };
    let (migrated, ()) = tokio::join!(store_of_old.migrate(), leave);
    let applied = migrated.expect("migrate").applied;
    assert_eq!(
        applied,
        ["V2__delivery", "V3__relay", "V4__definitions", "V5__credentials", "V6__cost", "V7__bulk", "V8__incarnation"]
    );
    store(&old.url()).check_schema().await.unwrap();
    assert_eq!(old.one::<i64>("select count(*) from notifier.epoch").await, 1);
}

/// An upgrade reaches what was generated by an older version.
#[tokio::test(flavor = "multi_thread")]
async fn migrate_generates_the_functions_of_all_events_again() {
    let database = Database::new().await;
    let broken = "do $$ declare f regprocedure; begin
        for f in select p.oid from pg_proc p where p.pronamespace = 'notifier'::regnamespace and p.prorettype = 'trigger'::regtype loop
          execute format('create or replace function %s returns trigger language plpgsql as ''begin return null; end''', f::text);
        end loop; end $$";
    database.run(broken).await;
    database.write("update payment set status = 'verified' where id = 201").await;
    let told = "select count(*) from notifier.notification";
    assert_eq!(database.one::<i64>(told).await, 0);
    assert_eq!(store(&database.url()).migrate().await.unwrap().events, 10);
    database.write("update payment set status = 'pending' where id = 201; update payment set status = 'verified' where id = 201").await;
    assert_eq!(database.one::<i64>(told).await, 1);
}

/// The schema as a whole, reviewed as a file: tables, columns, constraints, indexes, and the signature of each function.
/// After a change: `UPDATE_SCHEMA=1 cargo test schema_dump`, and look at the difference.
#[tokio::test(flavor = "multi_thread")]
async fn the_schema_dump_is_up_to_date() {
    let database = Database::empty().await;
    store(&database.url()).migrate().await.unwrap();
    let lines = database
        .rows(
            "with relation as (
               select c.oid, c.relname, c.relkind from pg_class c
               where c.relnamespace = 'notifier'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
                 and not c.relispartition and not (c.relkind = 'S' and exists (
                   select from pg_depend d where d.objid = c.oid and d.deptype = 'i'))
             )
             select line from (
               select relname, 0, 0::smallint, '', case relkind when 'v' then 'view ' when 'S' then 'sequence ' else 'table ' end || relname from relation
               union all
               select relname, 1, attnum, '', format('  %s %s%s%s', attname, format_type(atttypid, atttypmod),
                      case when attnotnull then ' not null' else '' end,
                      case when attidentity <> '' then ' identity'
                           when a.atthasdef then ' default ' || pg_get_expr(d.adbin, d.adrelid) else '' end)
               from relation r join pg_attribute a on a.attrelid = r.oid and attnum > 0 and not attisdropped and r.relkind <> 'S'
               left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
               union all
               select relname, 2, 0::smallint, conname, format('  constraint %s %s', conname, pg_get_constraintdef(c.oid))
               from relation r join pg_constraint c on c.conrelid = r.oid and c.contype <> 'n'
               union all
               select relname, 3, 0::smallint, i.indexrelid::regclass::text, '  ' || pg_get_indexdef(i.indexrelid)
               from relation r join pg_index i on i.indrelid = r.oid and not i.indisprimary and not i.indisunique
               union all
               select '~', 4, 0::smallint, p.proname, format('function %s(%s) returns %s%s', p.proname,
                      pg_get_function_identity_arguments(p.oid), pg_get_function_result(p.oid),
                      case when prosecdef then ' security definer' else '' end)
               from pg_proc p where p.pronamespace = 'notifier'::regnamespace
             ) dump(relation, part, attnum, name, line)
             order by relation collate \"C\", part, attnum, name collate \"C\"",
        )
        .await;
    let dump: String = lines.iter().map(|row| row.get::<_, String>(0) + "\n").collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/schema.txt");
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(path, &dump).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(kept, dump, "docs/schema.txt is out of date: UPDATE_SCHEMA=1 cargo test schema_dump");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_three_roles_get_what_they_need_and_nothing_else() {
    let database = Database::empty().await;
    let superuser = database.superuser().await;
    superuser
        .batch_execute("do $$ begin
            create role notifier_admin nologin; create role notifier_sender nologin; create role notifier_service nologin;
            create role a_dba login; create role an_app login; create role a_service login;
            grant notifier_admin to a_dba; grant notifier_sender to an_app; grant notifier_service to a_service;
          exception when duplicate_object then null; end $$")
        .await
        .unwrap();
    database::load_parkmate(&database.owner).await;
    store(&database.url()).migrate().await.unwrap();
    let as_role = async |role: &str| database::connect(&database::postgres().url(role, &database.name)).await;

    let dba = as_role("a_dba").await;
    dba.batch_execute(include_str!("../sql/parkmate/events.sql")).await.expect("the DBA defines events");
    dba.batch_execute(
        "select * from notifier.event; select * from notifier.fault; select notifier.drop_event('booking.created');
         select notifier.export_events(); select * from notifier.event_stats(); select * from notifier.check()",
    )
    .await
    .unwrap();
    dba.batch_execute("select * from notifier.notification").await.expect("was 7 told?");
    let app = as_role("an_app").await;
    app.batch_execute("select * from notifier.notification").await.expect_err("none of the application's business");
    app.batch_execute("select notifier.send('7', 'info', 'hello')").await.expect("the sender sends");
    for (role, client) in [("a_dba", &dba), ("an_app", &app)] {
        for forbidden in ["select * from notifier.device", "select * from notifier.setting", "select notifier.work()"] {
            assert_eq!(
                client.batch_execute(forbidden).await.unwrap_err().code().unwrap().code(),
                "42501",
                "{role}: {forbidden}"
            );
        }
    }

    let url = database::postgres().url("a_service", &database.name);
    let service = crate::support::Service::at(&url).await;
    let mut dora = crate::support::Socket::open(service.address, "7").await;
    assert_eq!(dora.frame().await["message"], "hello");
    let inbox = crate::support::Inbox::of(&service, "7");
    assert_eq!(inbox.read(serde_json::json!({"ids": inbox.pages("").await.concat()})).await, 0);
    let client = as_role("a_service").await;
    for forbidden in [
        "select * from notifier.notification",
        "select * from public.booking",
        "select notifier.drop_event('booking.declined')",
    ] {
        assert_eq!(client.batch_execute(forbidden).await.unwrap_err().code().unwrap().code(), "42501", "{forbidden}");
    }
}
