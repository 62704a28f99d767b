//! `notifier.send`: now, later, and taken back.

use crate::support::{Database, Service, Socket, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_for_later_comes_then_and_can_be_taken_back() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    let later = |message: &str, seconds: &str, key: &str| {
        format!(
            "select notifier.send('8', 'info', '{message}', send_at => clock_timestamp() + interval '{seconds} s', key => {key})"
        )
    };
    // Of one key the last call counts, whichever is due first.
    database.run(&later("replaced", "3600", "'a'")).await;
    database.run(&later("taken back", "3600", "'b'")).await;
    assert!(database.one::<bool>("select notifier.cancel_send('b')").await);
    assert!(!database.one::<bool>("select notifier.cancel_send('b')").await, "twice");
    assert!(!database.one::<bool>("select notifier.cancel_send('never')").await);
    database.run(&later("overtaken", "3600", "'c'")).await;
    database.run("select notifier.send('8', 'info', 'at once', key => 'c')").await;
    assert_eq!(david.frame().await["message"], "at once");
    database.run(&[later("first", "0.2", "'a'"), later("without a key", "0.4", "null")].join("; ")).await;
    assert_eq!(david.frame().await["message"], "first");
    assert_eq!(david.frame().await["message"], "without a key");
    eventually("nothing is left of any of them", || async {
        database.one::<i64>("select count(*) from notifier.scheduled").await == 0
    })
    .await;
    david.nothing_but_a_marker(&database).await;

    // Taken back, and sent again under the same key.
    database.run(&later("old", "3600", "'d'")).await;
    database.run("select notifier.cancel_send('d')").await;
    database.run(&later("new", "0.1", "'d'")).await;
    assert_eq!(david.frame().await["message"], "new");
    david.nothing_but_a_marker(&database).await;
}

/// Two who send under one key never wait for each other.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_nothing_to_wait_for() {
    let database = Database::new().await;
    database.run("grant usage on schema notifier to parking_app; grant execute on all functions in schema notifier to parking_app").await;
    let (one, other) = (database.another_app().await, database.another_app().await);
    let send = "begin; set local lock_timeout = '1ms'; select notifier.send('8', 'info', 'x', send_at => now() + interval '1 hour', key => 'k')";
    one.batch_execute(send).await.unwrap();
    other.batch_execute(send).await.unwrap();
    one.batch_execute("select notifier.cancel_send('k')").await.unwrap();
    other.batch_execute("select notifier.cancel_send('k'); commit").await.unwrap();
    one.batch_execute("commit").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_what_is_sent_later_loses_nothing() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut david = Socket::open(service.address, "8").await;
    let locker = database.superuser().await;
    locker.batch_execute("begin; lock table notifier.scheduled").await.unwrap();
    database
        .run("select notifier.send('8', 'warning', 'later', '{\"a\": 1}', 'x.y', send_at => clock_timestamp() + interval '0.1 s', key => 'k');
              select notifier.send('8', 'info', 'never', send_at => clock_timestamp() + interval '1 hour', key => 'l')")
        .await;
    locker.batch_execute("commit").await.unwrap();
    database.run("select notifier.cancel_send('l')").await;
    let frame = david.frame().await;
    assert_eq!((frame["message"].as_str(), frame["event"].as_str()), (Some("later"), Some("x.y")));
    assert_eq!(frame["data"], serde_json::json!({"a": 1}));
    eventually("the other one is gone, wherever it was", || async {
        let left = "select (select count(*) from notifier.scheduled) + (select count(*) from notifier.spill)";
        database.one::<i64>(left).await == 0
    })
    .await;
    david.nothing_but_a_marker(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_what_is_sent_later_holds_up_nobody_who_takes_back() {
    let database = Database::new().await;
    database.run("select notifier.send('8', 'info', 'never', send_at => now() + interval '1 hour', key => 'k')").await;
    let locker = database.superuser().await;
    locker.batch_execute("begin; lock table notifier.scheduled").await.unwrap();
    // Without a limit it would wait for the locker, which waits for it.
    database.run("set statement_timeout = '30s'; select notifier.cancel_send('k')").await;
    database.run("select notifier.send('8', 'info', 'at once', key => 'k')").await;
    locker.batch_execute("commit").await.unwrap();
    database.run("select notifier.work(); select notifier.work()").await;
    assert_eq!(database.one::<i64>("select count(*) from notifier.scheduled").await, 0);
    assert_eq!(database.one::<i64>("select count(*) from notifier.notification where message = 'at once'").await, 1);
}

/// It was put aside under a lock, another instance moves it just now, and it is taken back: then it stays where it is until that is done.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_aside_and_is_taken_back_is_not_told() {
    let database = Database::new().await;
    let (holder, mover) = (database.superuser().await, database.superuser().await);
    holder.batch_execute("begin; lock table notifier.scheduled in share mode").await.unwrap();
    database.run("select notifier.send('8', 'info', 'x', send_at => now() + interval '1 hour', key => 'k')").await;
    holder.batch_execute("rollback").await.unwrap();
    mover.batch_execute("begin; select from notifier.spill for update").await.unwrap();
    database.run("select notifier.cancel_send('k')").await;
    database.rows("select notifier.work() from generate_series(1, 3)").await;
    mover
        .batch_execute("rollback; update notifier.spill set record = jsonb_set(record, '{send_at}', to_jsonb(now()))")
        .await
        .unwrap();
    database.work().await;
    let left = "select (select count(*) from notifier.notification) + (select count(*) from notifier.scheduled)
                + (select count(*) from notifier.spill)";
    assert_eq!(database.one::<i64>(left).await, 0);
}
