//! What has expired leaves, with the service or without, and costs nobody a notification.

use std::cell::Cell;
use std::net::SocketAddr;

use futures_util::future::join_all;
use tokio_postgres::Client;

use crate::support::{Database, Service, Socket, eventually, process};

/// Notifications of user 8 that were created some time ago.
const OLD: &str = "create function notifier.old(_age interval, _count int, _message text default 'old') returns void language sql as $$
    insert into notifier.notification (slot, created_at, user_id, event, level, message, data)
    select notifier.slot(now() - _age), now() - _age, '8', 'old', 'info', _message, '{}' from generate_series(1, _count) $$";

const COUNT: &str = "select count(*) from notifier.notification";

/// A sweep as it comes ten minutes after the one before, to its end; what it said.
async fn sweep(database: &Database) -> Vec<String> {
    let mut said = Vec::new();
    database.run("update notifier.progress set swept_at = least(swept_at, now() - interval '2 minutes')").await;
    loop {
        let lines = database.rows("select notifier.sweep()").await;
        let lines: Vec<String> = lines.iter().map(|line| line.get(0)).collect();
        let again = lines.iter().any(|line| line.starts_with("more waits") || line.contains("another session"));
        said.extend(lines);
        if !again {
            return said;
        }
        assert!(said.len() < 10_000, "it ends: {said:?}");
    }
}

/// Sweeps until nothing old is left: a lock that somebody holds for a moment leaves a leaf for the next one.
async fn sweep_until_nothing_old_is_left(database: &Database) {
    eventually("all that is old has left", || async {
        sweep(database).await;
        database.one::<i64>("select count(*) from notifier.notification where event = 'old'").await == 0
    })
    .await;
}

/// Whether a transaction ever had to put its rows aside.
async fn spilled(database: &Database) -> bool {
    database.one("select is_called from notifier.spill_id_seq").await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_service_sql_alone_lets_go_of_what_has_expired_and_keeps_the_rest() {
    let database = Database::new().await;
    database.run(OLD).await;
    database.run("select notifier.old('8 days', 30), notifier.old('12 days', 20), notifier.old('6 days', 4)").await;
    database.write("update payment set status = 'verified' where id = 204").await;
    let greatest: i64 =
        database.one("select max(xid::text::int8) from notifier.notification where event = 'old'").await;
    assert!(sweep(&database).await.iter().any(|said| said.contains("committed after the sweep before")));
    assert_eq!(database.one::<i64>(COUNT).await, 55, "readers have had no time to see them");

    let said = sweep(&database).await;
    // The older one should have gone a day before: what keeps a leaf for so long need not keep its rows.
    for expected in [": 20 notifications deleted", " emptied"] {
        assert!(said.iter().any(|said| said.ends_with(expected)), "{said:?}");
    }
    assert_eq!(database.one::<i64>(COUNT).await, 5);
    let pruned: i64 = database.one("select pruned::text::int8 from notifier.progress").await;
    assert!(pruned > 0 && pruned <= greatest, "{pruned}, {greatest}");
    assert_eq!(sweep(&database).await, ["nothing has expired"]);
    assert_eq!(database.one::<i64>("select pruned::text::int8 from notifier.progress").await, pruned);

    let soon = database.rows("select notifier.sweep()").await;
    assert!(soon[0].get::<_, &str>(0).contains("less than a minute ago"));
    for (refused, state) in [
        ("select notifier.sweep('59 minutes')", "22023"),
        ("select notifier.sweep('15 days')", "22023"),
        ("select notifier.sweep(null)", "22023"),
        // Its snapshot may be older than the last row of a leaf.
        ("begin isolation level repeatable read; select notifier.sweep()", "25001"),
    ] {
        let error = database.owner.batch_execute(refused).await.expect_err(refused);
        assert_eq!(error.code().unwrap().code(), state, "{refused}");
    }
}

/// The service was away for longer than the ring is: one leaf has rows of 16 days ago and of today.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_longer_absence_than_the_ring_old_rows_leave_and_those_of_today_stay() {
    let database = Database::new().await;
    database.run(OLD).await;
    database.run("select notifier.old('16 days', 12000), notifier.old('32 days', 3)").await;
    database.write("update payment set status = 'verified' where id = 204").await;
    sweep(&database).await;
    assert_eq!(database.one::<i64>(COUNT).await, 12_004);
    let holder = database.superuser().await;
    holder.batch_execute("begin; update notifier.notification set read_at = now() where id = (select min(id) from notifier.notification)").await.unwrap();
    sweep(&database).await;
    assert_eq!(database.one::<i64>(COUNT).await, 2, "one that somebody holds is left out, and not waited for");
    holder.batch_execute("commit").await.unwrap();
    sweep(&database).await;
    assert_eq!(
        database.one::<i64>("select count(*) from notifier.notification where event = 'payment.verified'").await,
        1
    );
    assert_eq!(database.one::<i64>(COUNT).await, 1);
}

/// An insert through the parent locks the parent and the leaf it goes to: whoever empties another one meets no writer.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_locks_the_leaf_of_today_and_no_other() {
    let database = Database::new().await;
    database.write("begin; update payment set status = 'verified' where id = 204; insert into payment (booking_id, user_id, amount, status, is_renewal) select 104, 8, n, 'success', true from generate_series(1, 100) n").await;
    let locked = database
        .rows("select distinct c.relname::text from pg_locks l join pg_class c on c.oid = l.relation
               where l.pid = (select pid from pg_stat_activity where usename = 'parking_app' and datname = current_database())
                 and c.relnamespace = 'notifier'::regnamespace and c.relname ~ '^notification(_\\d+)?$' order by 1")
        .await;
    let locked: Vec<String> = locked.iter().map(|row| row.get(0)).collect();
    let leaf: i16 = database.one("select notifier.slot(now())").await;
    assert_eq!(locked, ["notification".to_owned(), format!("notification_{leaf}")]);
    database.write("commit").await;
}

/// Somebody's report reads our table for hours: leaves wait for its end, and no writer waits for anybody.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_select_delays_a_leaf_and_no_writer() {
    const WRITES: i64 = 400;
    let database = Database::new().await;
    database.run(OLD).await;
    database.run("select notifier.old('8 days', 200)").await;
    let reader = database.superuser().await;
    reader
        .batch_execute("begin isolation level repeatable read; select count(*) from notifier.notification")
        .await
        .unwrap();
    // Before the service, so that its own is not due.
    sweep(&database).await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "8").await;

    let writers = [database.another_app().await, database.another_app().await];
    let writing = tokio::spawn(async move {
        let write = async |writer: &Client| {
            for n in 0..WRITES / 2 {
                writer
                    .execute("insert into payment (booking_id, user_id, amount, status, is_renewal) values (104, 8, $1::int8, 'success', true)", &[&n])
                    .await
                    .unwrap();
            }
        };
        join_all(writers.iter().map(write)).await;
    });
    let mut sweeps = 0;
    while !writing.is_finished() || sweeps < 3 {
        let said = socket.meanwhile(sweep(&database)).await;
        assert!(said.iter().any(|said| said.ends_with("somebody reads it or writes to it")), "{said:?}");
        sweeps += 1;
    }
    writing.await.unwrap();
    for _ in 0..WRITES {
        assert_eq!(socket.frame().await["event"], "booking.renewed");
    }
    socket.nothing_but_a_marker(&database).await;
    assert!(!spilled(&database).await, "a writer had to wait");
    assert_eq!(database.faults().await, 0);
    assert_eq!(database.one::<i64>(COUNT).await, WRITES + 201);

    reader.batch_execute("commit").await.unwrap();
    sweep_until_nothing_old_is_left(&database).await;
    assert_eq!(database.one::<i64>(COUNT).await, WRITES + 1);
}

/// What a prepared transaction wrote long ago is news when it commits, and stays until it had time to be told.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_keeps_its_notification_until_it_is_told() {
    let database = Database::new().await;
    database.run(OLD).await;
    database.run("select notifier.old('10 days', 7)").await;
    sweep(&database).await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "8").await;
    let (owner, name) = (&database.owner, &database.name);
    owner
        .batch_execute(&format!("begin; select notifier.old('10 days', 1, 'held'); prepare transaction '{name}'"))
        .await
        .unwrap();
    sweep(&database).await;
    assert_eq!(database.one::<i64>(COUNT).await, 0, "the leaf is held for long: what can go, goes row by row");
    owner.batch_execute(&format!("commit prepared '{name}'")).await.unwrap();
    let said = sweep(&database).await;
    assert!(said.iter().any(|said| said.contains("committed after the sweep before")), "{said:?}");
    assert_eq!(socket.frame().await["message"], "held");
    socket.nothing_but_a_marker(&database).await;
    sweep_until_nothing_old_is_left(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_sweeps_at_a_time_and_any_number_may_try() {
    let database = Database::new().await;
    database.run(OLD).await;
    database.run("select notifier.old('16 days', 9000), notifier.old('8 days', 10)").await;
    sweep(&database).await;
    database.run("update notifier.progress set swept_at = now() - interval '2 minutes'").await;
    let (one, other) = (database.superuser().await, database.superuser().await);
    one.batch_execute("begin; select notifier.sweep()").await.unwrap();
    let said = other.query("select notifier.sweep()", &[]).await.unwrap();
    assert_eq!(said[0].get::<_, &str>(0), "nothing done: another session sweeps");
    // (A sweep that is left open for seconds is ended by the server.)
    let _ = one.batch_execute("rollback").await;
    assert_eq!(database.one::<i64>(COUNT).await, 9010);

    let sweepers = join_all((0..4).map(|_| database.superuser())).await;
    let deleted = "select coalesce(sum(substring(said from ': (\\d+) notifications deleted')::int8), 0)::int8
                   + 10 * count(*) filter (where said ~ 'emptied') from notifier.sweep() as said";
    let gone = Cell::new(0);
    eventually("all are gone", async || {
        let rounds = join_all(sweepers.iter().map(|sweeper| sweeper.query_one(deleted, &[]))).await;
        let round: i64 = rounds.into_iter().map(|round| round.unwrap().get::<_, i64>(0)).sum();
        gone.set(gone.get() + round);
        gone.get() >= 9010
    })
    .await;
    assert_eq!((gone.get(), database.one::<i64>(COUNT).await), (9010, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn fired_timers_devices_and_faults_leave_as_well() {
    let database = Database::new().await;
    database
        .run(
            "insert into notifier.fired (event, key, due_at, until)
             select 'e', to_jsonb(u), now() - interval '20 days', u::timestamptz
             from unnest(array[now() - interval '8 days', now() - interval '6 days', now() + interval '1 day', 'infinity']) u;
             insert into notifier.device (user_id, device, epoch, position, seen_at)
             select '8', d, 1, pg_current_snapshot(), now() - d::interval from unnest(array['31 days', '29 days']) d;
             insert into notifier.fault_record (event, sqlstate, message, recorded_at)
             select 'e', '22012', a, now() - a::interval from unnest(array['8 days', '6 days']) a;
             insert into notifier.fault_total (event, sqlstate, message, first_seen, last_seen, count, last_id)
             select 'f', '22012', a, '-infinity', now() - a::interval, 9, 9 from unnest(array['8 days', '6 days']) a;
             insert into notifier.timer (event, key, due_at) values ('dropped', '[\"1\"]', 'infinity')",
        )
        .await;
    let timers = "select count(*) from notifier.timer";
    let live: i64 = database.one(timers).await;
    sweep(&database).await;
    assert_eq!(database.one::<i64>(timers).await, live - 1, "that of an event that was dropped");
    assert_eq!(database.one::<i64>("select count(*) from notifier.fired").await, 3);
    assert_eq!(database.one::<String>("select string_agg(device, ',') from notifier.device").await, "29 days");
    assert_eq!(
        database.one::<String>("select string_agg(event || message, ',' order by event) from notifier.fault").await,
        "e6 days,f6 days"
    );
}

/// Where no service makes rows of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_by_the_thousand_leaves_as_well() {
    let database = Database::new().await;
    for age in ["10 days", "1 hour"] {
        database
            .write(
                "insert into payment (booking_id, user_id, amount, status, is_renewal)
                 select 104, 8, n, 'success', true from generate_series(1, 1200) n",
            )
            .await;
        let old = format!(
            "update notifier.bulk set created_at = now() - interval '{age}' where created_at > now() - interval '1 minute'"
        );
        database.run(&old).await;
    }
    let lies = async || database.one::<i64>("select sum(cardinality(ids))::bigint from notifier.bulk").await;
    assert_eq!(lies().await, 2_400);
    eventually("what has expired has left", || async {
        sweep(&database).await;
        lies().await < 2_400
    })
    .await;
    assert_eq!(lies().await, 1_200);
}

/// The service sweeps by itself, and what goes wrong with that holds up nobody's timer.
#[tokio::test(flavor = "multi_thread")]
async fn the_service_sweeps_and_a_fault_of_it_is_kept_and_holds_up_no_timer() {
    let database = Database::new().await;
    database.run(OLD).await;
    database
        .run(
            "select notifier.old('8 days', 10);
             insert into notifier.device (user_id, device, epoch, position, seen_at) values ('8', 'd', 1, '4:4:', now() - interval '40 days');
             create function public.no() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
             create trigger no before delete on notifier.device execute function public.no()",
        )
        .await;
    let due =
        "update notifier.progress set swept_at = now() - interval '2 days', swept_position = pg_current_snapshot()";
    database.run(due).await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "8").await;
    eventually("the fault is kept", || async {
        let faults = "select count(*) from notifier.fault where event = 'notifier.sweep' and message = 'no'";
        database.one::<i64>(faults).await == 1
    })
    .await;
    assert_eq!(database.one::<i64>(COUNT).await, 10);
    database
        .write("insert into booking (user_id, slot_id, end_time) values (8, 21, now() + interval '5 minutes 1 second')")
        .await;
    assert_eq!(socket.frame().await["event"], "booking.expiring");

    database.run("drop trigger no on notifier.device").await;
    // A sweep that meets one who reads leaves it to the next.
    eventually("the leaf is empty", || async {
        database.run(due).await;
        database.one::<i64>("select count(*) from notifier.notification where event = 'old'").await == 0
    })
    .await;
    socket.nothing_but_a_marker(&database).await;
}

/// Fault test 5 of those nobody would think of: a prepared transaction is held while many rows pass, a SELECT is open on the
/// table, and retention runs. `make torture` makes it half a million rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_transaction_an_open_select_and_retention_cost_neither_reads_nor_memory_nor_notifies() {
    const ROWS: i64 = 1_000;
    let batches = crate::support::checker::size(20, 500);
    let database = Database::alone().await;
    database.run(OLD).await;
    database.run("select notifier.old('8 days', 100)").await;
    sweep(&database).await;
    let (owner, name) = (&database.owner, &database.name);
    let mut serve = process::binary();
    serve.args(["serve", "--listen", "127.0.0.1:0", "--auth", "none", "--database-url", &database.url()]);
    let (child, address, _log): (_, SocketAddr, _) = process::serve(serve).await;
    let mut socket = Socket::open(address, "8").await;
    let (_listening, mut heard) = crate::survival::listen(&database).await;
    owner
        .batch_execute(&format!("begin; select notifier.old('8 days', 1, 'held'); prepare transaction '{name}'"))
        .await
        .unwrap();
    let reader = database.superuser().await;
    reader
        .batch_execute("begin isolation level repeatable read; select count(*) from notifier.notification")
        .await
        .unwrap();

    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<i64>().unwrap()
    };
    let mut before = 0;
    for batch in 0..batches {
        database
            .write(&format!(
                "insert into payment (booking_id, user_id, amount, status, is_renewal)
                 select 104, 8, n, 'success', true from generate_series(1, {ROWS}) n"
            ))
            .await;
        for _ in 0..ROWS {
            assert_eq!(socket.frame().await["event"], "booking.renewed");
        }
        sweep(&database).await;
        if batch == 4 {
            before = memory();
        }
    }
    assert!(memory() < before + 16 * 1024, "{before} KiB, then {}", memory());
    // A read that begins at the oldest running transaction would have met all rows again each second.
    let read: i64 = database
        .one("select sum(idx_tup_read)::int8 from pg_stat_user_indexes where indexrelname ~ '^notification_\\d+_xid_idx$'")
        .await;
    assert!(read <= 3 * batches * ROWS, "{read} rows read for {}", batches * ROWS);
    let mut notified = 0;
    while let Ok(payload) = heard.try_recv() {
        notified += i64::from(!payload.contains("beat"));
    }
    assert!(notified <= 2 * batches, "{notified} NOTIFYs for {batches} statements");
    assert!(database.one::<f64>("select pg_notification_queue_usage()").await < 0.001);
    assert_eq!(database.faults().await, 0);
    assert!(!spilled(&database).await);

    owner.batch_execute(&format!("commit prepared '{name}'")).await.unwrap();
    assert_eq!(socket.frame().await["message"], "held");
    reader.batch_execute("commit").await.unwrap();
    sweep_until_nothing_old_is_left(&database).await;
    socket.nothing_but_a_marker(&database).await;
}

/// A clock that was a year ahead, once: nothing waits for that year.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_was_noted_for_a_time_to_come_stops_none() {
    let database = Database::new().await;
    database.run(OLD).await;
    database
        .run("select notifier.old('16 days', 10); update notifier.progress set swept_at = now() + interval '1 year'")
        .await;
    assert!(database.one::<f64>("select notifier.next_work()").await <= 600.0);
    database.work().await;
    assert!(database.one::<bool>("select swept_at <= now() from notifier.progress").await);
}
