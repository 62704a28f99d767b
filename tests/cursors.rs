//! Clients that keep cursors: from each they miss nothing, whatever happened between.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::socket::Ending;
use crate::support::{Database, Service, Socket, eventually};

/// Reads to the end of what was missed, without reading past it; returns the messages and the cursor of `live`.
async fn until_live(socket: &mut Socket) -> (Vec<String>, String) {
    let mut missed = Vec::new();
    let live = socket.until(|frame| {
        if frame["op"] != "live" {
            assert_eq!(frame["replayed"], true, "{frame}");
            missed.push(frame["message"].as_str().unwrap().to_owned());
        }
        frame["op"] == "live"
    });
    let cursor = live.await["cursor"].as_str().unwrap().to_owned();
    (missed, cursor)
}

/// The next notification, and the newest cursor seen on the way.
async fn next(socket: &mut Socket, cursor: &mut String) -> Value {
    let next = socket.until(|frame| {
        if let Some(newer) = frame["cursor"].as_str() {
            newer.clone_into(cursor);
        }
        frame["message"].is_string()
    });
    next.await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_goes_on_from_its_cursor_and_learns_what_it_was_worth() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    database.run("select notifier.send('8', 'info', 'before')").await;
    let mut socket = Socket::open_at(service.address, "8", None).await;
    assert_eq!(
        (socket.hello["resume"].as_str(), socket.hello["protocol"].as_str()),
        (Some("new"), Some("notifier.v1"))
    );
    assert_eq!(socket.hello["epoch"].as_str().unwrap().len(), 16);
    let (missed, mut cursor) = until_live(&mut socket).await;
    assert_eq!(missed, ["before"]);

    database.run("select notifier.send('8', 'info', 'live')").await;
    let frame = next(&mut socket, &mut cursor).await;
    assert_eq!((frame["message"].as_str(), frame["replayed"].as_bool()), (Some("live"), Some(false)));
    assert!(frame["cursor"].is_string(), "{frame}");
    drop(socket);

    database.run("select notifier.send('8', 'info', 'missed ' || n) from generate_series(1, 3) n; select notifier.send('7', 'info', 'another''s')").await;
    let mut socket = Socket::open_at(service.address, "8", Some(&cursor)).await;
    assert_eq!(socket.hello["resume"], "ok");
    let (missed, cursor) = until_live(&mut socket).await;
    assert_eq!(missed, ["missed 1", "missed 2", "missed 3"]);
    socket.nothing_but_a_marker(&database).await;
    drop(socket);

    let mut socket = Socket::open_at(service.address, "8", Some(&cursor)).await;
    let (missed, _) = until_live(&mut socket).await;
    assert!(missed.len() == 1 && missed[0].starts_with("marker"), "{missed:?}");
}

/// Two thousand missed, more than any window or page holds, over a connection that breaks again and again: each comes once.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_absence_is_told_whole_over_broken_connections() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open_at(service.address, "8", None).await;
    let (_, mut cursor) = until_live(&mut socket).await;
    drop(socket);
    database.run("select notifier.send('8', 'info', n::text) from generate_series(1, 2000) n").await;
    let mut seen = BTreeSet::new();
    let mut breaks = 0;
    let mut socket = Socket::open_at(service.address, "8", Some(&cursor)).await;
    while seen.len() < 2000 {
        let frame = socket.frame().await;
        let number: i32 = frame["message"].as_str().unwrap_or_else(|| panic!("{frame}")).parse().unwrap();
        assert!(seen.insert(number), "twice: {frame}");
        if let Some(newer) = frame["cursor"].as_str() {
            newer.clone_into(&mut cursor);
            // Without an answer nothing more than 256 would come.
            socket.send(Message::Text(json!({"op": "ack", "cursor": cursor}).to_string().into())).await;
            if seen.len() > 300 * (breaks + 1) {
                breaks += 1;
                if breaks == 3 {
                    database.run("select notifier.send('8', 'info', '2001')").await;
                }
                socket = Socket::open_at(service.address, "8", Some(&cursor)).await;
                assert_eq!(socket.hello["resume"], "ok");
            }
        }
    }
    assert!(breaks >= 5, "{breaks}");
    let (rest, _) = until_live(&mut socket).await;
    assert_eq!(seen.len() + rest.len(), 2001);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_commits_late_is_not_skipped_by_any_cursor() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open_at(service.address, "8", None).await;
    let (_, mut cursor) = until_live(&mut socket).await;
    let early = database.another_app().await;
    early
        .batch_execute("begin; insert into payment (booking_id, user_id, amount, status, is_renewal) values (104, 8, 1, 'success', true)")
        .await
        .unwrap();
    database.run("select notifier.send('8', 'info', 'first')").await;
    assert_eq!(next(&mut socket, &mut cursor).await["message"], "first");
    // The cursor of that frame, and the next one that a beat brings when the stream was read past it.
    let mut cursors = vec![cursor.clone()];
    let beat = socket.until_op("beat").await;
    assert_eq!(beat["epoch"], socket.hello["epoch"]);
    cursors.push(beat["cursor"].as_str().unwrap().to_owned());
    drop(socket);
    early.batch_execute("commit").await.unwrap();
    for cursor in cursors {
        let mut socket = Socket::open_at(service.address, "8", Some(&cursor)).await;
        let (missed, _) = until_live(&mut socket).await;
        assert_eq!(missed.len(), 1, "the late one, and the first not again: {missed:?}");
        assert!(missed[0].contains("renewed"), "{missed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_is_worth_nothing_is_answered_with_gap() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open_at(service.address, "8", None).await;
    let (_, good) = until_live(&mut socket).await;
    drop(socket);
    database.run("select notifier.send('8', 'info', 'undelivered')").await;
    let user = "8".parse().unwrap();
    let decoded = |text: &str| parkmate_notifier::protocol::Cursor::decode(text, &user).unwrap();
    let mut foreign = decoded(&good);
    foreign.epoch = "0123456789abcdef".parse().unwrap();
    let mut future = decoded(&good);
    future.position = "999999999:999999999:".parse().unwrap();
    for worthless in
        ["nonsense", "AAAA", &good[..good.len() - 2], &foreign.token(&user), &future.token(&user), &"A".repeat(9_000)]
    {
        let mut socket = Socket::open_at(service.address, "8", Some(worthless)).await;
        assert_eq!(socket.hello["resume"], "gap", "{worthless}");
        // What no device has confirmed comes all the same.
        assert_eq!(until_live(&mut socket).await.0, ["undelivered"]);
    }
    // Retention passed: something that the cursor has not seen may be gone.
    let mut socket = Socket::open_at(service.address, "8", Some(&good)).await;
    assert_eq!(socket.hello["resume"], "ok");
    assert_eq!(until_live(&mut socket).await.0, ["undelivered"]);
    database.run("update notifier.progress set pruned = pg_current_xact_id()").await;
    let socket = Socket::open_at(service.address, "8", Some(&good)).await;
    assert_eq!(socket.hello["resume"], "gap");
    // The restore runbook.
    let socket_before = Socket::open_at(service.address, "8", None).await;
    let channel: String = database.one("select value from notifier.setting where name = 'channel'").await;
    database.run("select notifier.new_epoch()").await;
    assert_ne!(database.one::<String>("select value from notifier.setting where name = 'channel'").await, channel);
    let socket = Socket::open_at(service.address, "8", socket_before.hello["cursor"].as_str()).await;
    assert_eq!(socket.hello["resume"], "gap");
}

/// A client that keeps cursors confirms by giving one back, and not by answering pings.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_acknowledged_is_not_delivered() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open_at(service.address, "8", None).await;
    let (_, mut cursor) = until_live(&mut socket).await;
    database.run("select notifier.send('8', 'info', 'handled')").await;
    next(&mut socket, &mut cursor).await;
    let handled = cursor.clone();
    database.run("select notifier.send('8', 'info', 'not handled')").await;
    next(&mut socket, &mut cursor).await;
    assert_ne!(handled, cursor);
    socket.send(Message::Text(json!({"op": "ack", "cursor": handled, "more": 1}).to_string().into())).await;
    let delivered =
        "select coalesce(string_agg(message, ','), '') from notifier.notification where delivered_at is not null";
    // Pings are answered meanwhile, and confirm nothing.
    let handled = eventually("the first is delivered", async || database.one::<String>(delivered).await == "handled");
    socket.meanwhile(handled).await;
    socket.send(Message::Text(r#"{"op":"ack","cursor":"nonsense"}"#.into())).await;
    assert_eq!(socket.until_op("error").await["code"], "bad_cursor");
    socket.send(Message::Text(r#"{"op":"from the future"}"#.into())).await;
    socket.send(Message::Text(json!({"op": "ack", "cursor": cursor}).to_string().into())).await;
    let waiting = "select count(*) from notifier.notification where delivered_at is null";
    socket.meanwhile(eventually("both are delivered", async || database.one::<i64>(waiting).await == 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_offers_other_protocols_as_well_gets_ours() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let offers = [("sec-websocket-protocol", "graphql-ws, notifier.v1")];
    let socket = Socket::open_with(service.address, "8", "", &offers).await;
    assert_eq!(socket.answer.headers()["sec-websocket-protocol"], "notifier.v1");
    assert!(socket.answer.headers().get("set-cookie").is_none(), "its cursor is its own");
}

/// Somebody else logs in where a cursor was left behind: it must not skip what this one never had.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_another_user_is_worth_nothing() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    database.run("select notifier.send('8', 'info', 'for David')").await;
    let mut dora = Socket::open_at(service.address, "7", None).await;
    let (_, left_behind) = until_live(&mut dora).await;
    let mut david = Socket::open_at(service.address, "8", Some(&left_behind)).await;
    assert_eq!(david.hello["resume"], "gap");
    assert_eq!(until_live(&mut david).await.0, ["for David"]);
}

/// A client that reads and never acknowledges is waited for, and then closed with what it may do about it.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_acknowledges_nothing_is_closed_in_the_end() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open_at(service.address, "8", None).await;
    until_live(&mut socket).await;
    database.run("select notifier.send('8', 'info', n::text) from generate_series(1, 300) n").await;
    let mut told = 0;
    let ending = loop {
        match socket.next().await {
            Ok(frame) => told += i32::from(frame["message"].is_string()),
            Err(ending) => break ending,
        }
    };
    assert_eq!((told, ending), (256, Ending::Closed(4510)));
}

/// A row that this release cannot read is left out, and what comes behind it is told: a large one is a page of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_cannot_be_read_ends_no_catch_up() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open_at(service.address, "8", None).await;
    let (_, cursor) = until_live(&mut socket).await;
    drop(socket);
    database
        .run(
            "select notifier.send('8', 'info', repeat('x', 70000));
             update notifier.notification set created_at = created_at + interval '10000 years';
             select notifier.send('8', 'info', n::text) from generate_series(1, 3) n",
        )
        .await;
    let mut socket = Socket::open_at(service.address, "8", Some(&cursor)).await;
    let (missed, _) = until_live(&mut socket).await;
    assert_eq!(missed, ["1", "2", "3"]);
}
