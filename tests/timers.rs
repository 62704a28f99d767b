//! Timers: fired at their time by one instance, armed again when their row moved, dropped when it no longer qualifies.

use std::collections::HashSet;

use crate::support::database::load_parkmate;
use crate::support::{Database, Service, Socket, eventually};

/// Books slot 11 for David: `booking.expiring` is due five minutes before `end`.
async fn book(database: &Database, id: i32, end: &str) {
    database
        .write(&format!(
            "insert into booking (id, user_id, slot_id, end_time) overriding system value values ({id}, 8, 11, {end})"
        ))
        .await;
}

/// The next frame of an event, and no other.
async fn next(socket: &mut Socket, event: &str) -> i64 {
    let frame = socket.frame().await;
    assert_eq!(frame["event"], event, "{frame}");
    frame["data"]["booking_id"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_sleeps_until_its_time_and_a_nearer_one_wakes_the_scheduler() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    // In one transaction, so that however late they are committed, one is due before the other.
    database.write("begin").await;
    book(&database, 901, "now() + interval '3 days'").await;
    book(&database, 902, "now() + interval '5 minutes 1500 milliseconds'").await;
    book(&database, 903, "now() + interval '5 minutes 1 second'").await;
    database.write("commit").await;
    assert_eq!(next(&mut david, "booking.expiring").await, 903);
    assert_eq!(next(&mut david, "booking.expiring").await, 902);
    let early: i64 = database
        .one(
            "select count(*) from notifier.notification n join booking b on b.id = (n.data ->> 'booking_id')::int
              where n.event = 'booking.expiring' and n.created_at < b.end_time - interval '5 minutes'",
        )
        .await;
    assert_eq!(early, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_booking_is_told_at_its_new_time_and_a_cancelled_one_never() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    // In one transaction, so that no timer can fire before all is said; each statement arms for itself.
    database.write("begin").await;
    for id in [901, 902, 903, 904] {
        book(&database, id, "now() + interval '5 minutes 500 milliseconds'").await;
    }
    database.write("update booking set end_time = end_time + interval '1 second' where id = 901").await;
    database.write("update booking set status = 'cancelled' where id = 902").await;
    database.write("delete from booking where id = 903").await;
    database.write("commit").await;
    assert_eq!(next(&mut david, "booking.expiring").await, 904);
    assert_eq!(next(&mut david, "booking.expiring").await, 901);
    david.nothing_but_a_marker(&database).await;
    eventually("all that was due was looked at", || async {
        let due = "select count(*) from notifier.timer where event = 'booking.expiring' and due_at < now() and barrier is null";
        database.one::<i64>(due).await == 0
    })
    .await;
}

/// The application moves the row without any trigger of ours seeing it: firing looks at the row and arms the timer again.
#[tokio::test(flavor = "multi_thread")]
async fn a_timer_whose_row_moved_unseen_is_armed_again() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    database.write("begin").await;
    book(&database, 901, "now() + interval '5 minutes 500 milliseconds'").await;
    database
        .write("set local notifier.mute = on; update booking set end_time = end_time + interval '1 second' where id = 901; set local notifier.mute = off")
        .await;
    book(&database, 902, "now() + interval '5 minutes 1 second'").await;
    database.write("commit").await;
    assert_eq!(next(&mut david, "booking.expiring").await, 902);
    assert_eq!(next(&mut david, "booking.expiring").await, 901);
    david.nothing_but_a_marker(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_that_begins_to_qualify_after_its_due_time_is_told_then() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    database
        .write(
            "insert into booking (id, user_id, slot_id, end_time, status) overriding system value
                values (901, 8, 11, now() + interval '2 minutes', 'requested')",
        )
        .await;
    eventually("the timer was looked at and told nobody", || async {
        database.one::<i64>("select count(*) from notifier.timer where event = 'booking.expiring' and key = '[\"901\"]' and barrier is null").await == 0
    })
    .await;
    david.nothing_but_a_marker(&database).await;
    database.write("update booking set status = 'booked' where id = 901").await;
    assert_eq!(next(&mut david, "booking.expiring").await, 901);
    database.write("update booking set start_time = now() where id = 901").await;
    david.nothing_but_a_marker(&database).await;
}

/// The write that makes it qualify comes before the due time and is committed after it: neither the trigger, which saw it early,
/// nor a first look at the row, which saw it uncommitted, can tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_booking_that_qualifies_by_a_transaction_open_at_its_due_time_is_told() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    let other = database.another_app().await;
    // Its id is one of before the due time, however late it comes to write.
    other.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
    database
        .write(
            "insert into booking (id, user_id, slot_id, end_time, status) overriding system value
                values (901, 8, 11, now() + interval '5 minutes 1 second', 'requested')",
        )
        .await;
    other.batch_execute("update booking set status = 'booked' where id = 901").await.unwrap();
    eventually("it was looked at", || async {
        database.one::<i64>("select count(*) from notifier.timer where event = 'booking.expiring' and key = '[\"901\"]' and barrier is not null").await > 0
    })
    .await;
    other.batch_execute("commit").await.unwrap();
    assert_eq!(next(&mut david, "booking.expiring").await, 901);
    david.nothing_but_a_marker(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_due_while_no_service_ran_is_told_if_it_is_still_of_use() {
    let database = Database::new().await;
    book(&database, 901, "now() - interval '1 hour'").await; // ended: no use in "it ends soon", but in "it has ended"
    book(&database, 902, "now() + interval '1 minute'").await; // ends soon
    book(&database, 903, "now() - interval '2 days'").await; // no use in either
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    let mut told = HashSet::new();
    for _ in 0..2 {
        let frame = david.frame().await;
        told.insert((frame["event"].as_str().unwrap().to_owned(), frame["data"]["booking_id"].as_i64().unwrap()));
    }
    assert_eq!(told, HashSet::from([("booking.expired".to_owned(), 901), ("booking.expiring".to_owned(), 902)]));
    david.nothing_but_a_marker(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_fire_each_timer_once() {
    const MANY: i64 = 400;
    let database = Database::new().await;
    let (first, second) = (Service::on(&database).await, Service::on(&database).await);
    let mut sockets = [Socket::open(first.address, "8").await, Socket::open(second.address, "8").await];
    // Spread over two seconds, each row armed twice.
    database
        .write(&format!(
            "insert into booking (id, user_id, slot_id, end_time) overriding system value
             select 10000 + n, 8, 11, now() + interval '5 minutes' + n * interval '5 milliseconds' from generate_series(1, {MANY}) n"
        ))
        .await;
    database.run("insert into notifier.timer (event, key, due_at) select event, key, due_at from notifier.timer").await;
    let each_once = async |socket: &mut Socket| {
        let mut seen = HashSet::new();
        for _ in 0..MANY {
            assert!(seen.insert(next(socket, "booking.expiring").await), "told twice");
        }
    };
    let [one, other] = &mut sockets;
    tokio::join!(each_once(one), each_once(other));
    eventually("all timers were looked at", || async {
        database
            .one::<i64>("select count(*) from notifier.timer where event = 'booking.expiring' and due_at < now()")
            .await
            == 0
    })
    .await;
    assert_eq!(
        database.one::<i64>("select count(*) from notifier.notification where event = 'booking.expiring'").await,
        MANY
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bookings_that_were_there_before_their_timer_get_one() {
    let database = Database::empty().await;
    load_parkmate(&database.owner).await;
    database
        .write(
            "insert into booking (user_id, slot_id, end_time)
                select 8, 11, now() + interval '5 minutes' + n * interval '1 hour' from generate_series(0, 2499) n",
        )
        .await;
    parkmate_notifier::store::Store::new(&database.url().parse().unwrap(), 2).unwrap().migrate().await.unwrap();
    database.run(include_str!("../sql/parkmate/events.sql")).await;
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    assert_eq!(david.frame().await["event"], "booking.expiring");
    eventually("all rows are armed", || async {
        database.one::<i64>("select count(*) from notifier.backfill").await == 0
    })
    .await;
    let without: i64 = database
        .one("select count(*) from booking b where end_time > now() + interval '5 minutes' and not exists (
                select from notifier.timer t where t.event = 'booking.expiring' and t.key = jsonb_build_array(b.id::text)
                  and t.due_at = b.end_time - interval '5 minutes')")
        .await;
    assert_eq!(without, 0);
}

/// A transaction that wrote before the definition and commits after it fires no trigger of the new timer.
#[tokio::test(flavor = "multi_thread")]
async fn a_booking_of_a_transaction_that_was_open_during_the_definition_gets_its_timer() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    database.write("begin; insert into booking (id, user_id, slot_id, end_time) overriding system value values (901, 8, 11, now() + interval '2 days')").await;
    database
        .run("select notifier.define_timer('booking.tomorrow', 'public.booking', 'end_time - interval ''1 day''', 'info', 'Tomorrow!',
              'select user_id, id as booking_id from due')")
        .await;
    eventually("all there is to see is armed", || async {
        database.one::<i16>("select pass from notifier.backfill").await == 3
    })
    .await;
    database.write("commit").await;
    eventually("the booking is armed", || async {
        database
            .one::<i64>("select count(*) from notifier.timer where event = 'booking.tomorrow' and key = '[\"901\"]'")
            .await
            == 1
    })
    .await;
    assert!(service.is_ready().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_faults_holds_up_neither_the_others_nor_other_events() {
    let database = Database::new().await;
    database
        .run("create table public.task (id int primary key, owner text, at timestamptz, parts int);
              grant all on public.task to parking_app;
              select notifier.define_timer('task.due', 'public.task', $$ at + interval '1 second' / parts $$, 'info', 'Task {id}.',
                'select owner as user_id, id from due')")
        .await;
    database.write("insert into task select n, '8', now(), 2 from generate_series(1, 5) n").await;
    database.write("begin; set local notifier.mute = on; update task set parts = 0 where id = 3; commit").await;
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    let mut seen = HashSet::new();
    for _ in 0..4 {
        seen.insert(david.frame().await["data"]["id"].as_i64().unwrap());
    }
    assert_eq!(seen, HashSet::from([1, 2, 4, 5]));
    let fault = database.rows("select event, sqlstate from notifier.fault where sqlstate <> 'NTF01'").await;
    assert_eq!((fault[0].get::<_, &str>(0), fault[0].get::<_, &str>(1)), ("task.due", "22012"));
    eventually("it is tried again later", || async {
        database.one::<i64>("select count(*) from notifier.timer where event = 'task.due' and due_at > now() + interval '30 seconds'").await == 1
    })
    .await;
    book(&database, 901, "now() + interval '2 minutes'").await;
    assert_eq!(next(&mut david, "booking.expiring").await, 901);
}

/// Rows that are due and end at the same instants are seen by one run of the query.
#[tokio::test(flavor = "multi_thread")]
async fn a_timer_may_group_its_rows_and_have_any_key() {
    let database = Database::new().await;
    database
        .run(r#"create schema "Odd";
              create table "Odd"."Lease" ("Lot" uuid, "nr" smallint, "user" text, "Ends" timestamptz, "due" int, primary key ("Lot", "nr"));
              grant usage on schema "Odd" to parking_app; grant all on "Odd"."Lease" to parking_app;
              select notifier.define_timer('lease.ending', '"Odd"."Lease"', $$ "Ends" $$, 'info', '{leases} leases end: {numbers}.',
                $$ select "user" as user_id, count(*) as leases, string_agg(nr::text, '+' order by nr) as numbers from due group by "user" $$)"#)
        .await;
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    database
        .write(r#"insert into "Odd"."Lease" select gen_random_uuid(), n, '8', date_trunc('second', now()) + interval '2 seconds', n from generate_series(1, 3) n"#)
        .await;
    assert_eq!(david.frame().await["message"], "3 leases end: 1+2+3.");
    david.nothing_but_a_marker(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_sent_for_later_arrives_later() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    database
        .run("select notifier.send('8', 'info', 'later', jsonb_build_object('due', d), send_at => d), notifier.send('8', 'info', 'now')
              from (select now() + interval '1 second' as d) d")
        .await;
    assert_eq!(david.frame().await["message"], "now");
    assert_eq!(david.frame().await["message"], "later");
    let early = "select created_at < (data ->> 'due')::timestamptz from notifier.notification where message = 'later'";
    assert!(!database.one::<bool>(early).await);
}

/// The verdict "not told" is about the rows as they were seen: what commits while the query runs was not.
#[tokio::test(flavor = "multi_thread")]
async fn a_booking_that_qualifies_while_its_timer_is_looked_at_is_told() {
    let database = Database::new().await;
    database
        .run(
            "create function public.slowly(status text) returns text language plpgsql stable as
               'begin perform pg_sleep(1); return status; end';
             select notifier.drop_event('booking.expired');
             select notifier.define_timer('booking.expiring', 'public.booking', $$ end_time - interval '5 minutes' $$, 'warning', 'Ends.',
               $$ select user_id, id as booking_id from due where public.slowly(status) = 'booked' $$, until => 'end_time')",
        )
        .await;
    let other = database.another_app().await;
    database
        .write(
            "insert into booking (id, user_id, slot_id, end_time, status) overriding system value
             values (901, 8, 11, now() + interval '5 minutes', 'requested')",
        )
        .await;
    // Muted, it arms nothing, as if it had been written before the due time.
    let early = "begin; set local notifier.mute = on; update booking set status = 'booked' where id = 901";
    other.batch_execute(early).await.unwrap();
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    eventually("the row is being looked at", || async {
        let looking =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'";
        database.one::<i64>(looking).await > 0
    })
    .await;
    other.batch_execute("commit").await.unwrap();
    assert_eq!(next(&mut david, "booking.expiring").await, 901);
}

/// One timer whose query takes longer than anybody waits, and others that do not.
#[tokio::test(flavor = "multi_thread")]
async fn a_timer_that_takes_too_long_holds_up_no_other() {
    let database = Database::new().await;
    database
        .run(
            "create function public.sleeps(who bigint) returns bigint language plpgsql stable as
               'begin perform pg_sleep(60); return who; end';
             select notifier.define_timer('booking.endless', 'public.booking', $$ end_time - interval '6 minutes' $$, 'info', 'x',
               'select public.sleeps(user_id) as user_id from due', until => 'end_time')",
        )
        .await;
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    book(&database, 901, "now() + interval '5 minutes'").await;
    assert_eq!(next(&mut david, "booking.expiring").await, 901);
    eventually("its fault is kept", || async {
        let faults = "select count(*) from notifier.fault where event = 'booking.endless' and sqlstate = '57014'";
        database.one::<i64>(faults).await == 1
    })
    .await;
}

/// Its timers are looked for again, once: were that an error, nothing else that the service owes would ever be done.
#[tokio::test(flavor = "multi_thread")]
async fn a_timer_that_faults_in_two_transactions_stops_no_work() {
    let database = Database::new().await;
    database
        .run(
            "create function public.due(booking_id bigint) returns timestamptz language plpgsql stable as $$ begin
               if booking_id < 103 then raise exception 'no'; end if; return now(); end $$;
             select notifier.define_timer('booking.odd', 'public.booking', 'public.due(id)', 'info', 'odd',
               'select user_id from due');
             delete from notifier.backfill",
        )
        .await;
    for id in [101, 102] {
        database.write(&format!("update booking set status = status where id = {id}")).await;
    }
    assert_eq!(database.one::<i64>("select count(*) from notifier.spill where kind = 'backfill'").await, 2);
    database.run("select notifier.work()").await;
    assert_eq!(database.one::<i64>("select count(*) from notifier.spill").await, 0);
    assert_eq!(database.one::<i64>("select count(*) from notifier.backfill where event = 'booking.odd'").await, 1);
}

/// `until` put off before or after it was past, and `due` moved to a time that never comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_timer_follows_an_until_that_is_put_off_and_a_due_that_is_none() {
    let database = Database::new().await;
    database
        .run(
            "create table reminder (id int primary key, user_id int, at timestamptz, until timestamptz, note text);
             select notifier.define_timer('reminder.due', 'public.reminder', 'at', 'info', 'REMINDER {id}',
               'select user_id, id from due', until => 'until')",
        )
        .await;
    let told = "select coalesce(string_agg(message, ', ' order by id), '') from notifier.notification where event = 'reminder.due'";
    database.work().await;
    // One of no use any more when it was written, and put off before its time; one that is switched off; one that is told.
    database
        .run(
            "insert into reminder values (1, 8, now() + interval '1 hour', now() - interval '1 hour');
             update reminder set until = now() + interval '2 hours' where id = 1;
             insert into reminder values (2, 8, now() - interval '1 second', now() + interval '1 hour');
             update reminder set at = '-infinity' where id = 2;
             insert into reminder values (3, 8, now() - interval '1 second', now() + interval '1 hour')",
        )
        .await;
    let armed = "select count(*) from notifier.timer where event = 'reminder.due' and key = '[\"1\"]'";
    assert_eq!(database.one::<i64>(armed).await, 1);
    database.work().await;
    assert_eq!(database.one::<String>(told).await, "REMINDER 3");

    // It was told, and is not again, however long it is put off and touched.
    database.run("update reminder set until = now() + interval '30 days' where id = 3").await;
    database.work().await;
    let remembered = "select until > now() + interval '29 days' from notifier.fired where event = 'reminder.due'";
    assert!(database.one::<bool>(remembered).await);
    database.run("update reminder set note = 'touched' where id = 3").await;
    database.work().await;
    assert_eq!(database.one::<String>(told).await, "REMINDER 3");
}
