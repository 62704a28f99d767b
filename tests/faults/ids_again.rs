//! Ids and transaction ids come back: what was told is gone after a crash, or the database is another one than before.

use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use super::{BELL, service_at, service_on};
use crate::support::checker::{Place, insert, size};
use crate::support::proxy::Proxy;
use crate::support::server::{Server, programs};
use crate::support::{Socket, database, eventually};

/// The frame with a key, however many others come before.
async fn told(socket: &mut Socket, key: i64) -> Value {
    socket.until(|frame| frame["data"]["amount"].as_f64() == Some(key as f64)).await
}

/// With synchronous_commit off a row is told before it is safe. After a crash its id and its transaction's may be another's, and
/// that one's row must not be taken for the one that was told.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_told_and_lost_in_a_crash_and_its_id_becomes_anothers() {
    // Nothing else makes the log durable in the moment between.
    let mut server = Server::start(&["fsync = on", "wal_writer_delay = 10s", "autovacuum = off"]).await;
    let place = server.place();
    let service = service_on(&place).await;
    let (mut first, mut second) = (Socket::open(service.address, "7").await, Socket::open(service.address, "8").await);
    let (mut lost, mut again) = (0, 0);
    for round in 1..=size(10, 50) {
        // Amounts that the sample has not.
        let (theirs, ours) = (1000 + 2 * round, 1001 + 2 * round);
        let admin = place.superuser().await;
        // Told by NOTIFY, and so at once: what the service itself commits would make the row safe before long.
        let bell = format!("select count(*) {BELL} and mode = 'ExclusiveLock'");
        let hangs = || async { admin.query_one(&bell, &[]).await.unwrap().get::<_, i64>(0) == 1 };
        Socket::meanwhile_all([&mut first, &mut second], eventually("the bell hangs", hangs)).await;
        let app = database::connect(&place.url("parking_app")).await;
        app.batch_execute(&format!("set synchronous_commit = off; {}", insert("success", &[(7, theirs)])))
            .await
            .unwrap();
        let frame = second.meanwhile(told(&mut first, theirs)).await;
        server.end("QUIT");
        Socket::meanwhile_all([&mut first, &mut second], server.start_again()).await;
        let app = database::connect(&place.url("parking_app")).await;
        app.batch_execute(&insert("success", &[(8, ours)])).await.unwrap();
        let survived =
            app.query_one(&format!("select count(*) from payment where amount = {theirs}"), &[]).await.unwrap();
        lost += u32::from(survived.get::<_, i64>(0) == 0);
        let owner = database::connect(&place.url("parkmate")).await;
        let id = format!(
            "select id::text from notifier.notification where user_id = '8' and data ->> 'amount' like '{ours}%'"
        );
        let id: String = owner.query_one(&id, &[]).await.unwrap().get(0);
        again += u32::from(frame["id"] == id.as_str());
        println!("round {round}: rows lost in crashes: {lost}, ids that came again: {again}");
        first.meanwhile(told(&mut second, ours)).await;
        Socket::meanwhile_all([&mut first, &mut second], eventually("the service listens", || service.is_ready()))
            .await;
        if lost >= size(1, 20) {
            break;
        }
    }
    println!("rows told and lost in a crash: {lost}; ids of theirs that another row had: {again}");
    assert!(lost > 0, "no row was lost: this proves nothing");
}

/// A restore into another cluster: its transaction ids are lower, and a position of the old one sees everything in it.
#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_dumped_into_a_fresh_cluster_and_the_service_goes_on_there() {
    let old = Server::start(&[]).await;
    let new = Server::empty(&[]).await;
    let proxy = Proxy::to(old.place().host.parse().unwrap()).await;
    let behind = Place { host: proxy.address.to_string(), ..old.place() };
    let service = service_at(&behind.url("parkmate")).await;
    let mut socket = Socket::open(service.address, "8").await;

    let app = database::connect(&old.place().url("parking_app")).await;
    // Each block spends a transaction id.
    app.batch_execute(
        "create temp table t (n int);
         do $$ begin for n in 1 .. 20000 loop begin insert into t values (n); exception when others then null; end; end loop; end $$",
    )
    .await
    .unwrap();
    for key in 1..=5 {
        app.batch_execute(&insert("success", &[(8, key)])).await.unwrap();
        told(&mut socket, key).await;
    }
    let owner = database::connect(&old.place().url("parkmate")).await;
    let undelivered = "select count(*) from notifier.notification where delivered_at is null";
    tokio::select! {
        () = eventually("they are confirmed", || async {
            owner.query_one(undelivered, &[]).await.unwrap().get::<_, i64>(0) == 0
        }) => {}
        frame = socket.frame() => panic!("told again: {frame}"),
    }

    restore(&old, &new).await;
    // The bell is off throughout: what arrives was read.
    proxy.lead_to(new.place().host.parse().unwrap());
    let app = database::connect(&new.place().url("parking_app")).await;
    let moved = Instant::now();
    app.batch_execute(&format!("set notifier.doorbell = off; {}", insert("success", &[(8, 6)]))).await.unwrap();
    assert_eq!(socket.frame().await["data"]["amount"].as_f64(), Some(6.0), "the first frame from the new cluster");
    println!("the first row of the new cluster was told after {:?}", moved.elapsed());
    let owner = database::connect(&new.place().url("parkmate")).await;
    owner.batch_execute("select notifier.send('8', 'info', 'the end')").await.unwrap();
    assert_eq!(socket.frame().await["message"], "the end", "no old row comes again");
}

/// As an operator would: roles and one database, through pg_dump and psql.
async fn restore(old: &Server, new: &Server) {
    let folder = programs(&old.superuser("postgres").await).await;
    let run = |script: String| {
        let output = Command::new("sh").arg("-ec").arg(script).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let at = |server: &Server| format!("-h 127.0.0.1 -p {} -U postgres", server.port());
    let (from, to) = (at(old), at(new));
    // The role postgres is there already, which is no mistake.
    run(format!("{folder}/pg_dumpall {from} --roles-only | {folder}/psql {to} -q -d postgres"));
    run(format!("{folder}/createdb {to} -O parkmate app"));
    run(format!("{folder}/pg_dump {from} app | {folder}/psql {to} -q -v ON_ERROR_STOP=1 -d app"));
}
