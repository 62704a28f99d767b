//! Events that rest: because a DBA said so, or because they did nothing but harm.

use crate::support::{Database, Service, Socket, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_event_tells_nobody_and_the_others_of_its_table_go_on() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut dora = Socket::open(service.address, "7").await;
    let events =
        "select string_agg(e::text, '; ' order by name) from (select name, version, query from notifier.event) e";
    let before: String = database.one(events).await;
    let says: String = database.one("select notifier.pause_event('payment.verified', 'cash is counted twice')").await;
    assert_eq!(says, "payment.verified paused; notifier.resume_event('payment.verified') ends it");
    let again: String = database.one("select notifier.pause_event('payment.verified')").await;
    assert!(again.starts_with("payment.verified was paused already"), "{again}");
    assert!(again.ends_with(": cash is counted twice"), "{again}");
    let row = &database
        .rows("select paused, paused_by, paused_because from notifier.event where name = 'payment.verified'")
        .await[0];
    assert!(row.get::<_, bool>(0));
    assert_eq!((row.get::<_, &str>(1), row.get::<_, &str>(2)), ("parkmate", "cash is counted twice"));

    let write = "begin; update payment set status = 'pending' where id in (201, 202);
                 update payment set status = 'verified' where id = 201; update payment set status = 'success' where id = 202; commit";
    database.write(write).await;
    assert_eq!(dora.frame().await["event"], "booking.renewed");
    dora.nothing_but_a_marker(&database).await;

    // A script that is applied again, and an upgrade, wake nobody.
    database.run(include_str!("../sql/parkmate/events.sql")).await;
    parkmate_notifier::store::Store::new(&database.url().parse().unwrap(), 2).unwrap().migrate().await.unwrap();
    database.write(write).await;
    assert_eq!(dora.frame().await["event"], "booking.renewed");
    dora.nothing_but_a_marker(&database).await;

    assert_eq!(
        database.one::<String>("select notifier.resume_event('payment.verified')").await,
        "payment.verified goes on"
    );
    assert_eq!(
        database.one::<String>("select notifier.resume_event('payment.verified')").await,
        "payment.verified was not paused"
    );
    database.write(write).await;
    let mut told = [dora.frame().await, dora.frame().await].map(|frame| frame["event"].as_str().unwrap().to_owned());
    told.sort();
    assert_eq!(told, ["booking.renewed", "payment.verified"]);
    dora.nothing_but_a_marker(&database).await;
    assert_eq!(database.one::<String>(events).await, before);
}

/// A replaced definition rests as well: what was wrong may be wrong still, and whoever paused it decides.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_event_that_is_defined_anew_stays_paused() {
    let database = Database::new().await;
    database.run("select notifier.pause_event('payment.verified')").await;
    let define = "select string_agg(line, E'\n') from notifier.define_event('payment.verified', 'public.payment', 'update', 'info', 'Paid.',
                  'select user_id from changed') as line";
    let says: String = database.one(define).await;
    assert!(says.contains("payment.verified is paused: notifier.resume_event('payment.verified')"), "{says}");
    database.write("update payment set amount = 1 where id = 201").await;
    assert_eq!(database.one::<i64>("select count(*) from notifier.notification").await, 0);
    database.run("select notifier.resume_event('payment.verified')").await;
    database.write("update payment set amount = 2 where id = 201").await;
    assert_eq!(database.one::<String>("select message from notifier.notification").await, "Paid.");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_timer_fires_what_is_still_of_use_when_it_goes_on() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    database
        .run("select notifier.pause_event('booking.expired'); select notifier.pause_event('booking.expiring')")
        .await;
    // One that was armed before the pause, one that is written while it lasts, and one whose `until` passes meanwhile.
    database
        .write(
            "insert into booking (id, user_id, slot_id, end_time) overriding system value
             values (900, 8, 21, now() - interval '1 minute'), (901, 8, 21, now() - interval '2 days')",
        )
        .await;
    david.nothing_but_a_marker(&database).await;
    let idle = eventually("a paused timer keeps nobody busy", || async {
        database.one::<f64>("select notifier.next_work()").await > 1.0
    });
    david.meanwhile(idle).await;
    let says: String =
        database.one("select string_agg(line, E'\n') from notifier.resume_event('booking.expired') as line").await;
    assert!(says.ends_with("rows that are there are armed by the service, the next 24 hours first"), "{says}");
    let frame = david.frame().await;
    assert_eq!((frame["event"].as_str(), frame["data"]["booking_id"].as_i64()), (Some("booking.expired"), Some(900)));
    david.nothing_but_a_marker(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_does_nothing_but_fail_is_paused_and_its_faults_are_counted() {
    let database = Database::new().await;
    database.run("select notifier.define_event('payment.odd', 'public.payment', 'update', 'info', 'odd', 'select user_id, amount / (id - 201) as x from changed')").await;
    database.run("alter table public.payment rename column method to paid_by").await;
    let service = Service::on(&database).await;
    // payment.verified fails each time. payment.odd fails as often, but tells somebody in between.
    let fail = |id: i32, times: i32| {
        format!(
            "do $$ begin for n in 1..{times} loop update payment set amount = n where id = {id}; commit; end loop; end $$"
        )
    };
    for _ in 0..4 {
        database.write(&fail(201, 500)).await;
        database.write("update payment set amount = 1 where id = 204").await;
    }
    eventually("the event is paused", || async {
        database.one::<bool>("select paused from notifier.event where name = 'payment.verified'").await
    })
    .await;
    let paused = database.rows("select name, paused_by, paused_because from notifier.event where paused").await;
    assert_eq!(paused.len(), 1, "payment.odd told somebody");
    assert_eq!(paused[0].get::<_, &str>(1), "notifier");
    let because: &str = paused[0].get(2);
    assert!(
        because.starts_with("it failed ") && because.contains("and told nobody in between, last with: column"),
        "{because}"
    );
    eventually("the faults are counted", || async {
        database.one::<i64>("select count(*) from notifier.fault_record").await < 1_000
    })
    .await;
    let count = |event| {
        format!("select sum(count)::bigint from notifier.fault where event = '{event}' and sqlstate <> 'NTF01'")
    };
    assert_eq!(database.one::<i64>(&count("payment.odd")).await, 2_000);
    let failed: i64 = database.one(&count("payment.verified")).await;
    assert!((1_000..=2_004).contains(&failed), "{failed}");

    // Mended and resumed, it does not answer for what was.
    database.run("alter table public.payment rename column paid_by to method; select notifier.resume_event('payment.verified')").await;
    let mut dora = Socket::open(service.address, "7").await;
    database.write(&fail(201, 1_000)).await;
    database.write("update payment set status = 'verified' where id = 201").await;
    dora.until(|frame| frame["event"] == "payment.verified").await;
    assert!(!database.one::<bool>("select paused from notifier.event where name = 'payment.verified'").await);
}

/// Whoever holds a lock lets it go some time, and the event is as good as before.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_what_a_query_reads_pauses_nothing() {
    let database = Database::new().await;
    database
        .run(
            "insert into notifier.fault_record (event, sqlstate, message)
             select 'payment.verified', '55P03', 'canceling statement due to lock timeout' from generate_series(1, 1500)",
        )
        .await;
    assert!(database.one::<bool>("select notifier.count_faults()").await);
    assert_eq!(database.one::<i64>("select sum(count)::bigint from notifier.fault").await, 1_500);
    assert_eq!(database.one::<i64>("select count(*) from notifier.event where paused").await, 0);
}

/// To count is to walk the newest 100,000 notifications, and the service looks for work many times a second.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_counted_where_nothing_failed() {
    let database = Database::new().await;
    let superuser = database.superuser().await;
    superuser.batch_execute("begin; set local track_functions = 'pl'; select notifier.work()").await.unwrap();
    let called = "select count(*) from pg_stat_xact_user_functions where schemaname = 'notifier' and funcname = ";
    for (function, times) in [("work", 1), ("count_faults", 0)] {
        let row = superuser.query_one(&format!("{called}'{function}'"), &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), times, "{function}");
    }
}

/// Messages name values, and there is no end to those.
#[tokio::test(flavor = "multi_thread")]
async fn faults_of_ever_different_messages_are_kept_in_few_rows() {
    let database = Database::new().await;
    database
        .run(
            "insert into notifier.fault_record (event, sqlstate, message)
              select 'a.b', '22P02', 'invalid input: ' || n from generate_series(1, 3000) n
              union all select 'a.b', '22P02', 'the usual' from generate_series(1, 50)",
        )
        .await;
    database.run("select notifier.count_faults()").await;
    let rows = database.rows("select message, count from notifier.fault order by count desc").await;
    assert_eq!(rows.len(), 21);
    assert_eq!((rows[0].get::<_, &str>(0), rows[0].get::<_, i64>(1)), ("(other messages)", 2_981));
    assert_eq!((rows[1].get::<_, &str>(0), rows[1].get::<_, i64>(1)), ("the usual", 50));
}

/// Slow alone is no reason: an overloaded server makes everything slow.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_slow_for_want_of_an_index_is_paused_and_another_slow_one_is_not() {
    let database = Database::new().await;
    database
        .run(
            "create table public.price (lot_id bigint, owner text, filler text);
              insert into public.price select n, '8', repeat('x', 100) from generate_series(1, 30000) n;
              analyze public.price;
              select notifier.define_event('lot.scans', 'public.parking_lot', 'update', 'info', 'x',
                'select p.owner as user_id from changed join public.price p on p.lot_id = changed.id');
              insert into notifier.fault_record (event, sqlstate, message)
              select event, 'NTF01', 'its query took more than 100 ms for up to 32 rows'
              from unnest(array['lot.scans', 'booking.declined']) as event, generate_series(1, 600)",
        )
        .await;
    let paused = "select string_agg(name, ',') from notifier.event where paused";
    assert_eq!(database.one::<Option<String>>(paused).await, None);
    // As notifier.work calls it.
    database.run("begin; set local search_path = pg_catalog, pg_temp; select notifier.count_faults(); commit").await;
    assert_eq!(database.one::<String>(paused).await, "lot.scans");
    let because: String = database.one("select paused_because from notifier.event where paused").await;
    assert!(
        because.starts_with("it made the application wait time and again: each statement reads all of public.price ("),
        "{because}"
    );
    assert!(because.ends_with("create index concurrently on public.price (lot_id);"), "{because}");
    // And before it comes to that, whoever asks is told.
    let fix: String = database.one("select fix from notifier.check() where severity = 'warning' and event = 'lot.scans' and problem like 'each statement%'").await;
    assert_eq!(fix, "create index concurrently on public.price (lot_id);");
    database.run(&fix).await;
    database.run("select notifier.resume_event('lot.scans')").await;
    let left = "select count(*) from notifier.check() where event = 'lot.scans' and problem like 'each statement%'";
    assert_eq!(database.one::<i64>(left).await, 0);
}
