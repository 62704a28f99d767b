//! The relay: when writers NOTIFY and when it tells for them, what it says on the channel, and that one of yesterday says nothing.

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::checker::Place;
use crate::support::server::Server;
use crate::support::{Database, LIMIT, Service, Socket, database, eventually};
use crate::survival::listen;

/// As a DBA who wants writers never to NOTIFY, and the relay to read for them.
async fn set_doorbell(database: &Database, value: &str) {
    let sql = format!("alter database {} set notifier.doorbell = '{value}'", database.name);
    database.superuser().await.batch_execute(&sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_busy_the_relay_tells_for_the_writers_and_says_from_where_to_where() {
    for _ in 0..5 {
        if tells_for_the_writers().await.is_some() {
            return;
        }
    }
    panic!("no relay led for long enough");
}

/// Nothing where the relay had to stop for seconds and lost the lead: the next one begins where this instance has read to.
async fn tells_for_the_writers() -> Option<()> {
    let database = Database::new().await;
    set_doorbell(&database, "off").await;
    let service = Service::on(&database).await;
    let (_listening, mut heard) = listen(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    eventually("the relay is busy", || async { service.metric("notifier_relay_busy").await == 1 }).await;

    let led = database.generation().await;
    let mut next = async || -> Option<Value> {
        let payload = timeout(LIMIT, heard.recv()).await.expect("there are beats at least").unwrap();
        (database.generation().await == led).then(|| serde_json::from_str(&payload).unwrap())
    };

    let mut position = None;
    for (what, rows) in [("a few", 3), ("as many as a NOTIFY holds, and more", 60)] {
        database
            .write(&format!(
                "insert into payment (booking_id, user_id, amount, status, is_renewal)
                 select 104, 8, n, 'success', true from generate_series(1, {rows}) n"
            ))
            .await;
        let mut told = 0;
        loop {
            let payload = next().await?;
            if let Some(several) = payload.as_array() {
                assert!(several.iter().all(|one| one["user_id"] == "8" && one["event"] == "booking.renewed"), "{what}");
                told += several.len();
            } else if let Some(since) = payload["since"].as_str() {
                told += payload["told"].as_array().unwrap().len();
                assert_eq!(told, rows, "{what}: the rows stand in it and before it");
                // One follows the other, whatever was read in between and found empty.
                assert!(
                    position.replace(payload["position"].clone()).is_none_or(|position| position == since),
                    "{what}"
                );
                break;
            }
        }
        for _ in 0..rows {
            assert_eq!(david.frame().await["event"], "booking.renewed", "{what}");
        }
    }

    for (what, sql) in [
        ("too large", "select notifier.send('8', 'info', repeat('x', 20000))"),
        ("too many", "select notifier.send('8', 'info', 'x') from generate_series(1, 1500)"),
    ] {
        let rows = if what == "too large" { 1 } else { 1500 };
        database.run(sql).await;
        let payload = loop {
            let payload = next().await?;
            if payload["beat"].is_null() {
                break payload;
            }
            assert!(payload["since"].is_null(), "{what}: claims what it did not tell");
        };
        assert_eq!(payload["read"], true, "{what}");
        for _ in 0..rows {
            assert_eq!(david.frame().await["event"], "message", "{what}");
        }
    }
    david.nothing_but_a_marker(&database).await;
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_follows_the_databases_setting_of_the_doorbell() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    eventually("writers announce", || service.is_announced_to()).await;
    set_doorbell(&database, "off").await;
    eventually("the relay is busy", || async { service.metric("notifier_relay_busy").await == 1 }).await;
    let rung = || async { database.superuser().await.query_one("select notifier.rung()", &[]).await.unwrap() };
    assert!(!rung().await.get::<_, bool>(0));
    set_doorbell(&database, "auto").await;
    eventually("writers announce again", || service.is_announced_to()).await;
    eventually("they find the bell", || async { rung().await.get(0) }).await;
    service.stop().await;
    eventually("they find no bell, since nobody is there to hear it", || async { !rung().await.get::<_, bool>(0) })
        .await;
    set_doorbell(&database, "on").await;
    assert!(rung().await.get::<_, bool>(0), "they announce whether somebody asks or not");
}

/// With a disk that takes its time writers that NOTIFY commit one after the other. The relay sees the line.
#[tokio::test(flavor = "multi_thread")]
async fn writers_that_stand_in_line_make_the_relay_busy_and_calm_makes_it_quiet() {
    let server = Server::start(&["fsync = on", "commit_delay = 20000", "commit_siblings = 0"]).await;
    let place = server.place();
    let service = Service::at(&place.url("parkmate")).await;
    eventually("writers announce", || service.is_announced_to()).await;
    let mut writers = stand_in_line(&place).await;
    eventually("the relay is busy", || async { service.metric("notifier_relay_busy").await == 1 }).await;
    writers.shutdown().await;
    eventually("writers announce again", || service.is_announced_to()).await;
}

/// Somebody's long transaction keeps the relay from knowing that nobody writes silently any more. It looks at the line all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_transaction_does_not_keep_the_relay_from_the_line() {
    let server = Server::start(&["fsync = on", "commit_delay = 20000", "commit_siblings = 0"]).await;
    let place = server.place();
    let long = database::connect(&place.url("parking_app")).await;
    long.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
    let service = Service::at(&place.url("parkmate")).await;
    eventually("writers announce", || service.is_announced_to()).await;
    let writers = stand_in_line(&place).await;
    eventually("the relay is busy", || async { service.metric("notifier_relay_busy").await == 1 }).await;
    drop(writers);
    long.batch_execute("commit").await.unwrap();
}

/// Eight writers that renew bookings for ever.
async fn stand_in_line(place: &Place) -> JoinSet<()> {
    let mut writers = JoinSet::new();
    for _ in 0..8 {
        let app = database::connect(&place.url("parking_app")).await;
        writers.spawn(async move {
            loop {
                let renewal = "insert into payment (booking_id, user_id, amount, status, is_renewal)
                               values (104, 8, 1, 'success', true)";
                app.batch_execute(renewal).await.unwrap();
            }
        });
    }
    writers
}

/// Whatever an advisory lock says: a relay of another generation says nothing, and steps down.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_of_yesterday_is_fenced_off() {
    let database = Database::new().await;
    let (_listening, mut heard) = listen(&database).await;
    let old = database.superuser().await;
    let generation: i64 = old.query_one("select notifier.become_relay()", &[]).await.unwrap().get(0);
    let epoch = database.epoch().await;
    let position: String = database.one("select pg_current_snapshot()::text").await;
    let pass_on = format!("select new_rows from notifier.pass_on({generation}, '{epoch}', '{position}', '{position}')");
    database.run("select notifier.send('8', 'info', 'x')").await;
    assert_eq!(old.query_one(&pass_on, &[]).await.unwrap().get::<_, i64>(0), 1);
    let told: Value = serde_json::from_str(&heard.recv().await.unwrap()).unwrap();
    assert_eq!((told["told"].as_array().unwrap().len(), &told["since"]), (1, &Value::from(position)));

    // Somebody ends the session that holds the lock of the lead, say, and the old relay does not know.
    database.run("update notifier.progress set generation = generation + 1").await;
    for speak in [
        pass_on.as_str(),
        &format!("select * from notifier.tend({generation})"),
        &format!("select notifier.hang_bell({generation})"),
    ] {
        let refused = old.query(speak, &[]).await.unwrap_err();
        assert_eq!(refused.as_db_error().unwrap().message(), "another instance is the relay", "{speak}");
    }
    database.run("select pg_notify(value, 'mark') from notifier.setting where name = 'channel'").await;
    assert_eq!(heard.recv().await.unwrap(), "mark", "what was refused said nothing");
    database.run("select notifier.new_epoch()").await;
    let pass_on = pass_on.replace(&format!("on({generation},"), &format!("on({},", generation + 1));
    let refused = old.query(&pass_on, &[]).await.unwrap_err();
    assert_eq!(refused.as_db_error().unwrap().message(), "another epoch has begun");
}

/// Where no transaction has begun or ended since, the relay looks at no rows; one that was open all the time is found when it ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_of_the_relay_after_which_nothing_ended_finds_the_same_position() {
    let database = Database::new().await;
    let (relay, writer) = (database.superuser().await, database.superuser().await);
    let generation: i64 = relay.query_one("select notifier.become_relay()", &[]).await.unwrap().get(0);
    let epoch = database.epoch().await;
    writer.batch_execute("begin; select notifier.send('8', 'info', 'x')").await.unwrap();
    let found = async |position: &str| {
        let pass_on = format!("select * from notifier.pass_on({generation}, '{epoch}', '{position}', '{position}')");
        let row = relay.query_one(&pass_on, &[]).await.unwrap();
        (row.get::<_, String>(0), row.get::<_, i64>(1))
    };
    let mut tries = 0;
    let position = loop {
        let position: String = database.one("select pg_current_snapshot()::text").await;
        if found(&position).await == (position.clone(), 0) {
            break position;
        }
        // Other databases of the server share its transactions: one of theirs may have ended between.
        tries += 1;
        assert!(tries < 200, "another position each time");
    };
    writer.batch_execute("commit").await.unwrap();
    let (after, rows) = found(&position).await;
    assert_eq!((after != position, rows), (true, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_generation_has_passed_takes_another() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    eventually("writers announce", || service.is_announced_to()).await;
    let before = database.generation().await;
    database.run("update notifier.progress set generation = generation + 1").await;
    eventually("it is the relay once more", || async {
        database.generation().await >= before + 2 && service.is_announced_to().await
    })
    .await;
    database.write("update payment set status = 'verified' where id = 204").await;
    assert_eq!(david.frame().await["event"], "payment.verified");
    david.nothing_but_a_marker(&database).await;
}
