//! What clients and the boxes between do: go silent, stop reading, answer for others, answer hardly ever, and come back all at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::Request;
use tokio_tungstenite::{accept_hdr_async, connect_async};

use super::{here, service_on};
use crate::support::checker::{Checker, Place, Plan, size};
use crate::support::process::{Process, allow_many_files};
use crate::support::proxy::Proxy;
use crate::support::raw_socket::RawSocket;
use crate::support::service::given_up;
use crate::support::{Database, Socket, eventually};

/// Others are told within this while somebody is stuck: on a machine of its own in less than the patience of the service with the
/// one who is.
fn unaffected() -> Duration {
    Duration::from_secs(size(30, 8))
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_go_silent_without_closing() {
    let place = Place::of(&Database::new().await);
    let service = service_on(&place).await;
    let proxy = Proxy::to(service.address).await;
    let (direct, silent) = (service.address, proxy.address);
    // Four users have no other socket, and four have one that goes on.
    let plan = Plan { users: 12, sockets: 16, ..Plan::new("clients half open: their proxy goes silent") };
    let door = Arc::new(move |number| if (4..8).contains(&number) || number >= 12 { silent } else { direct });
    let checker = Checker::start_at(plan, &place, door).await;
    proxy.swallow();
    eventually("the service gives them up", || async { given_up(service.address).await.iter().sum::<u64>() >= 8 })
        .await;
    checker.written(50).await;
    proxy.pass();
    proxy.cut();
    let others = checker.ledger.slowest(|user| user >= plan.user(8) || user < plan.user(4));
    assert!(others < unaffected(), "others waited for {others:?}");
    checker.finish().await.nothing_lost().no_write_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_stops_reading() {
    let place = Place::of(&Database::new().await);
    let service = Process::start(&place.url("parkmate"), here()).await;
    let checker = Checker::start(Plan::new("a client stops reading"), &place, service.address).await;
    let stopped = Socket::open(service.address, "999").await;
    let owner = crate::support::database::connect(&place.url("parkmate")).await;
    // More than the kernel's buffers on the way take.
    owner
        .batch_execute("select notifier.send('999', 'info', n || repeat('x', 60000)) from generate_series(1, 100) n")
        .await
        .unwrap();
    eventually("it is closed as too slow", || async { given_up(service.address).await == [1, 0] }).await;
    checker.written(50).await;
    let others = checker.ledger.slowest(|_| true);
    assert!(others < unaffected(), "others waited for {others:?}");
    drop(stopped);
    // Nothing of it is lost: none was confirmed.
    let mut again = Socket::open(service.address, "999").await;
    for n in 1..=100 {
        assert!(again.frame().await["message"].as_str().unwrap().starts_with(&format!("{n}x")));
    }
    checker.finish().await.nothing_lost().no_write_failed();
}

/// What such a gateway answers for is lost to the socket behind it, and to nobody else: a confirmation says that the last
/// WebSocket endpoint has it. It waits in the inbox.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_answers_pings_and_drops_frames() {
    let place = Place::of(&Database::new().await);
    let service = service_on(&place).await;
    let plan = Plan::new("a gateway answers pings and drops frames");
    let checker = Checker::start(plan, &place, service.address).await;
    let gateway = gateway_to(service.address).await;
    // Its user has another device as well.
    let mut behind = Socket::open(gateway, &plan.user(0).to_string()).await;
    checker.write("", &[plan.user(0); 30]).await;
    let mut alone = Socket::open(gateway, "999").await;
    let owner = crate::support::database::connect(&place.url("parkmate")).await;
    owner.batch_execute("select notifier.send('999', 'info', 'x') from generate_series(1, 30)").await.unwrap();
    let confirmed = "select count(*) from notifier.notification where user_id = '999' and delivered_at is not null";
    eventually("the gateway has answered for it", || async {
        owner.query_one(confirmed, &[]).await.unwrap().get::<_, i64>(0) == 30
    })
    .await;
    checker.written(50).await;
    assert_eq!(given_up(service.address).await, [0, 0]);
    for socket in [&mut alone, &mut behind] {
        socket.stream.close(None).await.unwrap();
        socket.ending().await;
    }
    assert_eq!(Socket::open(service.address, "999").await.hello["unread"], 30, "the inbox has all of it");
    checker.finish().await.nothing_lost().no_write_failed();
}

/// Takes connections, passes the first frame of the service on, and drops the others; it answers pings by itself.
#[expect(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
async fn gateway_to(service: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut path = String::new();
                let note = |request: &Request, response| {
                    path = request.uri().path().to_owned();
                    Ok(response)
                };
                let Ok(mut client) = accept_hdr_async(stream, note).await else { return };
                let request = format!("ws://{service}{path}").into_client_request().unwrap();
                let (mut upstream, _) = connect_async(request).await.unwrap();
                let mut passed = 0;
                loop {
                    tokio::select! {
                        frame = upstream.next() => match frame {
                            Some(Ok(Message::Text(text))) => {
                                passed += 1;
                                if passed == 1 {
                                    client.send(Message::Text(text)).await.unwrap();
                                }
                            }
                            Some(Ok(_)) => {}
                            _ => return,
                        },
                        from_client = client.next() => if !matches!(from_client, Some(Ok(_))) { return },
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_answers_only_every_third_ping() {
    let place = Place::of(&Database::new().await);
    let service = service_on(&place).await;
    let checker = Checker::start(Plan::new("a client answers only every third ping"), &place, service.address).await;
    let mut socket = RawSocket::open(service.address, 999, 3).await;
    let owner = crate::support::database::connect(&place.url("parkmate")).await;
    let frames = size(61, 601);
    // One after the other: they share pings, and the last ping is hardly a third one.
    for n in 1..=frames {
        owner.batch_execute(&format!("select notifier.send('999', 'info', '{n}')")).await.unwrap();
        assert_eq!(socket.frame().await["message"], n.to_string(), "each once, in order");
    }
    let open = "select count(*) from notifier.notification where user_id = '999' and delivered_at is null";
    // Reading on, it answers the pings that come while one goes unanswered.
    tokio::select! {
        () = eventually("all are confirmed", || async { owner.query_one(open, &[]).await.unwrap().get::<_, i64>(0) == 0 }) => {}
        frame = socket.frame() => panic!("told once more: {frame}"),
    }
    assert!(socket.pings >= 3, "{} pings", socket.pings);
    assert_eq!(given_up(service.address).await, [0, 0]);
    checker.finish().await.nothing_lost().no_write_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn very_many_sockets_come_back_at_once() {
    allow_many_files();
    let place = Place::of(&Database::new().await);
    let service = Process::start(&place.url("parkmate"), here()).await;
    let many = size(1_000, 10_000);
    let name =
        size("1,000 sockets come back at once, 3 missed each", "10,000 sockets come back at once, 3 missed each");
    let plan = Plan { users: many, sockets: many, ..Plan::new(name) };
    let checker = Checker::start(plan, &place, service.address).await;
    let admin = place.superuser().await;
    let commits = || async {
        let sql = "select xact_commit from pg_stat_database where datname = current_database()";
        admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0)
    };
    for _ in 0..size(1, 2) {
        checker.go_online(false).await;
        let everybody: Vec<i64> = (0..many).map(|number| plan.user(number)).collect();
        for _ in 0..3 {
            checker.write("", &everybody).await;
        }
        let (since, before) = (tokio::time::Instant::now(), commits().await);
        checker.go_online(true).await;
        checker.all_open().await;
        let (took, transactions) = (since.elapsed(), commits().await - before);
        println!(
            "{many} sockets came back in {took:?}; the database saw {transactions} transactions, the writers' among them"
        );
    }
    checker.finish().await.nothing_lost().no_write_failed();
}
