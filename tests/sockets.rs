//! What a user's sockets get: all of it, each of them, once; what came while nobody looked, at the next connection.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Message;

use crate::support::process::Process;
use crate::support::raw_socket::RawSocket;
use crate::support::service::{given_up, metric};
use crate::support::socket::Ending;
use crate::support::{Database, Service, Socket, eventually};

async fn delivered(database: &Database) -> i64 {
    database.one("select count(*) from notifier.notification where delivered_at is not null").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_frame_is_the_hello_of_the_contract() {
    let database = Database::new().await;
    database.run("select notifier.send('jörg/1', 'info', 'waiting')").await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "j%C3%B6rg%2F1").await;
    let hello = socket.hello.as_object().unwrap();
    assert_eq!(hello["type"], "info");
    assert_eq!(hello["message"], "Connected to real-time notifications");
    assert_eq!(hello["user"], "jörg/1");
    assert_eq!(hello["unread"], 1);
    assert!(hello["server_time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(hello.len(), 6, "no more keys than the contract has: {hello:?}");
    assert_eq!(socket.frame().await["message"], "waiting");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_socket_of_a_user_gets_every_frame_and_one_that_left_stops_nobody() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(Socket::open(service.address, "7").await);
    }
    drop(sockets.pop());
    database.write("update payment set status = 'verified' where id = 201").await;
    for socket in &mut sockets {
        assert_eq!(socket.frame().await["event"], "payment.verified");
    }
    database.run("select notifier.send('7', 'info', 'the end')").await;
    for socket in &mut sockets {
        assert_eq!(socket.frame().await["message"], "the end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_of_20_kb_arrives_whole() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "7").await;
    let long = "ä€😀\"\\".repeat(2_000);
    assert!(long.len() > 20_000);
    database
        .owner
        .execute("select notifier.send('7', 'info', $1::text, jsonb_build_object('text', $1::text))", &[&long])
        .await
        .unwrap();
    let frame = socket.frame().await;
    assert_eq!(frame["message"], long.as_str());
    assert_eq!(frame["data"]["text"], long.as_str());
    socket.nothing_but_a_marker(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_while_the_user_was_offline_is_told_first_and_once() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    database.write("update payment set status = 'verified' where id = 201").await;
    database.write("update carwash set status = 'completed'").await;

    let mut socket = Socket::open(service.address, "7").await;
    assert_eq!(socket.hello["unread"], 2);
    for event in ["payment.verified", "carwash.completed"] {
        let frame = socket.frame().await;
        assert_eq!((frame["event"].as_str(), frame["replayed"].as_bool()), (Some(event), Some(true)));
    }
    socket.nothing_but_a_marker(&database).await;
    confirmed(&mut socket, &database, 3).await;

    let mut again = Socket::open(service.address, "7").await;
    assert_eq!(again.hello["unread"], 3, "delivered is not read");
    again.nothing_but_a_marker(&database).await;
}

/// Reads, and so answers pings, until so many notifications are noted as delivered.
async fn confirmed(socket: &mut Socket, database: &Database, count: i64) {
    tokio::select! {
        () = eventually("the notifications are noted as delivered", || async { delivered(database).await == count }) => {}
        frame = socket.next() => panic!("told something else: {frame:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_follow_each_other_share_pings() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = RawSocket::open(service.address, 7, 1).await;
    let begun = Instant::now();
    for n in 1..=40 {
        database.run(&format!("select notifier.send('7', 'info', '{n}')")).await;
        assert_eq!(socket.frame().await["message"], n.to_string());
    }
    let most = 1 + begun.elapsed().as_millis() / 250;
    assert!(u128::from(socket.pings) <= most, "{} pings and not {most}", socket.pings);
    // The ping after the last frame comes by itself.
    tokio::select! {
        () = eventually("all are confirmed", || async { delivered(&database).await == 40 }) => {}
        frame = socket.frame() => panic!("told something else: {frame}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_confirmed_is_sent_again() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    database.write("update payment set status = 'verified' where id = 201").await;
    // The first one takes the bytes and never answers a ping; the second answers and is gone at once, as a page that reloads is.
    let mut silent = Socket::open(service.address, "7").await;
    let Some(Ok(Message::Text(_))) = silent.stream.next().await else { panic!("no frame") };
    drop(silent);
    let mut hasty = Socket::open(service.address, "7").await;
    assert_eq!(hasty.frame().await["replayed"], true);
    hasty.stream.close(None).await.unwrap();
    hasty.ending().await;

    let mut socket = Socket::open(service.address, "7").await;
    let frame = socket.frame().await;
    assert_eq!((frame["event"].as_str(), frame["replayed"].as_bool()), (Some("payment.verified"), Some(true)));
    assert_eq!(delivered(&database).await, 0);
    confirmed(&mut socket, &database, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_absence_is_told_as_the_newest_twenty_and_a_number() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    database.run("select notifier.send('7', 'info', 'number ' || n) from generate_series(1, 25) n").await;
    let mut socket = Socket::open(service.address, "7").await;
    for number in 6..=25 {
        assert_eq!(socket.frame().await["message"], format!("number {number}"));
    }
    let more = socket.frame().await;
    assert_eq!(
        (more["type"].as_str(), more["message"].as_str()),
        (Some("info"), Some("5 more notifications wait in your inbox."))
    );
    confirmed(&mut socket, &database, 20).await;
    eventually("the five are not waiting any more", || async {
        database.one::<i64>("select count(*) from notifier.notification where summarized_at is not null").await == 5
    })
    .await;
    Socket::open(service.address, "7").await.nothing_but_a_marker(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_past_its_use_or_older_than_the_window_is_history() {
    let database = Database::new().await;
    database.run("select notifier.send('7', 'info', m) from unnest(array['stale', 'old', 'fresh']) m").await;
    database.run("update notifier.notification set until = now() - interval '1 second' where message = 'stale'").await;
    database
        .run("update notifier.notification set created_at = now() - interval '25 hours', slot = notifier.slot(now() - interval '25 hours')
              where message = 'old'")
        .await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "7").await;
    assert_eq!(socket.hello["unread"], 3);
    assert_eq!(socket.frame().await["message"], "fresh");
    socket.nothing_but_a_marker(&database).await;
}

/// More than a mailbox holds, in one statement: each of two quick sockets and a slow one gets each of them once.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_cannot_keep_up_misses_nothing() {
    const MANY: usize = 5_000;
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut quick = [Socket::open(service.address, "7").await, Socket::open(service.address, "7").await];
    let mut slow = Socket::open(service.address, "7").await;
    database
        .write(&format!(
            "insert into payment (booking_id, user_id, amount, status, is_renewal) select 101, 7, n, 'success', true from generate_series(1, {MANY}) n"
        ))
        .await;
    let each_once = async |socket: &mut Socket, rest: Duration| {
        let mut seen = vec![0; MANY + 1];
        for n in 0..MANY {
            let frame = socket.frame().await;
            seen[frame["data"]["amount"].as_f64().unwrap() as usize] += 1;
            if n % 250 == 0 {
                sleep(rest).await;
            }
        }
        assert!(
            seen[1..].iter().all(|times| *times == 1),
            "a socket was told one of them {:?} times",
            seen.iter().max()
        );
    };
    let [one, other] = &mut quick;
    let (at_once, slowly) = (Duration::ZERO, Duration::from_millis(100));
    tokio::join!(each_once(one, at_once), each_once(other, at_once), each_once(&mut slow, slowly));
    database.run("select notifier.send('7', 'info', 'the end')").await;
    for socket in quick.iter_mut().chain([&mut slow]) {
        assert_eq!(socket.frame().await["message"], "the end");
    }
    assert!(service.metric("notifier_lags_total").await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_read_nothing_cost_256_kib_each_and_are_closed() {
    const SOCKETS: u64 = 100;
    const EACH: u64 = 120;
    let database = Database::new().await;
    let service = Process::start(&database.url(), "127.0.0.1:0".parse().unwrap()).await;
    let (mut sockets, mut before) = (Vec::new(), 0);
    for user in 0..SOCKETS {
        sockets.push(Socket::open(service.address, &user.to_string()).await);
    }
    // First to users who are not here: what publishing itself takes is no socket's.
    // Half a MiB for each: more than a mailbox, the session and the kernel take together.
    for (user, published) in [("'nobody'", 1), ("u::text", 2)] {
        before = service.memory();
        database
            .run(&format!(
                "select notifier.send({user}, 'info', repeat('x', 4000)) from generate_series(1, {EACH}) n, generate_series(0, {SOCKETS} - 1) u"
            ))
            .await;
        eventually("all is published", || async {
            metric(service.address, "notifier_published_total").await == published * SOCKETS * EACH
        })
        .await;
    }
    let each = service.memory().saturating_sub(before) / SOCKETS;
    assert!(each <= 256, "{each} KiB for each of them");
    eventually("all are closed", || async { given_up(service.address).await.iter().sum::<u64>() == SOCKETS }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_frames_close_with_their_code() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    for (message, code) in [
        (Message::text("no json"), 4400),
        (Message::text("[1]"), 4400),
        (Message::binary(vec![1, 2, 3]), 4400),
        (Message::text(format!(r#"{{"x":"{}"}}"#, "y".repeat(4097))), 1009),
        (Message::binary(vec![0; 1_000_000]), 1009),
    ] {
        let mut socket = Socket::open(service.address, "7").await;
        let _ = futures_util::SinkExt::send(&mut socket.stream, message).await;
        assert_eq!(socket.ending().await, Ending::Closed(code));
    }
    let mut socket = Socket::open(service.address, "7").await;
    socket.send(Message::text(r#"{"op":"of a later version"}"#)).await;
    socket.send(Message::Ping(b"mine".to_vec().into())).await;
    socket.send(Message::Pong(b"unasked".to_vec().into())).await;
    socket.nothing_but_a_marker(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_web_socket_frames_close_with_their_code() {
    use tokio::io::AsyncWriteExt;
    let database = Database::new().await;
    let service = Service::on(&database).await;
    for (bytes, code) in [
        (&[0x81, 0x02, b'{', b'}'][..], 1002),             // not masked
        (&[0x83, 0x80, 0, 0, 0, 0][..], 1002),             // an opcode nobody knows
        (&[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xff][..], 1007), // not UTF-8
    ] {
        let mut socket = Socket::open(service.address, "7").await;
        let tokio_tungstenite::MaybeTlsStream::Plain(stream) = socket.stream.get_mut() else { panic!("not plain") };
        stream.write_all(bytes).await.unwrap();
        assert_eq!(socket.ending().await, Ending::Closed(code), "{bytes:x?}");
    }
    eventually("their sessions ended", || async { service.metric("notifier_sockets").await == 0 }).await;
}

/// However many sockets come back at once, they ask the database in a few questions.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_comes_back_asks_in_a_few_questions() {
    const CROWD: u64 = 400;
    let database = Database::new().await;
    let service = Service::on(&database).await;
    database.run("select notifier.send(n::text, 'info', 'missed ' || n) from generate_series(1000, 1399) n").await;
    let holder = database.superuser().await;
    holder.batch_execute("begin; lock table notifier.device in access exclusive mode").await.unwrap();
    let mut crowd = Vec::new();
    for n in 0..CROWD {
        crowd.push(Socket::connect(service.address, &(1000 + n).to_string()).await);
    }
    eventually("the whole crowd is there", async || service.metric("notifier_sockets").await == CROWD).await;
    holder.batch_execute("rollback").await.unwrap();
    for socket in &mut crowd {
        assert_eq!(socket.frame().await["user"], socket.user);
        assert_eq!(socket.frame().await["message"], format!("missed {}", socket.user));
    }
    assert_eq!(service.metric("notifier_catch_ups_total").await, CROWD);
    let reads = service.metric("notifier_catch_up_reads_total").await;
    // A dozen; more where the machine took so long that questions under the lock met their limit.
    assert!(reads <= CROWD / 5, "{reads} questions");
}
