//! What a DBA does with SQL alone: define, replace and drop.

use crate::support::{Database, Service, Socket, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_of_the_same_name_replaces_and_the_same_one_changes_nothing() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut dora = Socket::open(service.address, "7").await;
    let definitions = "select string_agg(name || version, ',' order by name) from notifier.event";
    let before: String = database.one(definitions).await;
    database.run(include_str!("../sql/parkmate/events.sql")).await;
    assert_eq!(database.one::<String>(definitions).await, before, "applied twice, changed nothing");

    // Another message, another table, and back.
    let define = |source: &str, message: &str| {
        format!(
            "select notifier.define_event('payment.verified', '{source}', 'update', 'info', '{message}', 'select 7 as user_id from changed')"
        )
    };
    database.run(&define("public.payment", "changed")).await;
    database.write("update payment set amount = 1 where id = 201").await;
    assert_eq!(dora.frame().await["message"], "changed");
    database.run(&define("public.employee", "moved")).await;
    database.write("update payment set amount = 2 where id = 201; grant select on employee to parking_app").await;
    database.write("update employee set name = 'Eva' where id = 401").await;
    assert_eq!(dora.frame().await["message"], "moved");
    let history =
        database.rows("select version, definition ->> 'message' from notifier.event_history order by version").await;
    assert_eq!(history.len(), 2);
    assert_eq!((history[1].get::<_, i32>(0), history[1].get::<_, &str>(1)), (2, "changed"));

    // And as it was, in words that name the version where there is none.
    let says: String = database.one("select notifier.restore_event('payment.verified', 2)").await;
    assert_eq!(says, "payment.verified replaced (version 4)");
    database.write("update payment set amount = 3 where id = 201").await;
    assert_eq!(dora.frame().await["message"], "changed");
    let error = database.owner.batch_execute("select notifier.restore_event('payment.verified', 9)").await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!((error.code().code(), error.message()), ("42704", "there is no version 9 of 'payment.verified'"));
    assert_eq!(error.hint(), Some("There are: 1, 2, 3."));
    database.run("select notifier.restore_event('payment.verified', 3)").await;

    // Dropped and defined again, as often as one likes.
    for _ in 0..2 {
        database.run("select notifier.drop_event('payment.verified')").await;
        database.write("update employee set name = 'Eve' where id = 401").await;
        dora.nothing_but_a_marker(&database).await;
        database.run(&define("public.employee", "again")).await;
        database.write("update employee set name = 'Eva' where id = 401").await;
        assert_eq!(dora.frame().await["message"], "again");
    }
    let says: String = database.one("select notifier.drop_event('payment.verified') offset 1").await;
    assert!(says.contains("drop trigger notifier_update_"), "{says}");
    database.run(says.split("remove it: ").nth(1).unwrap()).await;
    assert_eq!(database.one::<i64>("select count(*) from notifier.event").await, 9);
}

/// Tables as one finds them: quoted names, columns called like our words, dropped columns, no order in anything.
#[tokio::test(flavor = "multi_thread")]
async fn tables_made_by_somebody_else_work() {
    let database = Database::new().await;
    database
        .run(
            r#"create schema "My App";
               create domain public.counter as bigint; create domain public.deep as public.counter;
               create table "My App"."PAYEMENT" (gone int, "user" text, new int, old int, "key" int, due timestamptz, until timestamptz,
                 s int, q int, k int, _keys int, _now int, "position" int, "Big" bigint, tiny public.deep, amount numeric, parts int[], doc jsonb,
                 primary key ("key", "user"));
               alter table "My App"."PAYEMENT" drop column gone;
               grant usage on schema "My App" to parking_app; grant all on "My App"."PAYEMENT" to parking_app;
               select notifier.define_event('odd.changed', '"My App"."PAYEMENT"', 'update', 'info', '{{{Big}}} {parts} {amount:FM990.00}',
                 $$ select "user" as user_id, "Big", tiny, parts, amount, doc, (was)."Big" as before, new.old -- trailing comment
                    from changed as new where (was).doc is distinct from doc; $$);
               select notifier.define_event('odd.gone', '"My App"."PAYEMENT"', 'delete', 'info', 'gone', $$ select "user" as user_id, "key" from old $$);
               select notifier.define_timer('odd.due', '"My App"."PAYEMENT"', 'due', 'info', 'due', $$ select "user" as user_id, _keys, _now from due $$);"#,
        )
        .await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "8").await;
    database
        .write(
            r#"insert into "My App"."PAYEMENT" ("user", "key", "Big", tiny, amount, parts, due, _keys, _now, old)
               values ('8', 1, 9007199254740993, -9007199254740993, 12345678901234567890.5, '{1,2}', null, 5, 6, 3);
               update "My App"."PAYEMENT" set doc = '{"a": [1]}'"#,
        )
        .await;
    let frame = socket.frame().await;
    assert_eq!(frame["message"], "{9007199254740993} {1,2} ###.##");
    assert_eq!(frame["data"]["Big"], "9007199254740993", "no number a browser would round");
    assert_eq!(frame["data"]["tiny"], "-9007199254740993");
    assert_eq!(frame["data"]["amount"], "12345678901234567890.5");
    assert_eq!(frame["data"]["before"], "9007199254740993");
    assert_eq!(frame["data"]["parts"], serde_json::json!([1, 2]));
    assert_eq!(frame["data"]["doc"], serde_json::json!({"a": [1]}));
    assert_eq!(frame["data"]["old"], 3);
    assert!(frame["data"].get("user_id").is_none());

    database.write(r#"update "My App"."PAYEMENT" set due = now(), "key" = 2"#).await;
    let frame = socket.frame().await;
    assert_eq!((frame["event"].as_str(), frame["data"]["_keys"].as_i64()), (Some("odd.due"), Some(5)));
    database.write(r#"delete from "My App"."PAYEMENT""#).await;
    assert_eq!(socket.frame().await["data"]["key"], 2);
    socket.nothing_but_a_marker(&database).await;
    assert_eq!(database.faults().await, 0);
}

/// `changed` pairs old and new rows whatever the statement does to the key, and goes on after the application dropped a column.
#[tokio::test(flavor = "multi_thread")]
async fn changed_pairs_rows_by_position() {
    let database = Database::new().await;
    database
        .run(
            "create table public.seat (id int primary key deferrable, filler int, who text, note text);
             grant all on public.seat to parking_app;
             select notifier.define_event('seat.changed', 'public.seat', 'insert or update', 'info', '{was_id}>{id} {was_who}>{who}',
               $$ select '8' as user_id, id, who, (was).id as was_id, (was).who as was_who, (select count(*) from old) as olds
                  from changed order by id $$)",
        )
        .await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "8").await;
    database.write("insert into seat values (1, 0, 'a', ''), (2, 0, 'b', '')").await;
    assert_eq!(socket.frame().await["message"], ">1 >a");
    assert_eq!(socket.frame().await["message"], ">2 >b");
    database.write("update seat set id = 3 - id").await;
    for expected in ["2>1 b>b", "1>2 a>a"] {
        assert_eq!(socket.frame().await["message"], expected);
    }
    database.run("alter table public.seat drop column filler, add column later text default 'x'").await;
    database.write("update seat set who = who || '!' where id = 1").await;
    assert_eq!(socket.frame().await["message"], "1>1 b>b!");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_to_partitions_and_children_are_seen_whichever_way_they_come() {
    let database = Database::new().await;
    database
        .run(
            "create table public.visit (id int, who text, at date) partition by range (at);
             create table public.visit_1 partition of public.visit for values from ('2020-01-01') to ('2021-01-01');
             create table public.visit_2 (who text, at date, id int);
             alter table public.visit attach partition public.visit_2 for values from ('2021-01-01') to ('2022-01-01');
             grant all on public.visit, public.visit_1, public.visit_2 to parking_app;
             select notifier.define_event('visit.made', 'public.visit', 'insert', 'info', '{id}', 'select who as user_id, id from new');
             select notifier.define_event('visit.first', 'public.visit_1', 'insert', 'info', 'first {id}', 'select who as user_id, id from new')",
        )
        .await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "8").await;
    database.write("insert into visit values (1, '8', '2020-05-05'), (2, '8', '2021-05-05')").await;
    assert_eq!(socket.frame().await["message"], "1");
    assert_eq!(socket.frame().await["message"], "2");
    database.write("insert into visit_2 (id, who, at) values (3, '8', '2021-05-05')").await;
    assert_eq!(socket.frame().await["message"], "3");
    database.write("insert into visit_1 values (4, '8', '2020-05-05')").await;
    let mut both =
        [socket.frame().await, socket.frame().await].map(|frame| frame["message"].as_str().unwrap().to_owned());
    both.sort();
    assert_eq!(both, ["4", "first 4"]);
    socket.nothing_but_a_marker(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_view_of_events_shows_what_is_live() {
    let database = Database::new().await;
    let row = &database.rows("select source, operation, level, installed, faults, query from notifier.event where name = 'booking.created'").await[0];
    assert_eq!(row.get::<_, &str>("source"), "public.booking");
    assert_eq!((row.get::<_, &str>("operation"), row.get::<_, &str>("level")), ("insert", "info"));
    assert!(row.get::<_, bool>("installed"));
    assert!(row.get::<_, &str>("query").contains("lot.owner_id as user_id"));

    database.run("alter table public.booking rename to reservation; alter table public.payment disable trigger user; drop table public.carwash").await;
    let state = database
        .rows("select name, source, installed from notifier.event where name in ('booking.created', 'payment.verified', 'carwash.completed') order by name")
        .await;
    let state: Vec<(&str, &str, bool)> = state.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(
        state,
        [
            ("booking.created", "public.reservation", true),
            ("carwash.completed", "public.carwash (dropped)", false),
            ("payment.verified", "public.payment", false),
        ]
    );
    // And an upgrade is not stopped by what is gone.
    database.run("alter table public.reservation drop constraint booking_pkey cascade").await;
    parkmate_notifier::store::Store::new(&database.url().parse().unwrap(), 2).unwrap().migrate().await.unwrap();
    database
        .run("select notifier.drop_event('carwash.completed'); select notifier.drop_event('booking.expired')")
        .await;
}

/// One event for the frontend, from two tables.
#[tokio::test(flavor = "multi_thread")]
async fn definitions_on_several_tables_tell_of_one_event() {
    let database = Database::new().await;
    database
        .run(
            "select notifier.define_event('parking.changed', 'public.payment', 'update', 'info', 'payment {id}', 'select user_id, id from new');
             select notifier.define_event('parking.changed.booking', 'public.booking', 'update', 'info', 'booking {id}', 'select user_id, id from new',
                                          event => 'parking.changed');
             select notifier.define_timer('parking.changed.timer', 'public.booking', 'end_time', 'info', 'timer {id}', 'select user_id, id from due where id = 104',
                                          event => 'parking.changed')",
        )
        .await;
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    database.write("update payment set amount = 1 where id = 204").await;
    database.write("update booking set end_time = now() where id = 104").await;
    let mut told = Vec::new();
    while told.len() < 3 {
        let frame = david.frame().await;
        if frame["event"] == "parking.changed" {
            told.push(frame["message"].as_str().unwrap().to_owned());
        }
    }
    told.sort();
    assert_eq!(told, ["booking 104", "payment 204", "timer 104"]);
    let stats =
        database.rows("select event, notifications from notifier.event_stats() where event like 'parking%'").await;
    assert_eq!(stats.len(), 1);
    assert_eq!((stats[0].get::<_, &str>(0), stats[0].get::<_, i64>(1)), ("parking.changed", 3));

    // It goes where the definitions go, and comes back with an earlier version.
    let script: String = database.one("select notifier.export_events()").await;
    assert_eq!(
        script.matches("event     => 'parking.changed'").count()
            + script.matches("event   => 'parking.changed'").count(),
        2,
        "{script}"
    );
    database.run(&script).await;
    assert_eq!(database.one::<String>("select notifier.export_events()").await, script);
    database.run("select notifier.define_event('parking.changed.booking', 'public.booking', 'update', 'info', 'x', 'select user_id from new')").await;
    let event = "select event from notifier.event where name = 'parking.changed.booking'";
    assert_eq!(database.one::<String>(event).await, "parking.changed.booking");
    database.run("select notifier.restore_event('parking.changed.booking', 1)").await;
    assert_eq!(database.one::<String>(event).await, "parking.changed");
}

/// Its functions are generated from what is seen: what others defined while it waited would be left out.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_defined_by_a_transaction_that_does_not_see_what_others_define() {
    let database = Database::new().await;
    for level in ["repeatable read", "serializable"] {
        for change in [
            "notifier.define_event('payment.a', 'public.payment', 'insert', 'info', 'a', 'select user_id from new')",
            "notifier.define_timer('booking.a', 'public.booking', 'end_time', 'info', 'a', 'select user_id from due')",
            "notifier.pause_event('payment.verified')",
            "notifier.resume_event('payment.verified')",
            "notifier.drop_event('payment.verified')",
            "notifier.regenerate()",
            "notifier.count_faults()",
        ] {
            let begin = format!("begin isolation level {level}; select {change}");
            let error = database.owner.batch_execute(&begin).await.unwrap_err();
            assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("25001"), "{change}: {error:?}");
            database.run("rollback").await;
        }
    }
    // As a DBA may have set it for the application.
    let set = format!("alter database {} set default_transaction_isolation = 'serializable'", database.name);
    database.superuser().await.batch_execute(&set).await.unwrap();
    parkmate_notifier::store::Store::new(&database.url().parse().unwrap(), 2)
        .unwrap()
        .migrate()
        .await
        .expect("migrate");
}

/// While one partition is written to for long, writers of the others go on between two tries.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_waits_for_a_partition_lets_the_others_be_written() {
    let database = Database::new().await;
    database
        .run(
            "create table part (id int, user_id int) partition by list (id);
             create table part_1 partition of part for values in (1); create table part_2 partition of part for values in (2)",
        )
        .await;
    let (holder, writer) = (database.superuser().await, database.superuser().await);
    holder.batch_execute("begin; insert into part_1 values (1, 8)").await.unwrap();
    const DEFINE: &str =
        "select notifier.define_event('part.made', 'public.part', 'insert', 'info', 'x', 'select user_id from new')";
    let waits = "select exists (select from pg_locks where not granted and relation = 'part_1'::regclass)";
    let tries = "select exists (select from pg_stat_activity where datname = current_database() and state = 'active'
                                and query like '%part.made%' and pid <> pg_backend_pid())";
    let (mut written, mut times) = (0, 0);
    // It gives up after some seconds, for which the machine may have stood still.
    while written <= 2 {
        let owner = database.anew().await;
        let define = tokio::spawn(async move {
            owner.owner.batch_execute(DEFINE).await.map_err(|error| error.code().unwrap().code().to_owned())
        });
        eventually("it waits for one partition", async || define.is_finished() || database.one::<bool>(waits).await)
            .await;
        while !define.is_finished() {
            writer.batch_execute("insert into part values (2, 8)").await.unwrap();
            written += i32::from(database.one::<bool>(tries).await);
        }
        assert_eq!(define.await.unwrap(), Err("55P03".to_owned()));
        times += 1;
        assert!(times < 5, "they waited until it gave up");
    }
    holder.batch_execute("rollback").await.unwrap();
    let triggers =
        "select count(*) from pg_trigger where tgrelid::regclass::text like 'part%' and tgname like 'notifier%'";
    assert_eq!(database.one::<i64>(triggers).await, 0, "all or none");
    database.run(DEFINE).await;
    assert_eq!(database.one::<i64>(triggers).await, 3);
}

/// The keys of another table may be of another type.
#[tokio::test(flavor = "multi_thread")]
async fn a_timer_that_moves_to_another_table_leaves_nothing_behind() {
    let database = Database::new().await;
    database
        .run(
            "create table named (id text primary key, user_id int, at timestamptz);
             create table numbered (id int primary key, user_id int, at timestamptz)",
        )
        .await;
    let define = |table: &str| {
        format!("select notifier.define_timer('x.due', 'public.{table}', 'at', 'info', 'x', 'select user_id from due')")
    };
    database.run(&define("named")).await;
    database.run("insert into named values ('a', 8, now() + interval '1 hour')").await;
    assert_eq!(database.one::<i64>("select count(*) from notifier.timer where event = 'x.due'").await, 1);
    database.run("select notifier.pause_event('x.due')").await;
    database.run(&define("numbered")).await;
    assert_eq!(database.one::<i64>("select count(*) from notifier.timer where event = 'x.due'").await, 0);
    database.run("insert into numbered values (1, 8, now())").await;
    database.run("select notifier.resume_event('x.due')").await;
    eventually("it is told of what is there", async || {
        database.rows("select notifier.work()").await;
        database.one::<i64>("select count(*) from notifier.notification where event = 'x.due'").await == 1
    })
    .await;
    assert_eq!(database.faults().await, 0);
}
