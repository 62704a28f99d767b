//! What is read on one device is read on all: sockets that keep cursors mark as read and are told what others marked.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::socket::{Ending, V1};
use crate::support::{Database, Inbox, Service, Socket, eventually};

async fn say(socket: &mut Socket, frame: Value) {
    socket.send(Message::Text(frame.to_string().into())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_socket_marks_the_others_learn_on_every_instance() {
    let database = Database::new().await;
    let (here, there) = (Service::on(&database).await, Service::on(&database).await);
    database.run("select notifier.send('8', 'info', 'n ' || n) from generate_series(1, 3) n").await;
    let mut phone = Socket::open_at(here.address, "8", None).await;
    let mut laptop = Socket::open_at(there.address, "8", None).await;
    let mut plain = Socket::open(here.address, "8").await;
    let mut other = Socket::open_at(here.address, "7", None).await;
    other.until_op("live").await;
    assert_eq!(phone.hello["unread"], 3);
    let mut ids = Vec::new();
    while ids.len() < 3 {
        ids.push(phone.frame().await["id"].clone());
    }
    phone.until_op("live").await;
    laptop.until_op("live").await;

    say(&mut phone, json!({"op": "read", "ids": [ids[1]]})).await;
    assert_eq!(phone.until_op("ok").await, json!({"op": "ok", "unread": 2}));
    assert_eq!(laptop.until_op("read").await, json!({"op": "read", "ids": [ids[1]], "unread": 2}));
    say(&mut laptop, json!({"op": "read", "before": ids[2]})).await;
    assert_eq!(laptop.until_op("ok").await["unread"], 0);
    assert_eq!(phone.until_op("read").await, json!({"op": "read", "before": ids[2], "unread": 0}));

    // By a request as well, to every socket that wants to know.
    database.run("select notifier.send('8', 'info', 'one more')").await;
    let more = phone.until(|frame| frame["message"] == "one more").await["id"].clone();
    assert_eq!(Inbox::of(&there, "8").read(json!({"ids": [more]})).await, 0);
    for socket in [&mut phone, &mut laptop] {
        assert_eq!(socket.until_op("read").await, json!({"op": "read", "ids": [more], "unread": 0}));
    }
    // A plain client is told of notifications alone, and another user of nothing.
    for _ in 0..3 {
        assert!(plain.frame().await["message"].as_str().unwrap().starts_with("n "));
    }
    assert_eq!(plain.frame().await["message"], "one more");
    plain.nothing_but_a_marker(&database).await;
    other.nothing_but_a_marker(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_wish_to_mark_is_answered_in_words() {
    let database = Database::new().await;
    let service = Service::start_with(&database.url(), |config| config.limits.message_burst = 1_000).await;
    eventually("the service listens", || service.is_ready()).await;
    let mut socket = Socket::open_at(service.address, "8", None).await;
    for wrong in
        [json!({"op": "read"}), json!({"op": "read", "ids": ["x"]}), json!({"op": "read", "ids": ["1"], "before": "2"})]
    {
        say(&mut socket, wrong.clone()).await;
        let error = socket.until_op("error").await;
        assert_eq!(error["code"], "bad_read", "{wrong}");
        assert!(error["message"].as_str().unwrap().contains('`'), "{error}");
    }
    // More at once than wait: some are answered with what to do, none is forgotten.
    for _ in 0..30 {
        say(&mut socket, json!({"op": "read", "ids": ["1"]})).await;
    }
    let (mut done, mut busy) = (0, 0);
    while done + busy < 30 {
        match socket.frame().await {
            frame if frame["op"] == "ok" => done += 1,
            frame if frame["code"] == "busy" => busy += 1,
            _ => {}
        }
    }
    assert!(done >= 9, "{done} done, {busy} refused");
    // A plain client that says the same is not closed, and nothing is marked.
    let mut plain = Socket::open(service.address, "8").await;
    database.run("select notifier.send('8', 'info', 'unread')").await;
    assert_eq!(plain.frame().await["message"], "unread");
    say(&mut plain, json!({"op": "read", "before": "9223372036854775807"})).await;
    plain.nothing_but_a_marker(&database).await;
    assert_eq!(database.one::<i64>("select count(*) from notifier.notification where read_at is not null").await, 0);
}

/// What is read while a socket opens is told to it as well, and behind its hello.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_is_greeted_before_it_is_told_what_was_read() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    database.run("select notifier.send('8', 'info', 'n')").await;
    let mut open = Socket::open_at(service.address, "8", None).await;
    let id = open.frame().await["id"].clone();
    // What a socket asks first waits for this, and the count of what is unread does not.
    let holder = database.superuser().await;
    holder.batch_execute("begin; lock table notifier.revocation").await.unwrap();
    let mut opening = Socket::connect_with(service.address, "8", "", &[V1]).await;
    eventually("it asks", async || database.waiting_in("opened").await == 1).await;
    assert_eq!(Inbox::of(&service, "8").read(json!({"ids": [id]})).await, 0);
    assert_eq!(open.until_op("read").await["unread"], 0);
    holder.batch_execute("commit").await.unwrap();
    assert_eq!(opening.frame().await["connected"], true);
    assert_eq!(opening.until_op("read").await["unread"], 0);
}

/// What was read while LISTEN was lost nobody heard: the count comes again.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_listen_the_count_comes_again() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    database.run("select notifier.send('8', 'info', 'hello')").await;
    let mut socket = Socket::open_at(service.address, "8", None).await;
    socket.until_op("live").await;
    // Marked unheard, as an instance that dies before it tells leaves it.
    database.run("update notifier.notification set read_at = now()").await;
    let killer = database.superuser().await;
    let kill = "select pg_terminate_backend(pid) from pg_stat_activity
                where application_name = 'parkmate-notifier' and datname = current_database() and pid <> pg_backend_pid()";
    killer.batch_execute(kill).await.unwrap();
    assert_eq!(socket.until_op("read").await, json!({"op": "read", "unread": 0}));
}

/// The database that answers the question how many are unread now may fail at it, and nobody listens anew for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_fails_is_asked_for_again() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    database.run("select notifier.send('8', 'info', 'hello')").await;
    let mut socket = Socket::open_at(service.address, "8", None).await;
    socket.until_op("live").await;
    let superuser = database.superuser().await;
    let holder = database.superuser().await;
    holder.batch_execute("begin; lock table notifier.notification").await.unwrap();
    let read =
        r#"select pg_notify(value, '{"read_by": {"user_id": "8"}}') from notifier.setting where name = 'channel'"#;
    database.run(read).await;
    let cancel = "select count(*) filter (where pg_cancel_backend(pid)) from pg_stat_activity
                  where datname = current_database() and wait_event_type = 'Lock' and query like '%notifier.unread(%'";
    eventually("it fails", async || superuser.query_one(cancel, &[]).await.unwrap().get::<_, i64>(0) == 1).await;
    holder.batch_execute("rollback").await.unwrap();
    assert_eq!(socket.until_op("read").await, json!({"op": "read", "unread": 1}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_says_when_to_come_back() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open_at(service.address, "8", None).await;
    let cursor = socket.until_op("live").await["cursor"].as_str().unwrap().to_owned();
    service.begin_to_stop();
    let restarting = socket.until_op("restarting").await;
    assert!((0.0..=10.0).contains(&restarting["after"].as_f64().unwrap()), "{restarting}");
    assert_eq!(socket.ending().await, Ending::Closed(1012));
    service.stop().await;
    database.run("select notifier.send('8', 'info', 'meanwhile')").await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open_at(service.address, "8", Some(&cursor)).await;
    assert_eq!(socket.hello["resume"], "ok", "a restart of the service is none of the database");
    assert_eq!(socket.frame().await["message"], "meanwhile");
    eventually("both have gone", async || service.metric("notifier_sockets").await == 1).await;
}

/// Whoever is quicker than the service that stops is answered all the same. (Where the test was the slower one, it is begun again.)
#[tokio::test(flavor = "multi_thread")]
async fn who_ends_a_socket_of_a_service_that_stops_is_told_so() {
    let database = Database::new().await;
    for (last, code) in [(Message::Close(None), 1005), (Message::Text("no JSON".into()), 4400)] {
        let mut endings = Vec::new();
        while endings.last() != Some(&Ending::Closed(code)) {
            assert!(endings.len() < 5 && endings.iter().all(|ending| *ending == Ending::Closed(1012)), "{endings:?}");
            let service = Service::on(&database).await;
            let mut socket = Socket::open_at(service.address, "8", None).await;
            // What is not acknowledged keeps it for a moment.
            database.run("select notifier.send('8', 'info', 'x')").await;
            socket.until(|frame| frame["message"] == "x").await;
            service.begin_to_stop();
            socket.until_op("restarting").await;
            socket.send(last.clone()).await;
            endings.push(socket.ending().await);
            service.stop().await;
        }
    }
}

/// A socket that waits for the database hears nothing before its hello, and of the restart by the code.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_was_not_greeted_is_told_of_a_restart_by_the_code_alone() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let holder = database.superuser().await;
    holder.batch_execute("begin; lock table notifier.revocation").await.unwrap();
    let mut socket = Socket::connect_with(service.address, "8", "", &[V1]).await;
    eventually("it is open", async || service.metric("notifier_sockets").await == 1).await;
    service.begin_to_stop();
    assert_eq!(socket.next().await, Err(Ending::Closed(1012)));
    holder.batch_execute("rollback").await.unwrap();
}
