//! The database's sessions, processes and whole server end under the service and the application.

use std::time::Duration;

use super::service_on;
use crate::support::checker::{Checker, Place, Plan, size};
use crate::support::server::Server;
use crate::support::{Database, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn the_listener_is_terminated_a_hundred_times() {
    let database = Database::new().await;
    let place = Place::of(&database);
    let service = service_on(&place).await;
    let checker = Checker::start(Plan::new("listener's backend terminated 100 times"), &place, service.address).await;
    let killer = place.superuser().await;
    for _ in 0..100 {
        // What it said last tells the listener; if that is said in other words some day, all of the service's go.
        let connects = service.metric("notifier_listener_connects_total").await;
        // Nobody is rung for this row: seen, it shows that the service reads on from where it was.
        let row = checker.write("set notifier.doorbell = off", &[checker.plan.user(0)]).await;
        let killed: i64 = killer
            .query_one(
                "with own as (
                   select pid, query ilike 'listen %' or query ilike '%tcp_user_timeout = ''10s''%' as listens
                   from pg_stat_activity where application_name = 'parkmate-notifier' and datname = current_database())
                 select count(pg_terminate_backend(pid)) from own where listens or not exists (select from own where listens)",
                &[],
            )
            .await
            .unwrap()
            .get(0);
        assert!(killed > 0, "the service has no backend");
        checker.until("the service reads on", |ledger| ledger.missing(Some(row.clone())).is_empty()).await;
        eventually("it listens again", || async {
            service.metric("notifier_listener_connects_total").await > connects
        })
        .await;
    }
    checker.finish().await.nothing_lost().no_write_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_is_killed_and_the_server_restarts_itself() {
    let server = Server::start(&[]).await;
    let place = server.place();
    let service = service_on(&place).await;
    let checker = Checker::start(Plan::new("a Postgres backend kill -9, several times"), &place, service.address).await;
    for _ in 0..size(3, 20) {
        let admin = place.superuser().await;
        let others = "select pid::text from pg_stat_activity
                       where datname = current_database() and pid <> pg_backend_pid() order by random() limit 1";
        eventually("one of them is killed", || async {
            let pid: String = admin.query_one(others, &[]).await.unwrap().get(0);
            // It may have ended by itself meanwhile.
            std::process::Command::new("kill").args(["-KILL", &pid]).status().unwrap().success()
        })
        .await;
        // Every session is told to go, this one too.
        eventually("the server has noticed", || async { admin.batch_execute("select 1").await.is_err() }).await;
        checker.written(20).await;
        eventually("the service listens again", || service.is_ready()).await;
    }
    checker.finish().await.nothing_lost().no_write_refused();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_crashes_and_stays_away() {
    let mut server = Server::start(&["fsync = on"]).await;
    let place = server.place();
    let service = service_on(&place).await;
    let checker = Checker::start(Plan::new("pg_ctl -m immediate, away, started again"), &place, service.address).await;
    server.end("QUIT");
    eventually("the service says so", || async { !service.is_ready().await }).await;
    // How long it stays away is the fault.
    tokio::time::sleep(Duration::from_secs(size(3, 30))).await;
    server.start_again().await;
    checker.finish().await.nothing_lost().no_write_refused();
}
