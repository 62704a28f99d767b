//! What one statement tells by the thousand: told before there are rows of it, and whoever asks for it then finds it all the same.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Database, Inbox, Service, Socket, eventually};

/// 1,000 for user 8 and 500 for user 7, by one statement. The service does not make rows of it: it waits for an hour to have passed.
const MANY: &str = "begin;
    insert into payment (booking_id, user_id, amount, status, is_renewal)
    select 104, case n % 3 when 0 then 7 else 8 end, n, 'success', true from generate_series(1, 1500) n;
    update notifier.bulk set created_at = created_at + interval '1 hour';
    commit";

/// Of user 8, as the database has them, by id.
const IDS: &str = "select n.id::text from notifier.notification n where n.user_id = '8' order by n.id";

async fn tell_many(database: &Database) {
    database.superuser().await.batch_execute(MANY).await.unwrap();
}

async fn texts(database: &Database, sql: &str) -> Vec<String> {
    database.rows(sql).await.iter().map(|row| row.get(0)).collect()
}

async fn frames(socket: &mut Socket, count: usize) -> Vec<Value> {
    let mut frames = Vec::new();
    while frames.len() < count {
        frames.push(socket.frame().await);
    }
    frames
}

fn id(frame: &Value) -> String {
    frame["id"].as_str().unwrap_or_else(|| panic!("no notification: {frame}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_row_yet_is_told_found_and_read_as_if_it_were() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut there = Socket::open(service.address, "8").await;
    let before = Socket::open_at(service.address, "8", None).await.hello["cursor"].as_str().unwrap().to_owned();

    tell_many(&database).await;
    let told: Vec<String> = frames(&mut there, 1000).await.iter().map(id).collect();
    assert_eq!(told.iter().collect::<BTreeSet<_>>().len(), 1000, "each once");
    assert!(texts(&database, IDS).await.is_empty(), "there are no rows");

    // All the while it answers pings.
    let mut sorted = told.clone();
    sorted.sort_by_key(|id| id.parse::<i64>().unwrap());
    there.meanwhile(found_and_read(&database, &service, &before, &sorted)).await;
    tokio::select! {
        () = eventually("what was confirmed before there were rows is noted", || async {
            database.one::<i64>("select count(*) from notifier.notification where user_id = '8' and delivered_at is null").await == 0
        }) => {}
        frame = there.frame() => panic!("told again: {frame}"),
    }
}

async fn found_and_read(database: &Database, service: &Service, before: &str, sorted: &[String]) {
    // Who opens now is told the newest, and how many more there are.
    let mut opened = Socket::open(service.address, "8").await;
    assert_eq!(opened.hello["unread"], 1000);
    let newest: Vec<String> = frames(&mut opened, 20).await.iter().map(id).collect();
    assert_eq!(newest, sorted[980..]);
    let more = opened.frame().await;
    assert!(more["message"].as_str().unwrap().contains("980"), "{more}");

    // Who comes back with a cursor is told all of it, page by page.
    let mut back = Socket::open_at(service.address, "8", Some(before)).await;
    assert_eq!(back.hello["resume"], "ok");
    let mut missed = Vec::new();
    while missed.len() < 1000 {
        let frame = back.frame().await;
        missed.push(id(&frame));
        if let Some(cursor) = frame["cursor"].as_str() {
            back.send(Message::Text(json!({"op": "ack", "cursor": cursor}).to_string().into())).await;
        }
    }
    assert_eq!(missed, sorted);

    let inbox = Inbox::of(service, "8");
    let pages = inbox.pages("limit=200").await;
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [200; 5]);
    assert_eq!(pages.concat(), sorted.iter().rev().cloned().collect::<Vec<_>>());
    assert_eq!((inbox.unread().await, Inbox::of(service, "7").unread().await), (1000, 500));

    // What is to be noted is noted in rows, which are made for it, and are what was told.
    assert_eq!(inbox.read(json!({ "ids": &sorted[..3] })).await, 997);
    assert_eq!(texts(database, IDS).await, sorted);
    assert_eq!(database.one::<i64>("select count(distinct xid) from notifier.notification").await, 1);
    assert_eq!(database.one::<i64>("select count(*) from notifier.bulk").await, 0);
}

/// Who looks after events finds it as well, where no service runs that makes rows of it.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_counted_before_there_are_rows_of_it() {
    let database = Database::new().await;
    tell_many(&database).await;
    let lies = database.one::<i64>("select count(*) from notifier.bulk_notification").await;
    assert!(lies > 1_000 && database.one::<i64>("select count(*) from notifier.notification").await == 0);
    let count = "select sum(notifications)::bigint from notifier.event_stats('-infinity')";
    assert_eq!(database.one::<i64>(count).await, lies);
    database.run("select notifier.unfold(b.id) from notifier.bulk b").await;
    assert_eq!(database.one::<i64>(count).await, lies);
}

/// A dump that is restored into a younger cluster names transactions that are still to come here. Rows of ours that are made of it before
/// a new epoch has put that right would pass for rows of such a transaction, and be told again.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_copy_rows_are_made_of_it_when_an_epoch_has_begun() {
    let database = Database::new().await;
    tell_many(&database).await;
    database
        .run(
            "update notifier.bulk set xid = '9000000', created_at = now() - interval '2 seconds';
             update notifier.progress set position = '8999999:8999999:'; update notifier.epoch set system_identifier = 1",
        )
        .await;
    assert!(database.one::<f64>("select notifier.work()").await > 0.0, "nothing to be done at once");
    let made = database.owner.query("select notifier.unfold(b.id) from notifier.bulk b", &[]).await;
    assert_eq!(made.unwrap_err().code().map(|code| code.code().to_owned()).as_deref(), Some("55000"));
    database.run("select notifier.new_epoch()").await;
    database.work().await;
    let xids = "select count(*), count(*) filter (where xid = '3') from notifier.notification";
    let rows = database.owner.query_one(xids, &[]).await.unwrap();
    let (all, older) = (rows.get::<_, i64>(0), rows.get::<_, i64>(1));
    assert!(all > 1_000 && older == all, "{older} of {all} are older than every position");
}

/// One user's marks wait for nobody who makes rows of what lies beside another's.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_a_row_is_marked_whatever_lies_there() {
    let database = Database::new().await;
    database.run("select notifier.send('8', 'info', 'x')").await;
    let id = texts(&database, IDS).await.remove(0);
    tell_many(&database).await;
    let other = database.anew().await.owner;
    other.batch_execute("begin; select from notifier.bulk for update").await.unwrap();
    let mark = format!("select held from notifier.mark_read('8', '{{{id}}}', null, null)");
    let held: Vec<i64> = database.owner.query_one(&mark, &[]).await.unwrap().get(0);
    assert!(held.is_empty(), "{held:?}");
    assert_eq!(database.one::<i64>("select count(*) from notifier.notification where read_at is not null").await, 1);
}

/// Nobody is rung here: it is found by the read that comes once a second. And rows are made of it without anybody's asking.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_bell_it_is_found_and_made_rows_of() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "8").await;
    database
        .write(
            "set notifier.doorbell = off;
             insert into payment (booking_id, user_id, amount, status, is_renewal)
             select 104, 8, n, 'success', true from generate_series(1, 1200) n",
        )
        .await;
    let told: BTreeSet<String> = frames(&mut socket, 1200).await.iter().map(id).collect();
    let rows = eventually("rows are made of it", || async {
        database.one::<i64>("select count(*) from notifier.bulk").await == 0
    });
    socket.meanwhile(rows).await;
    assert_eq!(BTreeSet::from_iter(texts(&database, IDS).await), told);
    socket.nothing_but_a_marker(&database).await;
}

/// However long the messages are: a row of it is read in one piece.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_long_lies_in_more_rows() {
    let database = Database::new().await;
    database
        .run(
            "create table public.news (id int primary key, text text); grant all on public.news to parking_app;
             select notifier.define_event('news.told', 'public.news', 'insert', 'info', '{text}',
               'select 8 as user_id, id, text from new')",
        )
        .await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "8").await;
    database.write("insert into news select n, repeat('x', 5000) from generate_series(1, 2000) n").await;
    let largest = "select coalesce(max(pg_column_size(messages) + pg_column_size(data)), 0) from notifier.bulk";
    assert!(database.one::<i32>(largest).await < 600_000);
    let told: BTreeSet<String> = frames(&mut socket, 2000).await.iter().map(id).collect();
    assert_eq!(told.len(), 2000);
}

/// In each snapshot a notification is in one of two places, and a position says the same of both.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_read_once_from_wherever_it_lies() {
    let database = Database::new().await;
    let before: String = database.one("select pg_current_snapshot()::text").await;
    tell_many(&database).await;
    let after: String = database.one("select pg_current_snapshot()::text").await;

    let read = |position: &str| {
        format!(
            "select coalesce(r.id, u.id)::text from notifier.read_on('{position}') r left join lateral unnest(r.ids) u(id) on true
             where r.position is null and coalesce(r.user_id, r.users[array_position(r.ids, u.id)]) = '8' order by 1"
        )
    };
    // As the release before this reads it.
    let stream = |position: &str, columns: bool| {
        let id = if columns { "s.id::text" } else { "s.notification::jsonb ->> 'id'" };
        let user = if columns { "s.user_id" } else { "s.notification::jsonb ->> 'user_id'" };
        format!(
            "select {id} from notifier.stream('{position}', {columns}) s where s.position is null and {user} = '8' order by 1"
        )
    };
    // Pages of what user 8 missed, and rows are made of it after so many of them.
    let pages = |rows_after: usize| {
        let (database, before) = (&database, &before);
        async move {
            let (mut within, mut last, mut all) = ("null".to_owned(), "0".to_owned(), Vec::new());
            for page in 0.. {
                if page == rows_after {
                    database.run("select notifier.unfold(b.id) from notifier.bulk b").await;
                }
                let sql = format!(
                    "select m.position, array(select n::jsonb ->> 'id' from unnest(m.notifications) n)
                     from notifier.missed(array['8'], array['{before}'], array[{within}]::text[], array[{last}], 300) m"
                );
                let row = &database.rows(&sql).await[0];
                let ids: Vec<String> = row.get(1);
                let Some(id) = ids.last() else { break };
                (within, last) = (format!("'{}'", row.get::<_, String>(0)), id.clone());
                all.extend(ids);
            }
            all
        }
    };

    let there = texts(&database, &read(&before)).await;
    assert_eq!(there.iter().collect::<BTreeSet<_>>().len(), 1000);
    assert!(texts(&database, &read(&after)).await.is_empty());
    assert_eq!(texts(&database, &stream(&before, true)).await, there);
    assert_eq!(texts(&database, &stream(&before, false)).await, there);
    let mut paged = pages(2).await;
    paged.sort();
    assert_eq!(paged, there, "rows were made of it between two pages");

    // Now it lies in rows.
    assert_eq!(database.one::<i64>("select count(*) from notifier.bulk").await, 0);
    assert_eq!(texts(&database, &read(&before)).await, there);
    assert!(texts(&database, &read(&after)).await.is_empty(), "whoever has read it does not read it again");
    assert_eq!(texts(&database, &stream(&before, true)).await, there);
    paged = pages(usize::MAX).await;
    paged.sort();
    assert_eq!(paged, there);
}
