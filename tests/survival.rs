//! What may happen to the service and its connections, and that nothing is lost by it.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::Value;
use tokio_postgres::Row;
use tokio_tungstenite::tungstenite::Message;

use crate::support::service::given_up;
use crate::support::socket::{Ending, V1};
use crate::support::{Database, Service, Socket, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_listener_under_load_loses_nothing() {
    const WRITES: i64 = 1_500;
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "8").await;
    let writer = database.another_app().await;
    let writing = tokio::spawn(async move {
        for n in 1..=WRITES {
            writer
                .execute("insert into payment (booking_id, user_id, amount, status, is_renewal) values (104, 8, $1::int8, 'success', true)", &[&n])
                .await
                .unwrap();
        }
    });
    let killer = database.superuser().await;
    let mut killed = 0;
    let mut seen = HashSet::new();
    for n in 1..=WRITES {
        let amount = socket.frame().await["data"]["amount"].as_f64().unwrap() as i64;
        assert!(seen.insert(amount), "{amount} was told twice");
        if n % 150 == 0 {
            // Listener, relay and pool alike: everything the service has.
            killed += killer
                .query_one(
                    "select count(pg_terminate_backend(pid)) from pg_stat_activity
                            where application_name = 'parkmate-notifier' and datname = current_database()",
                    &[],
                )
                .await
                .unwrap()
                .get::<_, i64>(0);
        }
    }
    writing.await.unwrap();
    socket.nothing_but_a_marker(&database).await;
    assert_eq!(seen.len() as i64, WRITES);
    assert!(killed >= 10, "{killed} backends killed");
    assert!(service.metric("notifier_listener_connects_total").await > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_commit_in_another_order_than_their_ids_arrive_once() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "8").await;
    let holder = database.another_app().await;
    holder
        .batch_execute("begin; savepoint s; update payment set status = 'verified' where id = 204; release s;
                        savepoint t; insert into payment (booking_id, user_id, amount, status, is_renewal) values (104, 8, 1, 'failed', true); rollback to t")
        .await
        .unwrap();
    for _ in 0..3 {
        database.write("insert into payment (booking_id, user_id, amount, status, is_renewal) values (104, 8, 1, 'success', true)").await;
        assert_eq!(socket.frame().await["event"], "booking.renewed");
    }
    holder.batch_execute("commit").await.unwrap();
    assert_eq!(socket.frame().await["event"], "payment.verified");
    socket.nothing_but_a_marker(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_doorbell_off_the_service_reads_for_itself_and_two_phase_commit_works() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "8").await;
    database.write("set notifier.doorbell = off; update payment set status = 'verified' where id = 204").await;
    assert_eq!(socket.frame().await["event"], "payment.verified");
    database
        .write("begin; update booking set status = 'cancelled_by_admin' where id = 104; prepare transaction 'later'")
        .await;
    socket.nothing_but_a_marker(&database).await;
    database.write("commit prepared 'later'").await;
    assert_eq!(socket.frame().await["event"], "booking.declined");
}

/// A NOTIFY brings JSON and a read columns; and an instance of the release before, while it is being replaced, reads JSON.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_is_what_is_told() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "8").await;
    eventually("writers NOTIFY", || async {
        service.metric("notifier_relay").await == 1 && service.metric("notifier_relay_busy").await == 0
    })
    .await;
    let message = r#"Jörg said "no" \ 日本"#;
    let data =
        r#"{"n": 7, "big": [9007199254740993, -1.5], "text": "\u00fc \"", "none": null, "deep": {"a": [true, {}]}}"#;
    let send = format!("select notifier.send('8', 'error', $m${message}$m$, $d${data}$d$, 'a.b')");
    let mut frames = Vec::new();
    for doorbell in ["on", "off"] {
        database.run(&format!("set notifier.doorbell = {doorbell}; {send}")).await;
        frames.push(socket.frame().await);
    }
    let columns = "select id::text, to_char(created_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')
                   from notifier.notification order by id";
    for (frame, row) in frames.iter_mut().zip(database.rows(columns).await) {
        assert_eq!(frame["id"].take(), row.get::<_, String>(0));
        assert_eq!(frame["created_at"].take(), row.get::<_, String>(1));
        assert_eq!(frame["data"]["big"][0], "9007199254740993", "a browser would round it");
        assert_eq!(frame["message"], message);
    }
    assert_eq!(frames[0], frames[1]);

    let before = "select s.notification from notifier.stream('3:3:') s where s.position is null order by s.id";
    let read: Vec<Value> =
        database.rows(before).await.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect();
    assert_eq!(read.iter().map(|row| &row["message"]).collect::<Vec<_>>(), [message, message]);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_payloads_are_counted_and_ignored_and_forged_ones_reach_nobody() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "8").await;
    let forged = r#"{"id":"1","slot":0,"xid":"9999999","user_id":"8","event":"x","level":"info","message":"forged","data":{},"created_at":"2026-11-23T01:02:03.000000Z"}"#;
    for channel in ["notifier", "notifications", "parkmate"] {
        database.write(&format!("notify {channel}, '{forged}'")).await;
    }
    // Only who may read the settings knows the channel.
    assert!(database.app.batch_execute("select value from notifier.setting").await.is_err());
    for garbage in ["", "nonsense", "{}", r#"{"id":1}"#, "[1,2]", r#"{"due":"x"}"#] {
        database
            .run(&format!("select pg_notify(value, '{garbage}') from notifier.setting where name = 'channel'"))
            .await;
    }
    socket.nothing_but_a_marker(&database).await;
    // (The marker may have been read before the last of them was heard.)
    eventually("all six are counted", async || service.metric("notifier_malformed_payloads_total").await == 6).await;
    assert!(service.is_ready().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_tell_the_sockets_of_both_and_one_takes_over_the_bell() {
    let database = Database::new().await;
    let first = Service::on(&database).await;
    eventually("the first is the relay", || async { first.metric("notifier_relay").await == 1 }).await;
    let second = Service::on(&database).await;
    let (mut here, mut there) = (Socket::open(first.address, "8").await, Socket::open(second.address, "8").await);
    database.write("update payment set status = 'verified' where id = 204").await;
    assert_eq!(here.frame().await["event"], "payment.verified");
    assert_eq!(there.frame().await["event"], "payment.verified");
    let led = eventually("one of them is the relay", || async {
        first.metric("notifier_relay").await + second.metric("notifier_relay").await == 1
    });
    there.meanwhile(led).await;

    first.begin_to_stop();
    assert_eq!(there.meanwhile(here.ending()).await, Ending::Closed(1012));
    database.write("update booking set status = 'cancelled_by_admin' where id = 104").await;
    assert_eq!(there.frame().await["event"], "booking.declined");
    there
        .meanwhile(eventually("the second is the relay", || async { second.metric("notifier_relay").await == 1 }))
        .await;
    there.nothing_but_a_marker(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_tells_sockets_to_come_back_and_notes_what_they_confirmed() {
    // A service that stops waits a second or two for confirmations. Where the machine stood still for longer, it is begun again.
    let mut tries = 0;
    let database = loop {
        let database = Database::new().await;
        let service = Service::on(&database).await;
        let mut socket = Socket::open(service.address, "8").await;
        database.write("update payment set status = 'verified' where id = 204").await;
        assert_eq!(socket.frame().await["event"], "payment.verified");
        service.begin_to_stop();
        assert_eq!(socket.ending().await, Ending::Closed(1012));
        service.stop().await;
        if database.one("select bool_and(delivered_at is not null) from notifier.notification").await {
            break database;
        }
        tries += 1;
        assert!(tries < 5, "what was confirmed is not noted");
    };

    database.write("update booking set status = 'cancelled_by_admin' where id = 104").await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "8").await;
    let frame = socket.frame().await;
    assert_eq!((frame["event"].as_str(), frame["replayed"].as_bool()), (Some("booking.declined"), Some(true)));
    socket.nothing_but_a_marker(&database).await;
}

/// A socket that opens in the middle of writes gets each row once, by its catch-up or live.
#[tokio::test(flavor = "multi_thread")]
async fn opening_in_the_middle_of_writes_neither_skips_nor_doubles() {
    const WRITES: i64 = 600;
    let database = Database::new().await;
    let service = Service::on(&database).await;
    // When the relay begins or ends to tell for the writers, what one of them commits just before may come just after.
    eventually("writers announce", || service.is_announced_to()).await;
    let writer = database.another_app().await;
    let led = database.generation().await;
    let (mut first, mut others) = (Socket::open(service.address, "8").await, Vec::new());
    let writing = tokio::spawn(async move {
        for n in 1..=WRITES {
            writer
                .execute("insert into payment (booking_id, user_id, amount, status, is_renewal) values (104, 8, $1::int8, 'success', true)", &[&n])
                .await
                .unwrap();
        }
    });
    let mut amounts = Vec::new();
    for n in 1..=WRITES {
        let frame = Socket::meanwhile_all(&mut others, first.frame()).await;
        amounts.push(frame["data"]["amount"].as_f64().unwrap() as i64);
        if n % 60 == 0 {
            others.push(Socket::open(service.address, "8").await);
        }
    }
    if database.generation().await == led {
        assert!(amounts.is_sorted(), "one writer's rows come in order: {amounts:?}");
    }
    amounts.sort();
    assert!(amounts.iter().copied().eq(1..=WRITES), "{amounts:?}");
    writing.await.unwrap();
    database.run("select notifier.send('8', 'info', 'the end')").await;
    for socket in &mut others {
        let mut seen = HashSet::new();
        let mut last = 0;
        loop {
            let frame = socket.frame().await;
            let Some(amount) = frame["data"]["amount"].as_f64() else {
                if frame["message"] == "the end" {
                    break;
                }
                continue; // how many more wait in the inbox
            };
            assert!(seen.insert(amount as i64), "{amount} was told twice");
            last = last.max(amount as i64);
        }
        let first = *seen.iter().min().unwrap();
        assert_eq!(seen.len() as i64, last - first + 1, "none was skipped after the first");
        assert_eq!(last, WRITES);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_never_answers_a_ping_is_closed() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "8").await;
    database.write("update payment set status = 'verified' where id = 204").await;
    assert_eq!(socket.frame().await["event"], "payment.verified");
    // Reading on would answer: bytes are taken from below the protocol instead.
    let tokio_tungstenite::MaybeTlsStream::Plain(stream) = socket.stream.get_mut() else { panic!("not plain") };
    let mut bytes = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(stream, &mut bytes).await.unwrap();
    assert!(bytes.windows(2).any(|pair| u16::from_be_bytes([pair[0], pair[1]]) == 4511), "closed with 4511");
    assert_eq!(given_up(service.address).await, [0, 1]);
    assert_eq!(
        database.one::<i64>("select count(*) from notifier.notification where delivered_at is not null").await,
        0
    );
}

/// Where something between swallows pings or pongs, a client is told the same three times and not every few seconds for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_answers_is_told_the_same_three_times_and_no_more() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let cookie = "notifier_device=0123456789abcdef0123456789abcdef";
    database.run("select notifier.send('8', 'info', 'unanswered')").await;
    for round in 1..=4 {
        let mut socket = Socket::open_device(service.address, "8", Some(cookie)).await;
        if round <= 3 {
            assert_eq!(socket.frame().await["message"], "unanswered");
            // From below the protocol, where no ping is answered.
            let tokio_tungstenite::MaybeTlsStream::Plain(stream) = socket.stream.get_mut() else { panic!("not plain") };
            let mut bytes = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(stream, &mut bytes).await.unwrap();
        } else {
            // What is new still comes, and as soon as it answers, what was only taken as told.
            socket.nothing_but_a_marker(&database).await;
            let frame = socket.frame().await;
            assert_eq!((frame["message"].as_str(), frame["replayed"].as_bool()), (Some("unanswered"), Some(true)));
            socket.nothing_but_a_marker(&database).await;
        }
    }
    assert_eq!(service.metric("notifier_unanswering_total").await, 1);
    assert_eq!(given_up(service.address).await, [0, 3]);
}

/// A connection of the service to its database that takes a question and never answers is given up, and the question asked again.
#[tokio::test(flavor = "multi_thread")]
async fn backends_that_hang_hold_up_nothing_for_long() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "8").await;
    let admin = database.superuser().await;
    let idle = "select pid::text from pg_stat_activity where application_name = 'parkmate-notifier' and datname = current_database()
                and state = 'idle' and query !~ 'relay|bell|tend|committing|listen|beat|tcp_user_timeout'";
    let pids = |rows: Vec<Row>| rows.iter().map(|row| row.get(0)).collect::<Vec<String>>();
    // Idle ones alone: one that was stopped while it held a lock inside the server would stop all else, this question too.
    let stopped = loop {
        let backends = pids(admin.query(idle, &[]).await.unwrap());
        assert!(!backends.is_empty());
        let stopped = Stopped::new(backends.clone());
        let still = tokio::time::timeout(Duration::from_secs(5), admin.query(idle, &[])).await;
        let still = still.map(|rows| pids(rows.unwrap())).unwrap_or_default();
        if backends.iter().all(|pid| still.contains(pid)) {
            break stopped;
        }
    };
    // Too large for NOTIFY: it has to be read.
    database.run("select notifier.send('8', 'info', repeat('x', 9000))").await;
    let frame = socket.frame().await;
    drop(stopped);
    assert_eq!(frame["message"].as_str().unwrap().len(), 9000);
    socket.nothing_but_a_marker(&database).await;
}

/// Processes that are stopped until this is dropped, in whatever way the test ends.
struct Stopped(Vec<String>);

impl Stopped {
    fn new(pids: Vec<String>) -> Self {
        assert!(std::process::Command::new("kill").arg("-STOP").args(&pids).status().unwrap().success());
        Self(pids)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = std::process::Command::new("kill").arg("-CONT").args(&self.0).status();
    }
}

/// A link slower than the patience of the service with one write: what arrived is confirmed, and nothing comes twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_is_waited_for_as_long_as_it_makes_progress() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let slow = crate::support::slow_link::to(service.address, 60_000).await;
    let mut socket = Socket::open(slow, "8").await;
    database.run("select notifier.send('8', 'info', repeat('x', 40000) || n) from generate_series(1, 30) n").await;
    for n in 1..=30 {
        assert!(socket.frame().await["message"].as_str().unwrap().ends_with(&format!("x{n}")));
    }
    assert_eq!(given_up(service.address).await, [0, 0]);
    socket.nothing_but_a_marker(&database).await;
}

/// What it is owed for asking stays small: the service does not remember more and more for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_and_reads_nothing_is_closed() {
    use futures_util::SinkExt;
    let database = Database::new().await;
    // However much it may ask.
    let service = Service::start_with(&database.url(), |config| {
        (config.limits.max_messages_per_second, config.limits.message_burst) = (u32::MAX, u32::MAX);
    })
    .await;
    eventually("the service listens", || service.is_ready()).await;
    for (headers, message) in [
        (&[][..], Message::Ping(vec![7; 125].into())),
        (&[V1], Message::Text(r#"{"op":"ack"}"#.into())),
        (&[V1], Message::Text(r#"{"op":"read"}"#.into())),
    ] {
        let mut socket = Socket::open_with(service.address, "8", "", headers).await;
        // Until the answers fill the buffers on the way and nothing more is taken: the service has closed.
        let closed = tokio::time::timeout(crate::support::LIMIT, async {
            while socket.stream.feed(message.clone()).await.is_ok() && socket.stream.flush().await.is_ok() {}
        });
        assert!(closed.await.is_ok(), "it goes on for ever: {message:?}");
    }
    eventually("their sessions ended", || async { service.metric("notifier_sockets").await == 0 }).await;
    assert_eq!(given_up(service.address).await, [3, 0]);
}

/// With somebody listening a write tells all of it at once; with nobody it tells nothing, and runs at full speed.
#[tokio::test(flavor = "multi_thread")]
async fn notify_carries_the_whole_notification_or_a_reference_and_only_when_asked() {
    let database = Database::new().await;
    let (_listening, mut heard) = listen(&database).await;
    let write =
        "update payment set status = 'verified' where id = 204; update payment set status = 'pending' where id = 204";
    database.write(write).await;
    // A payload of the test's own: those before it would have come before it.
    let mark = "select pg_notify(value, 'mark') from notifier.setting where name = 'channel'";
    database.run(mark).await;
    assert_eq!(heard.recv().await.unwrap(), "mark", "nobody asked to be rung");

    let holder = database.superuser().await;
    holder.batch_execute("select notifier.hang_bell(notifier.become_relay())").await.unwrap();
    database.write(&format!("begin; {write}; rollback")).await;
    database.write(write).await;
    let payload: serde_json::Value = serde_json::from_str(&heard.recv().await.unwrap()).unwrap();
    assert_eq!((payload["event"].as_str(), payload["user_id"].as_str()), (Some("payment.verified"), Some("8")));
    assert_eq!(payload["data"]["payment_id"], 204);
    for large in [
        "select notifier.send('8', 'info', repeat('x', 20000))",
        "select notifier.send('8', 'info', 'x', jsonb_build_object('x', repeat('ä', 4000)))",
        "insert into payment (booking_id, user_id, amount, status, is_renewal)
         select 104, 8, 1, 'success', true from generate_series(1, 100)",
    ] {
        database.run(large).await;
        assert_eq!(heard.recv().await.unwrap(), r#"{"read":true}"#, "{large}");
    }
    database.write("set notifier.doorbell = off").await;
    database.write(write).await;
    database.run(mark).await;
    assert_eq!(heard.recv().await.unwrap(), "mark");
}

/// What arrives on the secret channel, as its owner may hear it.
pub async fn listen(database: &Database) -> (tokio_postgres::Client, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let (client, mut connection) = tokio_postgres::connect(&database.url(), tokio_postgres::NoTls).await.unwrap();
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let tokio_postgres::AsyncMessage::Notification(notification) = message {
                let _ = sender.send(notification.payload().to_owned());
            }
        }
    });
    let channel: String = database.one("select value from notifier.setting where name = 'channel'").await;
    client.batch_execute(&format!("listen {channel}")).await.unwrap();
    (client, receiver)
}
