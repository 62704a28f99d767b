//! The application does not notice: whatever happens to us, its writes succeed, and what was to be told is told later or kept
//! as a fault.

mod faults;
mod living;
mod roles;

use crate::support::{Database, Service, Socket, eventually};
use crate::survival;

#[tokio::test(flavor = "multi_thread")]
async fn after_a_column_was_renamed_the_write_succeeds_and_the_fault_is_kept() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut dora = Socket::open(service.address, "7").await;
    database.run("alter table public.payment rename column method to paid_by").await;
    database.write("begin; update payment set status = 'verified' where id = 201; update payment set status = 'success' where id = 202; commit").await;
    assert_eq!(dora.frame().await["event"], "booking.renewed", "the other events of the table go on");
    dora.nothing_but_a_marker(&database).await;
    let faults =
        database.rows("select event, sqlstate, message, count from notifier.fault where sqlstate <> 'NTF01'").await;
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].get::<_, &str>(0), "payment.verified");
    assert_eq!(faults[0].get::<_, &str>(1), "42703");
    assert!(faults[0].get::<_, &str>(2).contains("method"));
    assert_eq!(faults[0].get::<_, i64>(3), 1, "once for the transaction of two statements");
    assert_eq!(database.one::<i64>("select faults from notifier.event where name = 'payment.verified'").await, 1);

    // The application's own changes of its tables are never refused.
    for change in [
        "alter table public.payment rename column paid_by to method",
        "alter table public.payment alter column status type varchar(40)",
        "alter table public.payment alter column amount type double precision",
        "alter table public.payment add column note text",
        "alter table public.payment drop column created_at",
        "alter table public.carwash rename to car_wash",
        "truncate public.employee_assignment",
        "drop table public.employee_assignment",
    ] {
        database.run(change).await;
    }
    database.write("update payment set status = 'pending' where id = 201").await;
    database
        .write("update payment set status = 'verified' where id = 201; update car_wash set status = 'completed'")
        .await;
    assert_eq!(dora.frame().await["event"], "payment.verified");
    assert_eq!(dora.frame().await["event"], "carwash.completed");
}

/// Whatever table of ours somebody holds locked: the write succeeds while it is held, and is told when the service can.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_a_table_of_ours_neither_stops_a_write_nor_loses_its_notification() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    let locker = database.superuser().await;
    let leaf: i16 = database.one("select notifier.slot(now())").await;
    for table in [
        "notifier.notification".to_owned(),
        format!("notifier.notification_{leaf}"),
        "notifier.timer".to_owned(),
        "notifier.fault_record".to_owned(),
        "notifier.setting".to_owned(),
        // One at a time: whoever waits for a second table while he holds a first may be who a deadlock ends.
        "notifier.definition".to_owned(),
        "notifier.fired".to_owned(),
        "notifier.backfill".to_owned(),
    ] {
        locker.batch_execute(&format!("begin; lock table {table}")).await.unwrap();
        // Each statement would wait for 50 ms if a transaction did not remember that the first one had to.
        database
            .write(
                "begin; set local statement_timeout = '20s';
                 insert into booking (id, user_id, slot_id, end_time) overriding system value values (900, 8, 21, now() + interval '1 minute');
                 update payment set status = 'verified' where id = 204;
                 update payment set status = 'pending' where id = 204;
                 commit",
            )
            .await;
        locker.batch_execute("commit").await.unwrap();
        let mut events =
            [david.frame().await, david.frame().await].map(|frame| frame["event"].as_str().unwrap().to_owned());
        events.sort();
        assert_eq!(events, ["booking.expiring", "payment.verified"], "{table}");
        david.nothing_but_a_marker(&database).await;
        database.run("delete from public.booking where id = 900; delete from notifier.fired").await;
    }
    eventually("nothing waits to be moved", || async {
        database.one::<i64>("select count(*) from notifier.spill").await == 0
    })
    .await;
}

/// A table that grows makes its writers wait in turn, on a slow disk for longer than we may wait for a lock of a person's. Here
/// an index is held instead: a writer comes to it after the table, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_waits_for_its_turn_to_insert_does_not_fail() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    let leaf: i16 = database.one("select notifier.slot(now())").await;
    let locker = database.superuser().await;
    let hold = format!("begin; alter index notifier.notification_{leaf}_pkey set tablespace pg_default");
    locker.batch_execute(&hold).await.unwrap();
    let release = async {
        eventually("the write has waited for longer than notifier.reserve_number would have", || async {
            database
                .one::<bool>(
                    "select exists (select from pg_locks l join pg_database d on d.oid = l.database
                     where d.datname = current_database() and not l.granted
                       and waitstart < clock_timestamp() - interval '200 ms')",
                )
                .await
        })
        .await;
        locker.batch_execute("rollback").await.unwrap();
    };
    tokio::join!(database.write("update payment set status = 'verified' where id = 204"), release);
    assert_eq!(david.frame().await["event"], "payment.verified");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_had_to_wait_for_a_lock_waits_once() {
    let database = Database::new().await;
    let locker = database.superuser().await;
    let leaf: i16 = database.one("select notifier.slot(now())").await;
    for (round, locked) in [
        "notifier.notification".to_owned(),
        "only notifier.notification".to_owned(),
        format!("notifier.notification_{leaf}"),
    ]
    .iter()
    .enumerate()
    {
        locker.batch_execute(&format!("begin; lock table {locked}")).await.unwrap();
        // 500 waits of 50 ms would be 25 s: the limit tells one wait from many, on a slow machine too.
        database.write("begin; set local statement_timeout = '20s'").await;
        let updates =
            "update payment set status = 'verified' where id = 204; update payment set status = 'pending' where id = 204;"
                .repeat(500);
        database.write(&format!("do $$ begin {updates} end $$")).await;
        database.write("commit").await;
        locker.batch_execute("commit").await.unwrap();
        let spilled: i64 = database.one("select count(*) from notifier.spill").await;
        assert_eq!(spilled, 500 * (round as i64 + 1), "{locked}");
        assert_eq!(database.faults().await, 0, "{locked}");
    }
}

/// What one notification goes into is a statement of its own for each of sixteen days.
#[tokio::test(flavor = "multi_thread")]
async fn a_notification_goes_to_the_leaf_of_its_day() {
    let database = Database::new().await;
    // Where the query took long on a busy machine, it is the other one that is called.
    let written: Vec<String> = database
        .one("select array[pg_get_functiondef('notifier.record_one'::regproc), pg_get_functiondef('notifier.record'::regproc)]")
        .await;
    for day in 0..16 {
        let at = format!("timestamptz '2026-03-01 23:59:59.999999Z' + {day} * interval '1 day'");
        for function in &written {
            let at_that_time = function.replace(":= clock_timestamp()", &format!(":= {at}"));
            assert_ne!(*function, at_that_time);
            database.run(&at_that_time).await;
        }
        let before: i64 = database.one("select count(*) from notifier.notification").await;
        database.write("update payment set status = 'pending' where id = 204; update payment set status = 'verified' where id = 204").await;
        let wrong = format!(
            "select count(*) from notifier.notification n
             where n.tableoid <> ('notifier.notification_' || notifier.slot(n.created_at))::regclass
                or n.slot <> notifier.slot(n.created_at) or n.xid is null or n.user_id <> '8'
                or n.created_at - ({at}) not in (select - d * interval '1 day' from generate_series(0, 15) d)"
        );
        assert_eq!(database.one::<i64>(&wrong).await, 0, "day {day}");
        assert_eq!(database.one::<i64>("select count(*) from notifier.notification").await, before + 1, "day {day}");
    }
    let leaves = "select count(distinct tableoid) from notifier.notification";
    assert_eq!(database.one::<i64>(leaves).await, 16);
    assert_eq!(database.one::<i64>("select count(*) from notifier.spill").await, 0);
    assert_eq!(database.faults().await, 0);
}

/// Which events failed, how, and how often. One fault is kept for each event and transaction: where the query took long as well, on
/// a busy machine, it is that.
async fn faults(database: &Database) -> Vec<String> {
    let rows = database
        .rows(
            "select format('%s %s %s', event, min(sqlstate) filter (where sqlstate <> 'NTF01'), sum(count)) from notifier.fault
             group by event having min(sqlstate) <> 'NTF01' order by event",
        )
        .await;
    rows.iter().map(|row| row.get(0)).collect()
}

/// One row may tell several users, and the next event of its table others: each what is theirs.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_row_tell_each_their_own() {
    let database = Database::new().await;
    database
        .run("create table public.crowd (id int primary key, users text[]); grant all on public.crowd to parking_app")
        .await;
    for (name, users) in
        [("a", "users"), ("b", "users[1 : 1]"), ("c", "array['']"), ("d", "users[2 :]"), ("e", "users[3 : 3]")]
    {
        database
            .run(&format!(
                "select notifier.define_event('crowd.{name}', 'public.crowd', 'insert or update', 'info', '{{who}} of {{id}}',
                   $$select u as user_id, u as who, id from changed, unnest({users}) u$$)"
            ))
            .await;
    }
    // One that fails when it has read ten: they belong to nobody.
    database.run("select notifier.define_event('crowd.ca', 'public.crowd', 'insert or update', 'info', 'x', 'select n::text as user_id, 1 / (12 - n) as n from changed, generate_series(1, 12) n')").await;
    let told = async |id: i32| -> Vec<String> {
        let rows = database
            .rows(&format!(
                "select event || ' ' || user_id || ' ' || message from notifier.notification where data ->> 'id' = '{id}' order by id"
            ))
            .await;
        rows.iter().map(|row| row.get(0)).collect()
    };
    for (id, write) in ["insert into crowd values (0, '{1,2,3}')", "update crowd set id = 1"].iter().enumerate() {
        database.write(write).await;
        let id = i32::try_from(id).unwrap();
        let expected: Vec<String> = [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("d", 2), ("d", 3), ("e", 3)]
            .iter()
            .map(|(event, user)| format!("crowd.{event} {user} {user} of {id}"))
            .collect();
        assert_eq!(told(id).await, expected);
    }
    // Of very many as well.
    database.write("insert into crowd select 2, array(select n::text from generate_series(1, 40) n)").await;
    let many = told(2).await;
    let of = |event: &str| many.iter().filter(|told| told.starts_with(event)).count();
    assert_eq!([of("crowd.a "), of("crowd.b "), of("crowd.d "), of("crowd.e ")], [40, 1, 39, 1]);
    assert_eq!(faults(&database).await, ["crowd.c 22001 3", "crowd.ca 22012 3"]);
}

/// However Postgres plans it: as the planner sees a table that autovacuum found empty, a plan that asks for "the first" once for each
/// row was the cheapest, and all was done in one statement.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_aside_is_moved_piece_by_piece() {
    let database = Database::new().await;
    let superuser = database.superuser().await;
    superuser
        .batch_execute(
            "update pg_class set relpages = 1, reltuples = 0 where oid = 'notifier.spill'::regclass;
             insert into notifier.spill (kind, record)
             select 'notifications', jsonb_build_object('event', 'a.piece', 'level', 'info', 'created_at', clock_timestamp(),
               'users', array['8'], 'messages', array[n::text], 'data', array['{}'::jsonb])
             from generate_series(1, 3) n",
        )
        .await
        .unwrap();
    let (_listening, mut heard) = survival::listen(&database).await;
    for moved in 1..=3_i64 {
        // While it is asked for, each piece is announced: it is read while the next one is moved.
        database.run("set notifier.doorbell = 'on'; select notifier.work()").await;
        assert_eq!(database.one::<i64>("select count(*) from notifier.notification").await, moved);
        assert_eq!(heard.recv().await.unwrap(), r#"{"read":true}"#);
    }
}

/// Small first or large first: neither order makes the other slow, and a statement spends no more ids than that.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_of_100_000_rows_is_told_and_spends_no_more_than_three_transaction_ids() {
    const MANY: i64 = 100_000;
    let database = Database::new().await;
    database.write(&format!(
        "set notifier.mute = on;
         insert into booking (user_id, slot_id, end_time, status) select 8, 21, now() + interval '2 days', 'booked' from generate_series(1, {MANY});
         reset notifier.mute; set statement_timeout = '60s'"
    )).await;
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    let ours = "id > 1000";
    let small = "update booking set status = 'booked' where id = 104; update booking set status = 'cancelled_by_admin' where id = 104";
    database.write(small).await;
    assert_eq!(david.frame().await["event"], "booking.declined");

    david
        .meanwhile(database.write(&format!("begin; update booking set status = 'cancelled_by_admin' where {ours}")))
        .await;
    // Each transaction id that was spent, by subtransactions too, is locked to the end. A row trigger would have spent a
    // hundred thousand.
    let spent: i64 = database
        .one("select count(*) from pg_locks where locktype = 'transactionid' and mode = 'ExclusiveLock'
              and pid = (select pid from pg_stat_activity where usename = 'parking_app' and datname = current_database())")
        .await;
    assert!(spent <= 3, "{spent} transaction ids");
    // They are put aside in arrays, and the service makes rows of them.
    database.write("commit").await;
    let told = "select count(*) from notifier.notification where event = 'booking.declined'";
    for _ in 0..MANY {
        assert_eq!(david.frame().await["event"], "booking.declined");
    }
    for _ in 0..20 {
        database.write(small).await;
        assert_eq!(david.frame().await["event"], "booking.declined");
    }
    david.nothing_but_a_marker(&database).await;
    eventually("all are rows", async || database.one::<i64>(told).await == MANY + 21).await;
}

/// Read inside the exception block, insert outside: a thousand subtransaction ids would slow every other session.
#[tokio::test(flavor = "multi_thread")]
async fn many_small_statements_spend_one_transaction_id() {
    let database = Database::new().await;
    database.write("begin").await;
    for n in 0..50 {
        let status = if n % 2 == 0 { "verified" } else { "pending" };
        database.write(&format!("update payment set status = '{status}' where id = 204")).await;
    }
    let spent: i64 = database
        .one(
            "select count(*) from pg_locks where locktype = 'transactionid' and mode = 'ExclusiveLock'
             and pid = (select pid from pg_stat_activity where usename = 'parking_app' and datname = current_database())",
        )
        .await;
    database.write("commit").await;
    // Each fault that is kept spends another.
    let slow: i64 = database.one("select count(*) from notifier.fault where sqlstate = 'NTF01'").await;
    assert!(spent <= 1 + slow, "{spent}");
    assert_eq!(database.one::<i64>("select count(*) from notifier.notification").await, 25);
}

/// `when others` catches everything but this: a failing ASSERT below the query has to be named.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_query_raises_the_write_succeeds() {
    let database = Database::new().await;
    database
        .run(
            "create function public.fails(how text) returns text language plpgsql stable as $$ begin
               if how = 'assert' then assert false, 'no'; elsif how = 'raise' then raise exception 'no';
               elsif how = 'divide' then return 1 / 0; elsif how = 'cast' then return 'x'::int; end if; return '8'; end $$;
             select notifier.define_event('payment.odd', 'public.payment', 'update', 'info', 'odd',
               'select public.fails(method) as user_id from new')",
        )
        .await;
    for (how, state) in [("assert", "P0004"), ("raise", "P0001"), ("divide", "22012"), ("cast", "22P02")] {
        database.write(&format!("update payment set method = '{how}' where id = 202")).await;
        let faults = format!("select count from notifier.fault where sqlstate = '{state}'");
        assert_eq!(database.one::<i64>(&faults).await, 1, "{how}");
    }
    database.write("update payment set method = 'card' where id = 202").await;
    assert_eq!(database.one::<i64>("select count(*) from notifier.notification").await, 1);
}

/// A cast of the application's own may give no text for what is not null.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_a_text_is_a_fault_and_no_error() {
    let database = Database::new().await;
    database
        .run("create type odd as enum ('8', 'x');
              create function public.odd_text(odd) returns text language sql immutable as $$ select case $1 when '8' then '8' end $$;")
        .await;
    let superuser = database.superuser().await;
    superuser.batch_execute("create cast (odd as text) with function public.odd_text(odd)").await.unwrap();
    database
        .run("create table public.thing (id int primary key, who odd);
              grant all on public.thing to parking_app;
              select notifier.define_event('thing.added', 'public.thing', 'insert', 'info', '{id}', 'select who as user_id, id from new')")
        .await;
    let (mut first, mut told) = (0, 0);
    for rows in [1, 2, 3, 40, 1500] {
        let app = database.another_app().await;
        let insert = format!(
            "insert into thing select {first} + n, case n when 1 then 'x' else '8' end::odd from generate_series(1, {rows}) n"
        );
        app.batch_execute(&insert).await.unwrap();
        database.run("select notifier.unfold(b.id) from notifier.bulk b").await;
        (first, told) = (first + rows, told + rows - 1);
        assert_eq!(database.one::<i64>("select count(*) from notifier.notification").await, told, "{rows} rows");
    }
    assert_eq!(faults(&database).await, ["thing.added 22001 5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_index_can_hold_is_a_fault_and_no_error() {
    let database = Database::new().await;
    database
        .run("create table public.note (id int primary key, who text, body text);
              grant all on public.note to parking_app;
              select notifier.define_event('note.added', 'public.note', 'insert', 'info', '{body}', 'select who as user_id, body from new')")
        .await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "8").await;
    database.write("insert into note values (1, repeat('x', 3000), 'too long a user')").await;
    database.write("insert into note values (2, '', 'nobody')").await;
    assert_eq!(faults(&database).await, ["note.added 22001 2"]);
    database.write("insert into note values (3, null, 'nobody'), (4, '8', null)").await;
    assert_eq!(socket.frame().await["message"], "");
    database.write("insert into note values (5, '8', repeat('y', 1000000))").await;
    // No frame is so large: it is cut, and whole in the inbox.
    let frame = socket.frame().await;
    assert_eq!(frame["message"].as_str().unwrap(), format!("{}\u{2026}", "y".repeat(1_000)));
    assert_eq!((&frame["cut"], &frame["data"]), (&true.into(), &serde_json::json!({})));
    let inbox = crate::support::Inbox::of(&service, "8").list("limit=1").await;
    assert_eq!(inbox["notifications"][0]["message"].as_str().unwrap().len(), 1_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn serialization_failures_reach_the_application_as_themselves() {
    let database = Database::new().await;
    let other = database.another_app().await;
    let begin = "begin isolation level serializable; select count(*) from payment where status = 'pending'";
    database.write(begin).await;
    other.batch_execute(begin).await.unwrap();
    database.write("update payment set status = 'verified' where id = 201; commit").await;
    let error = async {
        other.batch_execute("update payment set status = 'verified' where id = 204").await?;
        other.batch_execute("commit").await
    }
    .await
    .unwrap_err();
    assert_eq!(error.code().unwrap().code(), "40001");
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_session_settings_of_the_application_change_nothing() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut dora = Socket::open(service.address, "7").await;
    database
        .write("create temp table notification (id int); create temp table booking_shadow (id int);
                create function pg_temp.lower(text) returns text language sql as 'select ''hijacked''';
                set search_path = pg_temp, public, pg_catalog; set datestyle = 'SQL, DMY'; set timezone = 'Asia/Kathmandu';
                set standard_conforming_strings = off; set lock_timeout = 1; set notifier.doorbell = off; set row_security = off;
                set role parking_app;
                update payment set status = 'verified' where id = 201;
                update public.booking set status = 'completed' where id = 102")
        .await;
    assert_eq!(dora.frame().await["event"], "payment.verified");
    let frame = dora.frame().await;
    assert_eq!(frame["event"], "booking.completed");
    let end: String = database.one("select to_char(end_time, 'HH24:MI') from public.booking where id = 102").await;
    assert_eq!(
        frame["message"],
        format!("Booking #102 was completed after its end at {end}."),
        "in the zone of the database"
    );
    assert!(frame["data"]["end_time"].as_str().unwrap().starts_with("20"), "ISO whatever the session's datestyle");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_without_rights_learns_nothing() {
    let database = Database::new().await;
    for forbidden in [
        "select * from notifier.notification",
        "select value from notifier.setting",
        "select notifier.send('8', 'info', 'x')",
        "select notifier.work()",
        "select notifier.sweep()",
        "select * from notifier.stream('1:1:')",
        "select notifier.drop_event('booking.created')",
        "select notifier.announce(array['x'])",
    ] {
        let error = database.app.batch_execute(forbidden).await.expect_err(forbidden);
        assert_eq!(error.code().unwrap().code(), "42501", "{forbidden}");
    }
    // Even with a way into the schema there is none to anything in it.
    database.run("grant usage on schema notifier to parking_app").await;
    let open = database
        .rows(
            "select p.oid::regprocedure::text from pg_proc p
             where p.pronamespace = 'notifier'::regnamespace and has_function_privilege('parking_app', p.oid, 'execute')
             union all
             select c.oid::regclass::text from pg_class c
             where c.relnamespace = 'notifier'::regnamespace and c.relkind in ('r', 'p', 'v')
               and has_table_privilege('parking_app', c.oid, 'select')",
        )
        .await;
    let open: Vec<&str> = open.iter().map(|row| row.get(0)).collect();
    assert!(open.is_empty(), "open to anybody: {open:?}");
    let channel: String = database.one("select value from notifier.setting where name = 'channel'").await;
    let bodies: i64 = database.one(&format!("select count(*) from pg_proc where prosrc like '%{channel}%'")).await;
    assert_eq!(bodies, 0, "the channel stands in no function, which anybody may read");
}

/// `as into` is SQL and no plpgsql. As after the restore of a dump, the session does not look whether functions compile.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_compile_is_refused_and_no_write_meets_it() {
    let database = Database::new().await;
    let owner = database.superuser().await;
    let refused = owner
        .batch_execute(
            "set check_function_bodies = off;
             select notifier.define_event('payment.odd', 'public.payment', 'update', 'info', 'odd',
               'select user_id, id as into from new')",
        )
        .await;
    assert_eq!(refused.unwrap_err().code().map(|c| c.code()), Some("42601"));
    database.write("update payment set status = 'verified' where id = 204").await;
}
