//! The service itself ends under its sockets, as a crash or a release would end it.

use std::sync::Arc;

use super::here;
use crate::support::Database;
use crate::support::checker::{Checker, Kind, Place, Plan, size};
use crate::support::process::{Process, allow_many_files};

#[tokio::test(flavor = "multi_thread")]
async fn the_service_is_killed_with_a_thousand_sockets() {
    allow_many_files();
    let place = Place::of(&Database::new().await);
    let mut service = Process::start(&place.url("parkmate"), here()).await;
    let plan = Plan { users: 500, sockets: 1000, ..Plan::new("service kill -9 with 1,000 sockets, started again") };
    let checker = Checker::start(plan, &place, service.address).await;
    for _ in 0..size(1, 5) {
        let address = service.address;
        service.end("-KILL").await;
        checker.written(100).await;
        service = Process::start(&place.url("parkmate"), address).await;
        checker.all_open().await;
    }
    checker.finish().await.nothing_lost().no_write_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_are_restarted_one_after_the_other() {
    let place = Place::of(&Database::new().await);
    let url = place.url("parkmate");
    let mut instances = [Process::start(&url, here()).await, Process::start(&url, here()).await];
    let doors = [instances[0].address, instances[1].address];
    // A balancer that knows nothing: a socket that meets the wrong one tries again.
    let door = Arc::new(move |_| doors[fastrand::usize(..2)]);
    let plan = Plan { sockets: 100, ..Plan::new("rolling restart of two instances (SIGTERM)") };
    let checker = Checker::start_at(plan, &place, door).await;
    for _ in 0..size(1, 5) {
        instances = {
            let [first, second] = instances;
            first.end("-TERM").await;
            checker.written(50).await;
            let first = Process::start(&url, doors[0]).await;
            second.end("-TERM").await;
            checker.written(50).await;
            [first, Process::start(&url, doors[1]).await]
        };
    }
    checker.finish().await.nothing_lost().no_write_failed();
}

/// What one statement tells by the thousand is told before there are rows of it: whoever comes back meanwhile finds it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_service_is_killed_while_statements_tell_thousands() {
    let place = Place::of(&Database::new().await);
    let url = place.url("parkmate");
    let mut service = Process::start(&url, here()).await;
    let plan = Plan {
        // So many users, and so few statements, that nobody misses more than is told one by one: the checker counts rows.
        users: 400,
        sockets: 420,
        writers: 3,
        kinds: &[Kind::Thousand, Kind::Held, Kind::Single, Kind::Savepoint],
        pause_ms: 1_500,
        ..Plan::new("service kill -9 while statements tell thousands")
    };
    let checker = Checker::start(plan, &place, service.address).await;
    for _ in 0..size(3, 10) {
        checker.written(1500).await;
        let address = service.address;
        service.end("-KILL").await;
        checker.written(1500).await;
        service = Process::start(&url, address).await;
        // However long the sockets take to come back.
        checker.rest(true);
        checker.all_open().await;
        checker.rest(false);
    }
    checker.finish().await.nothing_lost().no_write_failed();
}
