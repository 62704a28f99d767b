//! The relay changes its mode, is killed, frozen or cut off from the lead, in either mode and under load.

use std::time::Duration;

use tokio_postgres::Client;

use super::{here, service_on};
use crate::support::checker::{Checker, Kind, Place, Plan, size};
use crate::support::process::Process;
use crate::support::service::metric;
use crate::support::{Database, eventually};

/// Has the relay be busy, or quiet as soon as it may be. Sessions that are open go by the bell.
async fn be_busy(place: &Place, admin: &Client, busy: bool) {
    let value = if busy { "off" } else { "on" };
    admin.batch_execute(&format!("alter database {} set notifier.doorbell = '{value}'", place.database)).await.unwrap();
}

async fn is(service: std::net::SocketAddr, busy: bool) {
    let what = if busy { "the relay is busy" } else { "the relay is quiet" };
    eventually(what, || async {
        metric(service, "notifier_relay").await == 1 && metric(service, "notifier_relay_busy").await == u64::from(busy)
    })
    .await;
}

/// Transactions decide under one mode and commit under the other.
#[tokio::test(flavor = "multi_thread")]
async fn the_relay_changes_its_mode_under_writers_that_hold_their_transactions() {
    let place = Place::of(&Database::new().await);
    let service = service_on(&place).await;
    let plan = Plan {
        writers: 16,
        kinds: &[Kind::Held, Kind::Single, Kind::Savepoint],
        hold_ms: 300,
        ..Plan::new("relay busy and quiet in turn, transactions held across")
    };
    is(service.address, false).await;
    let checker = Checker::start(plan, &place, service.address).await;
    let admin = place.superuser().await;
    for n in 0..size(6, 100) {
        let busy = n % 2 == 0;
        be_busy(&place, &admin, busy).await;
        is(service.address, busy).await;
        checker.written(20).await;
    }
    checker.finish().await.nothing_lost().no_write_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relays_session_is_ended_while_it_is_busy() {
    let place = Place::of(&Database::new().await);
    let service = service_on(&place).await;
    let admin = place.superuser().await;
    be_busy(&place, &admin, true).await;
    is(service.address, true).await;
    let plan = Plan { kinds: &[Kind::Held, Kind::Single], ..Plan::new("busy relay's session terminated") };
    let checker = Checker::start(plan, &place, service.address).await;
    for _ in 0..size(5, 50) {
        let ended = "select count(pg_terminate_backend(pid)) from pg_locks
                     where locktype = 'advisory' and ((classid::bigint << 32) | objid::bigint) = 7809647138214477427
                       and database = (select oid from pg_database where datname = current_database())";
        eventually("there is a relay to end", || async {
            admin.query_one(ended, &[]).await.unwrap().get::<_, i64>(0) == 1
        })
        .await;
        checker.written(20).await;
    }
    checker.finish().await.nothing_lost().no_write_failed();
}

/// Killed, and then frozen until another has taken over; what wakes up says nothing of then.
#[tokio::test(flavor = "multi_thread")]
async fn the_relays_process_is_killed_and_frozen_while_it_is_busy() {
    let place = Place::of(&Database::new().await);
    let url = place.url("parkmate");
    let admin = place.superuser().await;
    be_busy(&place, &admin, true).await;
    let (first, second) = (Process::start(&url, here()).await, Process::start(&url, here()).await);
    let doors = [first.address, second.address];
    // So many users that none of them misses more than is told one by one.
    let plan = Plan {
        users: 40,
        sockets: 40,
        kinds: &[Kind::Held, Kind::Single],
        ..Plan::new("busy relay's process killed, another frozen")
    };
    let mut instances = [first, second];
    let checker = Checker::start_at(plan, &place, std::sync::Arc::new(move |number| doors[number % 2])).await;
    for n in 0..size(2, 10) {
        let mut leads = 0;
        eventually("one is the relay, and busy", || async {
            metric(doors[0], "notifier_relay_busy").await + metric(doors[1], "notifier_relay_busy").await == 1
        })
        .await;
        if metric(doors[1], "notifier_relay_busy").await == 1 {
            leads = 1;
        }
        let other = doors[1 - leads];
        if n % 2 == 0 {
            let [zero, one] = instances;
            let (leader, rest) = if leads == 0 { (zero, one) } else { (one, zero) };
            leader.end("-KILL").await;
            is(other, true).await;
            let leader = Process::start(&url, doors[leads]).await;
            instances = if leads == 0 { [leader, rest] } else { [rest, leader] };
        } else {
            instances[leads].signal("-STOP");
            let since = tokio::time::Instant::now();
            is(other, true).await;
            let led = since.elapsed();
            checker.written(20).await;
            instances[leads].signal("-CONT");
            eventually("it knows that it is not the relay", || async {
                metric(doors[leads], "notifier_relay").await == 0
            })
            .await;
            // On a machine of its own; beside other tests it may be late.
            assert!(led < Duration::from_secs(size(30, 5)), "nobody led for {led:?}");
        }
        checker.written(20).await;
    }
    checker.finish().await.nothing_lost().no_write_failed();
}
