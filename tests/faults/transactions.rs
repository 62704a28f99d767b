//! What the application itself does to us: transactions that overlap, undo, last long, are huge, or are cut short.

use std::time::Duration;

use tokio::time::Instant;

use super::{BELL, service_on};
use crate::support::checker::{Checker, Kind, Outcome, Place, Plan, insert, size};
use crate::support::{Database, database, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn fifty_writers_hold_their_transactions_so_that_commits_come_in_another_order() {
    let place = Place::of(&Database::new().await);
    let service = service_on(&place).await;
    let plan = Plan {
        writers: 50,
        kinds: &[Kind::Held, Kind::Held, Kind::Single],
        hold_ms: 200,
        ..Plan::new("50 writers, random holds: commits out of order")
    };
    let checker = Checker::start(plan, &place, service.address).await;
    checker.written(size(600, 30_000)).await;
    checker.finish().await.nothing_lost().no_write_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rolled_back_is_told_to_nobody() {
    let place = Place::of(&Database::new().await);
    let service = service_on(&place).await;
    let plan = Plan {
        kinds: &[Kind::Savepoint, Kind::Rollback, Kind::Update],
        ..Plan::new("savepoints and whole transactions rolled back")
    };
    let checker = Checker::start(plan, &place, service.address).await;
    checker.written(size(300, 30_000)).await;
    let verdict = checker.finish().await;
    verdict.nothing_lost().no_write_failed();
    assert!(verdict.rolled_back > 100, "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_very_many_rows() {
    let many = size(20_000, 100_000);
    let place = Place::of(&Database::new().await);
    let service = service_on(&place).await;
    // Half of the users have no socket.
    let plan = Plan {
        users: 40,
        sockets: 20,
        ..Plan::new(size("20,000 rows in one transaction", "100,000 rows in one transaction"))
    };
    let checker = Checker::start(plan, &place, service.address).await;
    let users: Vec<i64> = (0..many).map(|n| plan.user(n)).collect();
    let app = database::connect(&place.url("parking_app")).await;
    for _ in 0..size(1, 5) {
        let keys = checker.ledger.begin(&users);
        let rows = app
            .execute(
                "insert into payment (booking_id, user_id, amount, status, is_renewal)
                 select 104, $1::int8 + (key - $3::int8) % $2::int8, key, 'success', true from generate_series($3::int8, $4::int8) key",
                &[&plan.user(0), &(plan.users as i64), &keys[0], &keys[keys.len() - 1]],
            )
            .await
            .unwrap();
        assert_eq!(rows, many as u64);
        checker.ledger.end(&keys, Outcome::Ok);
    }
    checker.finish().await.nothing_lost().no_write_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_stays_open_for_long_and_holds_up_nobody_else() {
    let place = Place::of(&Database::new().await);
    let service = service_on(&place).await;
    let plan = Plan::new("a transaction held open while others commit");
    let checker = Checker::start(plan, &place, service.address).await;
    let holder = database::connect(&place.url("parking_app")).await;
    let keys = checker.ledger.begin(&[plan.user(0)]);
    holder.batch_execute(&format!("begin; {}", insert("success", &[(plan.user(0), keys[0])]))).await.unwrap();
    // How long it is held is the fault.
    let until = Instant::now() + Duration::from_secs(size(3, 60));
    while Instant::now() < until {
        let others = checker.write("", &[plan.user(0), plan.user(1)]).await;
        checker.until("others are told meanwhile", |ledger| ledger.missing(Some(others.clone())).is_empty()).await;
    }
    let without_bell = checker.write("set notifier.doorbell = off", &[plan.user(0)]).await;
    checker.until("others are read", |ledger| ledger.missing(Some(without_bell.clone())).is_empty()).await;
    holder.batch_execute("commit").await.unwrap();
    checker.ledger.end(&keys, Outcome::Ok);
    checker.finish().await.nothing_lost().no_write_failed();
}

/// A statement that is cancelled between taking the shared lock of the bell and giving it back would keep it for as long as its
/// session is pooled, and no relay could hang the bell again.
#[tokio::test(flavor = "multi_thread")]
async fn writers_under_a_statement_timeout_of_a_millisecond_leave_no_lock_behind() {
    let place = Place::of(&Database::new().await);
    let service = service_on(&place).await;
    let plan = Plan {
        writers: 32,
        session: "select set_config('statement_timeout', (1 + floor(random() * 6))::text, false)",
        writes_may_fail: true,
        ..Plan::new("32 writers under a statement_timeout of 1 to 6 ms")
    };
    let checker = Checker::start(plan, &place, service.address).await;
    checker.written(size(500, 30_000)).await;
    let admin = place.superuser().await;
    let count = async |sql: String| admin.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0);
    // Where nobody writes the bell hangs, however long a line there was.
    checker.rest(true);
    eventually("no session holds the bell", async || {
        count(format!("select count(*) {BELL} and mode = 'ShareLock'")).await == 0
    })
    .await;
    let relay = std::cell::Cell::new(0);
    eventually("the bell hangs, and who holds it is ended", async || {
        let end = "select coalesce(max(pid) filter (where pg_terminate_backend(pid)), 0)::int8";
        relay.set(count(format!("{end} {BELL} and mode = 'ExclusiveLock'")).await);
        relay.get() != 0
    })
    .await;
    eventually("the bell hangs again", async || {
        count(format!("select count(*) {BELL} and mode = 'ExclusiveLock' and pid <> {}", relay.get())).await == 1
    })
    .await;
    checker.rest(false);
    let verdict = checker.finish().await;
    assert!(verdict.nothing_lost().failures > 0, "no statement was cancelled: {verdict:?}");
}
