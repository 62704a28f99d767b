//! Another history of the database: restarts, restores, and names that change.

use crate::support::{Database, Service, Socket, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_gets_another_name_is_followed_and_the_old_one_is_nobodys() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "8").await;
    let name = "select value from notifier.setting where name = 'channel'";
    let old: String = database.one(name).await;
    database.run("select notifier.rotate_channel()").await;
    let new: String = database.one(name).await;
    assert_ne!(old, new);
    let malformed = async || service.metric("notifier_malformed_payloads_total").await;
    eventually("the new name is listened to", async || {
        database.run(&format!("notify {new}, 'nonsense'")).await;
        malformed().await > 0
    })
    .await;
    // What is sent on the old channel would arrive before what is sent on the new one after it.
    database.run(&format!("notify {new}, 'counted'")).await;
    let before = malformed().await;
    database.run(&format!("notify {old}, 'unheard'; notify {new}, 'heard'")).await;
    eventually("the last one is heard", async || malformed().await > before).await;
    socket.nothing_but_a_marker(&database).await;
    assert_eq!(service.metric("notifier_listener_connects_total").await, 1, "on the same connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_epoch_reaches_open_sockets_and_loses_and_doubles_nothing() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut plain = Socket::open(service.address, "8").await;
    let mut keeper = Socket::open_at(service.address, "8", None).await;
    database.run("select notifier.send('8', 'info', 'before')").await;
    assert_eq!(plain.frame().await["message"], "before");
    database.run("select notifier.new_epoch()").await;
    database.run("select notifier.send('8', 'info', 'after')").await;
    assert_eq!(plain.frame().await["message"], "after");
    let epoch: String = database.epoch().await;
    let mut messages = Vec::new();
    // The first cursor of the new epoch, and whether it came before what was told in it: then it does not hold that.
    let mut cursor = None;
    while cursor.is_none() || messages.len() < 2 {
        let frame = keeper.frame().await;
        messages.extend(frame["message"].as_str().map(str::to_owned));
        if cursor.is_none() && frame["op"] == "beat" && frame["epoch"] == epoch.as_str() {
            cursor = Some((frame["cursor"].as_str().unwrap().to_owned(), messages.len() < 2));
        }
    }
    let (cursor, earlier) = cursor.unwrap();
    assert_eq!(messages, ["before", "after"]);
    plain.nothing_but_a_marker(&database).await;
    let stale = Socket::open_at(service.address, "8", keeper.hello["cursor"].as_str()).await;
    assert_eq!(stale.hello["resume"], "gap");
    let mut fresh = Socket::open_at(service.address, "8", Some(&cursor)).await;
    assert_eq!(fresh.hello["resume"], "ok");
    if earlier {
        fresh.until(|frame| frame["message"] == "after").await;
    }
    assert_eq!(
        database.one::<i64>("select count(*) from notifier.epoch where reason like 'new_epoch() by %'").await,
        1
    );
}

/// Rows of another cluster name transactions that this one has not reached: they must not be taken for new ones, now or later.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_goes_on_and_tells_no_old_row_again() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "8").await;
    let superuser = database.superuser().await;
    // As a dump and its restore into a younger cluster leave it. Nobody reads it before the service has to connect anew.
    superuser
        .batch_execute(
            "begin;
             lock table notifier.epoch;
             insert into notifier.notification (slot, xid, user_id, event, level, message, data, created_at)
             select notifier.slot(now()), (pg_current_xact_id()::text::bigint + 5000000)::text::xid8, '8', 'e', 'info', 'old ' || n, '{}', now()
             from generate_series(1, 4) n;
             insert into notifier.bulk (id, slot, xid, event, level, created_at, ids, users, messages, data)
             select n, notifier.slot(now()), (pg_current_xact_id()::text::bigint + 5000000)::text::xid8, 'e', 'info', now(), array[n],
                    array['8'], array['old 5'], array['{}'::jsonb]
             from nextval('notifier.notification_id') n;
             update notifier.epoch set system_identifier = 1;
             update notifier.progress set position = '5000000000:5000000000:';
             update notifier.timer set barrier = '5000000000'",
        )
        .await
        .unwrap();
    // Before anybody has noticed; the row's version is of the savepoint's transaction, and the row of the whole one.
    database
        .run("begin; set local notifier.doorbell = off; savepoint s; select notifier.send('8', 'info', 'in a savepoint'); release s; commit")
        .await;
    superuser
        .batch_execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
             and application_name = 'parkmate-notifier';
             commit",
        )
        .await
        .unwrap();
    assert_eq!(socket.frame().await["message"], "in a savepoint");
    database.run("select notifier.send('8', 'info', 'new')").await;
    assert_eq!(socket.frame().await["message"], "new");
    socket.nothing_but_a_marker(&database).await;
    let reason: String = database.one("select reason from notifier.epoch order by number desc limit 1").await;
    assert_eq!(reason, "restored into another database");
    eventually("all are rows, as old as can be", || async {
        database.one::<i64>("select count(*) from notifier.notification where xid = '3'").await == 5
    })
    .await;
    // What no device had confirmed is still told to the next.
    let mut next = Socket::open(service.address, "8").await;
    let mut messages = Vec::new();
    while messages.len() < 5 {
        messages.push(next.frame().await["message"].as_str().unwrap().to_owned());
    }
    assert_eq!(messages, ["old 1", "old 2", "old 3", "old 4", "old 5"]);
}

/// What is committed here while the epoch begins is of this cluster, however late: it must not be taken for a copy.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_committed_while_a_restored_database_is_put_right_is_told() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "8").await;
    let superuser = database.superuser().await;
    // The epoch is held up half-way: it has begun to look at what there is, and has not come to the notifications.
    superuser.batch_execute("begin; select from notifier.progress for update").await.unwrap();
    let other = database.superuser().await;
    other.batch_execute("update notifier.epoch set system_identifier = 1").await.unwrap();
    superuser
        .batch_execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
             and application_name = 'parkmate-notifier'",
        )
        .await
        .unwrap();
    eventually("the epoch begins", async || database.waiting_in("identify").await == 1).await;
    database
        .run("begin; set local notifier.doorbell = off; select notifier.send('8', 'info', 'meanwhile'); commit")
        .await;
    superuser.batch_execute("commit").await.unwrap();
    assert_eq!(socket.frame().await["message"], "meanwhile");
    socket.nothing_but_a_marker(&database).await;
    let reason: String = database.one("select reason from notifier.epoch order by number desc limit 1").await;
    assert_eq!(reason, "restored into another database");
}

/// What was written here since is told from what was copied by the version of our own state: whoever writes to that begins the epoch first.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_first_to_a_restored_database_keeps_its_new_rows_apart() {
    let database = Database::new().await;
    let superuser = database.superuser().await;
    for copy in [
        "notifier.epoch set system_identifier = 1",
        "notifier.epoch set database = 1",
        "notifier.progress set position = '5000000000:5000000000:'",
    ] {
        for first in ["become_relay", "sweep", "work"] {
            let restored = format!(
                "begin;
                 truncate notifier.notification;
                 insert into notifier.notification (slot, xid, user_id, event, level, message, data, created_at)
                 values (notifier.slot(now()), (pg_current_xact_id()::text::bigint + 5000000)::text::xid8, '8', 'e', 'info', 'copied', '{{}}', now());
                 update notifier.progress set swept_at = '2000-01-01';
                 update {copy};
                 commit"
            );
            superuser.batch_execute(&restored).await.unwrap();
            database.run("select notifier.send('8', 'info', 'written here')").await;
            database.rows(&format!("select notifier.{first}()")).await;
            database.rows("select notifier.identify('')").await;
            let older = "select string_agg(message, ', ') from notifier.notification where xid = '3'";
            assert_eq!(database.one::<String>(older).await, "copied", "{first}, {copy}");
        }
    }
}

/// A dump holds unlogged tables as well: after its restore the incarnation says what it said, and ids come back all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_into_the_same_database_begins_an_epoch() {
    let database = Database::new().await;
    let because = "select coalesce(notifier.begun_because(), 'none')";
    assert_eq!(database.one::<String>(because).await, "none");
    // As `pg_restore --clean` does.
    database
        .run(
            "create temp table dumped as table notifier.incarnation; truncate notifier.incarnation;
             insert into notifier.incarnation table dumped",
        )
        .await;
    assert_eq!(database.one::<String>(because).await, "restored");
    database.rows("select notifier.identify('')").await;
    // In a savepoint as well, as `work()` does it.
    database
        .run(
            "update notifier.incarnation set written_by = 1;
             do $$ begin perform notifier.identify(''); exception when others then raise; end $$",
        )
        .await;
    assert_eq!(database.one::<String>(because).await, "none");
    let reasons = "select string_agg(reason, ', ' order by number desc) from (select * from notifier.epoch order by number desc limit 2) e";
    assert_eq!(database.one::<String>(reasons).await, "restored, restored");
}

/// Logical replication brings rows and no sequences: a number that came twice would fail the application's write.
#[tokio::test(flavor = "multi_thread")]
async fn sequences_that_are_behind_their_tables_are_put_right_by_an_epoch() {
    let database = Database::new().await;
    let later = "select notifier.send('8', 'info', 'x', send_at => now() + interval '1 hour')";
    let arm = "insert into booking (user_id, slot_id, end_time) values (8, 11, now() + interval '1 day')";
    database.run(later).await;
    database.write(arm).await;
    database.run("select notifier.send('8', 'info', 'x'); select notifier.revoke_user('9')").await;
    database
        .run(
            "select setval(s, 1, false) from unnest(array['notifier.notification_id', 'notifier.timer_id_seq',
                 'notifier.scheduled_id_seq', 'notifier.revocation_id_seq']) s;
             update notifier.epoch set database = 1;
             select * from notifier.new_epoch()",
        )
        .await;
    database.run(later).await;
    database.write(arm).await;
    database.run("select notifier.send('8', 'info', 'x'); select notifier.revoke_user('9')").await;
    let spilled = "select count(*) from notifier.spill";
    assert_eq!(database.one::<i64>(spilled).await, 0);
}

/// A clone tells nobody what its origin has told, or was about to.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_to_be_sent_before_a_new_epoch_is_not_sent_in_it() {
    let database = Database::new().await;
    database
        .run(
            "select notifier.send('8', 'info', 'past', send_at => now() + interval '1 hour');
             select notifier.send('8', 'info', 'to come', send_at => now() + interval '2 hours');
             update notifier.scheduled set send_at = now() - interval '1 minute' where message = 'past'",
        )
        .await;
    let said: String = database.one("select string_agg(l, E'\n') from notifier.new_epoch() l").await;
    assert!(said.contains("1 notifications that were to be sent by now are dropped"), "{said}");
    database.rows("select notifier.work() from generate_series(1, 3)").await;
    assert_eq!(database.one::<i64>("select count(*) from notifier.notification").await, 0);
    assert_eq!(database.one::<String>("select message from notifier.scheduled").await, "to come");
}

/// An instance that was away while several epochs began goes on from the oldest of them.
#[tokio::test(flavor = "multi_thread")]
async fn no_epoch_is_skipped_by_an_instance_that_was_away() {
    let database = Database::new().await;
    let known: String = database.one("select epoch from notifier.identify('')").await;
    for position in ["700:700:", "800:800:"] {
        database
            .run(&format!("update notifier.progress set position = '{position}'; select notifier.new_epoch()"))
            .await;
    }
    let same =
        async |known: &str| database.one::<String>(&format!("select position from notifier.identify('{known}')")).await;
    assert_eq!(same(&known).await, "700:700:");
    let newest: String = database.epoch().await;
    assert_eq!((same(&newest).await.as_str(), same("unknown").await.as_str()), ("800:800:", "800:800:"));
    // A promotion left the newest behind: the one before counts.
    assert_eq!(same(&format!("{known},lost with the primary")).await, "700:700:");
    // The server was restarted and nobody has said so yet: what is noted for the old epoch may be of what was lost.
    database.run("update notifier.incarnation set started_at = now()").await;
    let noted = "select position::text from notifier.progress";
    database.run(&format!("select notifier.note_position('{newest}', '900:900:')")).await;
    assert_eq!(database.one::<String>(noted).await, "800:800:");
    // As it was: the row's version is of the transaction that it names.
    database
        .run(
            "update notifier.incarnation set started_at = pg_postmaster_start_time();
             update notifier.incarnation set written_by = xmin::text::bigint",
        )
        .await;
    // Noted in one epoch, nothing holds in the next; and nothing moves back.
    database.run(&format!("select notifier.note_position('{known}', '900:900:')")).await;
    assert_eq!(database.one::<String>(noted).await, "800:800:");
    database.run(&format!("select notifier.note_position('{newest}', '900:900:')")).await;
    database.run(&format!("select notifier.note_position('{newest}', '850:850:')")).await;
    assert_eq!(database.one::<String>(noted).await, "900:900:");
}

/// An id that came back as another row's is not confirmed by a pong for the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_is_of_a_row_and_not_of_its_id() {
    let database = Database::new().await;
    database.run("select notifier.send('8', 'info', 'hello')").await;
    let confirm = async |off: i64| {
        let sql = format!(
            "select c.confirmed from notifier.notification n, lateral notifier.confirm(array[n.id], array[n.slot],
             array[(extract(epoch from n.created_at) * 1000000)::bigint + {off}]) c"
        );
        database.one::<i64>(&sql).await
    };
    assert_eq!((confirm(1).await, confirm(0).await, confirm(0).await), (0, 1, 0));
}

/// Neighbours are found together, and confirmed one by one.
#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_leaves_out_what_is_held_and_what_is_between() {
    let database = Database::new().await;
    database.run("select notifier.send('8', 'info', n::text) from generate_series(1, 100) n").await;
    // Every second one, and each also as a row that a crash took and that had its id.
    let confirm = "select array[c.confirmed] || c.held from (
          select array_agg(n.id) as ids, array_agg(n.slot) as slots,
                 array_agg((extract(epoch from n.created_at) * 1000000)::bigint) as created
          from notifier.notification n where n.message::integer % 2 = 0
        ) k, lateral (select array_agg(o - 5000000) as before from unnest(k.created) o) o,
        lateral notifier.confirm(k.ids || k.ids, k.slots || k.slots, o.before || k.created) c";
    let held: Vec<i64> =
        database.one("select array_agg(id) from notifier.notification where message in ('7', '8')").await;
    let holder = database.superuser().await;
    holder
        .batch_execute("begin; select from notifier.notification where message in ('7', '8') for update")
        .await
        .unwrap();
    assert_eq!(database.one::<Vec<i64>>(confirm).await, [49, held[1]]);
    holder.batch_execute("rollback").await.unwrap();
    assert_eq!(database.one::<Vec<i64>>(confirm).await, [1]);
    let even = "select bool_and((message::integer % 2 = 0) = (delivered_at is not null)) from notifier.notification";
    assert!(database.one::<bool>(even).await);
}

/// A mailbox that was full when the epoch began: what waits in it can be acknowledged, and what follows comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_has_fallen_behind_goes_on_in_another_epoch() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open_at(service.address, "8", None).await;
    database.run("select notifier.send('8', 'info', n::text) from generate_series(1, 900) n").await;
    eventually("all is published", async || service.metric("notifier_published_total").await == 900).await;
    database.run("select notifier.new_epoch(); select notifier.send('8', 'info', '901')").await;
    let mut told = std::collections::BTreeSet::new();
    while told.len() < 901 {
        let frame = socket.frame().await;
        if let Some(message) = frame["message"].as_str() {
            assert!(told.insert(message.parse::<i32>().unwrap()), "twice: {frame}");
        }
        if frame["cursor"].is_string() {
            let ack = serde_json::json!({"op": "ack", "cursor": frame["cursor"]}).to_string();
            socket.send(tokio_tungstenite::tungstenite::Message::Text(ack.into())).await;
        }
    }
    socket.nothing_but_a_marker(&database).await;
}
