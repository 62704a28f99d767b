//! A database with several hosts: the primary alone is used, and when another becomes it, nothing is lost.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::net::TcpListener;
use tokio_postgres::Client;

use crate::support::database::{TEMPLATE, connect};
use crate::support::{Database, Pair, Service, Socket, eventually};

/// A renewal of user 8, told apart by its amount.
const RENEWAL: &str =
    "insert into payment (booking_id, user_id, amount, status, is_renewal) values (104, 8, $1::int8, 'success', true)";

fn url(hosts: &[&str], name: &str) -> String {
    format!("postgresql://parkmate:geheim@{}/{TEMPLATE}?application_name={name}", hosts.join(","))
}

/// Which renewal a frame tells of.
fn amount(frame: &serde_json::Value) -> Option<i64> {
    frame["data"]["amount"].as_f64().map(|amount| amount as i64)
}

/// How many sessions a service has at a server.
async fn sessions(superuser: &Client, name: &str) -> i64 {
    let count = "select count(*) from pg_stat_activity where application_name = $1";
    superuser.query_one(count, &[&name]).await.unwrap().get(0)
}

/// What `/readyz` says.
async fn readyz(service: &Service) -> (u16, String) {
    let answer = service.get("/readyz").await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_primary_alone_is_used_and_beside_standbys_the_service_waits_for_a_promotion() {
    let pair = Pair::new().await;
    let [primary, standby] = &pair.places();
    let dead = "127.0.0.1:1";
    let one = Service::at(&url(&[primary, standby], "one")).await;
    let two = Service::at(&url(&[standby, primary], "two")).await;
    let (mut first, mut second) = (Socket::open(one.address, "8").await, Socket::open(two.address, "8").await);
    let app = pair.app().await;
    app.execute(RENEWAL, &[&1_i64]).await.unwrap();
    for socket in [&mut first, &mut second] {
        assert_eq!(amount(&socket.frame().await), Some(1));
    }
    let at_standby = connect(&pair.standby.url("postgres")).await;
    let alone = async {
        eventually("nobody stays at the standby", || async { sessions(&at_standby, "two").await == 0 }).await;

        // Nothing but a standby: alive, not ready, and it says why.
        let three = Service::start(&url(&[standby, dead], "three")).await;
        eventually("it serves", || async { three.get("/healthz").await.is_some_and(|answer| answer.status() == 200) })
            .await;
        eventually("it says why it is not ready", || async {
            let (status, why) = readyz(&three).await;
            assert!(!why.contains("geheim"), "{why}");
            let reasons = [format!("{standby} is a standby"), format!("{dead}: "), "Connection refused".to_owned()];
            status == 503 && reasons.iter().all(|reason| why.contains(reason.as_str()))
        })
        .await;
        let waiting = Socket::connect(three.address, "7").await;
        pair.standby.promote().await;
        (three, waiting)
    };
    let (_three, mut waiting) = Socket::meanwhile_all([&mut first, &mut second], alone).await;

    // Two primaries: the services that are at the old one stay there as a whole, and don't go to and fro.
    assert_eq!(waiting.frame().await["connected"], true);
    let at_new = connect(&pair.standby.url("parking_app")).await;
    at_new.batch_execute("update payment set status = 'verified' where id = 201").await.unwrap();
    let told = Socket::meanwhile_all([&mut first, &mut second], waiting.frame()).await;
    assert_eq!(told["event"], "payment.verified");
    let terminate =
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name in ('one', 'two')";
    let superuser = pair.superuser().await;
    assert!(superuser.query_one(terminate, &[]).await.unwrap().get::<_, i64>(0) > 2);
    app.execute(RENEWAL, &[&2_i64]).await.unwrap();
    assert_eq!(amount(&second.meanwhile(first.frame()).await), Some(2));
    assert_eq!(sessions(&at_standby, "one").await, 0);

    pair.lose_the_primary();
    let moved = eventually("all of it is at the new one", || async {
        one.is_ready().await && sessions(&at_standby, "one").await > 2
    });
    Socket::meanwhile_all([&mut first, &mut second], moved).await;
    at_new.execute(RENEWAL, &[&3_i64]).await.unwrap();
    for socket in [&mut first, &mut second] {
        while amount(&socket.frame().await) != Some(3) {}
    }
}

/// Whatever the new primary has, the sockets that stayed open are told, once; and nothing is lost that was acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_promotion_under_load_all_that_is_committed_arrives_once() {
    let pair = Pair::new().await;
    pair.replicate_synchronously().await;
    let [primary, standby] = &pair.places();
    let service = Service::at(&url(&[primary, standby], "service")).await;
    let mut socket = Socket::open(service.address, "8").await;
    let acknowledged = Arc::new(AtomicU32::new(0));
    let mut writers = Vec::new();
    for writer in 0..4_i64 {
        let (app, acknowledged) = (pair.app().await, acknowledged.clone());
        writers.push(tokio::spawn(async move {
            let mut written = Vec::new();
            for n in 1.. {
                let amount = writer * 1_000_000 + n;
                if app.execute(RENEWAL, &[&amount]).await.is_err() {
                    break;
                }
                acknowledged.fetch_add(1, Ordering::Relaxed);
                written.push(amount);
            }
            written
        }));
    }
    let mut seen = HashSet::new();
    let mut see = |frame: serde_json::Value| {
        let amount = amount(&frame).unwrap_or_else(|| panic!("{frame}"));
        assert!(seen.insert(amount), "{amount} was told twice");
        seen.len()
    };
    let mut told = 0;
    while told < 300 {
        told = see(socket.frame().await);
    }
    pair.lose_the_primary();
    let said = eventually("each host's reason is told", || async {
        let (status, why) = readyz(&service).await;
        let reasons = [format!("{standby} is a standby"), format!("{primary}: "), "Connection refused".to_owned()];
        status == 503 && reasons.iter().all(|reason| why.contains(reason.as_str()))
    });
    socket.meanwhile(said).await;
    let mut written = HashSet::new();
    for writer in writers {
        written.extend(writer.await.unwrap());
    }
    assert_eq!(written.len(), acknowledged.load(Ordering::Relaxed) as usize);

    socket.meanwhile(pair.standby.promote()).await;
    let app = connect(&pair.standby.url("parking_app")).await;
    let committed =
        "select amount::int8 from payment where is_renewal and status = 'success' and user_id = 8 and id > 1000";
    let committed: HashSet<i64> = app.query(committed, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert!(written.is_subset(&committed), "lost by Postgres, not by us");
    // None is left to come where the old primary was lost before it had committed more.
    while told < committed.len() {
        told = see(socket.frame().await);
    }
    for n in 1..=100_i64 {
        socket.meanwhile(app.execute(RENEWAL, &[&-n])).await.unwrap();
    }
    while told < committed.len() + 100 {
        told = see(socket.frame().await);
    }
    let owner = connect(&pair.standby.url("parkmate")).await;
    owner.batch_execute("select notifier.send('8', 'info', 'the end')").await.unwrap();
    assert_eq!(socket.frame().await["message"], "the end");
    assert!(committed.is_subset(&seen));
}

/// A host that takes connections and says nothing costs its own time once, and nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_first_host_takes_no_time_from_the_others() {
    let database = Database::new().await;
    let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = frozen.local_addr().unwrap();
    let attempts = Arc::new(AtomicU32::new(0));
    let count = attempts.clone();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok(connection) = frozen.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            held.push(connection);
        }
    });
    let service = Service::at(&database.url().replace("parkmate@", &format!("parkmate@{place},"))).await;
    let mut socket = Socket::open(service.address, "8").await;
    database.write("update payment set status = 'verified' where id = 204").await;
    assert_eq!(socket.frame().await["event"], "payment.verified");
    // The listener, the relay and the pools went to where it had been found.
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
    let terminate = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                     where application_name = 'parkmate-notifier' and datname = current_database()";
    assert!(database.superuser().await.query_one(terminate, &[]).await.unwrap().get::<_, i64>(0) > 2);
    database.write("update booking set status = 'cancelled_by_admin' where id = 104").await;
    assert_eq!(socket.frame().await["event"], "booking.declined");
    assert_eq!(attempts.load(Ordering::Relaxed), 1, "the last primary is asked first");
}
