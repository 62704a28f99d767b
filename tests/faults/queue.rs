//! The NOTIFY queue of the server fills up: another database's listener does not read, or our own leader is frozen.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use super::{here, service_on};
use crate::support::checker::{Checker, Place, Plan, size, torture};
use crate::support::process::Process;
use crate::support::server::Server;
use crate::support::service::metric;
use crate::support::{Database, database, eventually};

async fn usage(admin: &Client) -> f64 {
    admin.query_one("select pg_notification_queue_usage()", &[]).await.unwrap().get(0)
}

/// From Postgres 17 the queue can be made small, and is filled to the brim. Before, it has 8 GB: torture fills a bit more than
/// the quarter above which writers no longer ring; the test by default only makes them believe that it is that full, below.
#[tokio::test(flavor = "multi_thread")]
async fn another_database_fills_the_queue() {
    let version = "select current_setting('server_version_num')::int >= 170000";
    let shared = database::connect(&database::postgres().url("postgres", "postgres")).await;
    let is_small = shared.query_one(version, &[]).await.unwrap().get::<_, bool>(0);
    if !is_small && !torture() {
        println!("skipped: before Postgres 17 the queue has 8 GB; `make torture` fills a quarter of it");
        return;
    }
    let (setting, goal) = if is_small { ("max_notify_queue_pages = 64", 1.1) } else { ("work_mem = '4MB'", 0.26) };
    let server = Server::start(&[setting]).await;
    let place = server.place();
    let service = service_on(&place).await;
    let plan = Plan::new("NOTIFY queue filled by another database");
    let checker = Checker::start(plan, &place, service.address).await;

    // In a transaction a listener takes nothing from the queue.
    let deaf = server.superuser("postgres").await;
    deaf.batch_execute("listen other").await.unwrap();
    deaf.batch_execute("begin; select 1").await.unwrap();
    let flooder = server.superuser("postgres").await;
    while usage(&flooder).await < goal {
        // Each its own: equal ones of one transaction would collapse.
        let flood = "select pg_notify('other', n || repeat('x', 7900)) from generate_series(1, $1::int) n";
        if flooder.execute(flood, &[&if is_small { 1 } else { 2000 }]).await.is_err() {
            break; // full
        }
    }
    println!("the queue is {:.0} % full", 100.0 * usage(&flooder).await);
    checker.written(size(200, 2_000)).await;
    // How long it stays so is the fault: longer than a listener waits for a beat, which cannot be sent either.
    tokio::time::sleep(Duration::from_secs(size(16, 60))).await;
    let row = checker.write("", &[plan.user(0)]).await;
    checker.until("a row is told while the queue is full", |ledger| ledger.missing(Some(row.clone())).is_empty()).await;
    deaf.batch_execute("rollback").await.unwrap();
    eventually("the queue empties", || async { usage(&flooder).await < 0.25 }).await;
    checker.finish().await.nothing_lost().no_write_failed();
}

/// The same for servers with a queue that is too large to be filled: a function that says "half full" stands in for the server's.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_half_full_is_left_alone() {
    let place = Place::of(&Database::new().await);
    let service = service_on(&place).await;
    let checker = Checker::start(Plan::new("NOTIFY queue said to be half full"), &place, service.address).await;
    let admin = place.superuser().await;
    admin
        .batch_execute(
            "create or replace function pg_catalog.pg_notification_queue_usage() returns double precision
             language sql volatile as 'select 0.5::float8'",
        )
        .await
        .unwrap();
    checker.written(size(200, 2_000)).await;
    let rung =
        |admin: Client| async move { admin.query_one("select notifier.rung()", &[]).await.unwrap().get::<_, bool>(0) };
    assert!(!rung(place.superuser().await).await, "writers of new sessions still ring");
    checker.finish().await.nothing_lost().no_write_failed();
}

/// A leader that hangs, with megabytes on their way to it, loses the lead within seconds and holds up nobody's queue; when it comes
/// back it is one of two.
#[tokio::test(flavor = "multi_thread")]
async fn the_leading_process_is_stopped_with_megabytes_unread() {
    let server = Server::start(&[]).await;
    let place = server.place();
    let url = place.url("parkmate");
    let first = Process::start(&url, here()).await;
    eventually("the first leads", || async { metric(first.address, "notifier_relay").await == 1 }).await;
    let second = Process::start(&url, here()).await;
    let doors = [first.address, second.address];
    let plan = Plan::new("leading process stopped (SIGSTOP), megabytes unread");
    let checker = Checker::start_at(plan, &place, std::sync::Arc::new(move |number| doors[number % 2])).await;

    first.signal("-STOP");
    let since = Instant::now();
    let owner = database::connect(&url).await;
    // All of this is told, and the stopped one does not read it.
    owner
        .batch_execute("set notifier.doorbell = on; select notifier.send('999', 'info', n || repeat('x', 7000)) from generate_series(1, 2000) n")
        .await
        .unwrap();
    let admin = place.superuser().await;
    eventually("the queue holds what is unread", || async { usage(&admin).await > 0.0001 }).await;
    eventually("another leads", || async { metric(second.address, "notifier_relay").await == 1 }).await;
    let led = since.elapsed();
    // A page or two may stay behind until there is more.
    eventually("the queue is empty again", || async { usage(&admin).await < 0.00002 }).await;
    println!("another leads after {led:?}, the queue is empty after {:?}", since.elapsed());
    checker.written(50).await;
    first.signal("-CONT");
    eventually("there is one leader", || async {
        metric(first.address, "notifier_relay").await + metric(second.address, "notifier_relay").await == 1
    })
    .await;
    checker.finish().await.nothing_lost().no_write_failed();
    // Five seconds on a machine of its own; beside other tests it may be late.
    assert!(led.as_secs() < size(30, 5), "nobody led for {led:?}");
}
