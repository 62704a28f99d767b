//! The REST inbox: reading what one was told, page by page, and marking it as read, from several devices at once.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use parkmate_notifier::store::Store;
use serde_json::{Value, json};

use crate::support::{Database, Inbox, Service, Socket, eventually};

/// Rows spread over the ring's leaves, told and read by nobody, of the users in turn. Their ids ascend in every order but that
/// of the days.
async fn fill(database: &Database, users: &[&str], count: usize) {
    let users = users.join("', '");
    let sql = format!(
        "insert into notifier.notification (slot, user_id, event, level, message, data, created_at)
         select notifier.slot(t), u.ids[1 + g % cardinality(u.ids)], 'payment.verified', 'success', 'number ' || g, '{{}}', t
         from (select g, now() - (g * 7 % 15) * interval '1 day' as t from generate_series(0, {count} - 1) g) x,
              (select array['{users}'] as ids) u"
    );
    database.run(&sql).await;
}

async fn ids(database: &Database, condition: &str) -> Vec<String> {
    let sql = format!("select n.id::text from notifier.notification n where {condition} order by n.id desc");
    database.rows(&sql).await.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_hold_every_notification_once_newest_first() {
    let database = Database::new().await;
    fill(&database, &["u", "another", "u\" or 1=1"], 1500).await;
    database.run("update notifier.notification set read_at = now() where user_id = 'u' and id % 4 <> 0").await;
    let service = Service::on(&database).await;
    let inbox = Inbox::of(&service, "u");
    for (query, condition) in [("", "user_id = 'u'"), ("&unread=true", "user_id = 'u' and read_at is null")] {
        let expected = ids(&database, condition).await;
        assert!(expected.len() > 100);
        for limit in [7, 50, 100, 200] {
            let pages = inbox.pages(&format!("limit={limit}{query}")).await;
            assert_eq!(pages.concat(), expected, "limit {limit}");
            assert_eq!(pages.len(), expected.len().div_ceil(limit), "limit {limit}: no page is empty or short");
        }
    }
    assert_eq!(inbox.list("").await["notifications"].as_array().unwrap().len(), 50);
    assert_eq!(inbox.list("before=0").await, json!({"notifications": [], "next": null}));
    assert_eq!(Inbox::of(&service, "nobody").list("unread=true").await, json!({"notifications": [], "next": null}));
}

/// A page is bounded in bytes as well, and goes on after them.
#[tokio::test(flavor = "multi_thread")]
async fn large_notifications_make_shorter_pages() {
    let database = Database::new().await;
    database
        .run("select notifier.send('u', 'info', repeat('x', 300000 * (1 + g % 5))) from generate_series(1, 9) g")
        .await;
    let service = Service::on(&database).await;
    let pages = Inbox::of(&service, "u").pages("limit=200").await;
    assert_eq!(pages.concat(), ids(&database, "true").await);
    assert!(pages.len() > 3 && pages.iter().all(|page| !page.is_empty()), "{pages:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_is_its_frame_and_what_has_become_of_it() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut dora = Socket::open(service.address, "7").await;
    let inbox = Inbox::of(&service, "7");
    database.write("update payment set status = 'verified' where id = 201").await;
    let mut frame = dora.frame().await;
    assert_eq!(frame.as_object_mut().unwrap().remove("replayed"), Some(json!(false)));

    let item = async || inbox.list("limit=1").await["notifications"][0].take();
    // The socket answers pings while it reads.
    tokio::spawn(async move { dora.next().await });
    eventually("its delivery is noted", || async { item().await["delivered_at"].is_string() }).await;
    let mut told = item().await;
    let became = ["until", "delivered_at", "read_at"].map(|key| told.as_object_mut().unwrap().remove(key).unwrap());
    assert_eq!(told, frame);
    assert_eq!((&became[0], &became[2]), (&Value::Null, &Value::Null));
    assert!(became[1].as_str() >= frame["created_at"].as_str(), "{became:?}");

    assert_eq!(inbox.read(json!({"ids": [told["id"]]})).await, 0);
    assert!(item().await["read_at"].as_str() >= frame["created_at"].as_str());
    for (until, told) in [
        ("2031-02-03 04:05:06.7+02", json!("2031-02-03T02:05:06.700000Z")),
        ("infinity", Value::Null),
        ("-infinity", Value::Null),
        ("20000-01-01", Value::Null),
    ] {
        database.run(&format!("update notifier.notification set until = '{until}'")).await;
        assert_eq!(item().await["until"], told);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_some_or_all_are_marked_and_only_ones_own() {
    let database = Database::new().await;
    fill(&database, &["u", "v"], 40).await;
    let service = Service::on(&database).await;
    let (u, v) = (Inbox::of(&service, "u"), Inbox::of(&service, "v"));
    let (own, foreign) = (ids(&database, "user_id = 'u'").await, ids(&database, "user_id = 'v'").await);
    assert_eq!(u.unread().await, 20);

    assert_eq!(u.read(json!({"ids": [own[0]]})).await, 19);
    let read_at = database.one::<String>("select max(read_at)::text from notifier.notification").await;
    assert_eq!(u.read(json!({"ids": [own[0], own[0]]})).await, 19, "again, and twice");
    assert_eq!(database.one::<String>("select max(read_at)::text from notifier.notification").await, read_at);
    let number: u64 = own[1].parse().unwrap();
    assert_eq!(u.read(json!({"ids": [number, own[2], foreign[0], "0", "9223372036854775807"]})).await, 17);
    assert_eq!(v.unread().await, 20, "another's were left alone");

    // `before` is inclusive: the newest id that was shown.
    assert_eq!(u.read(json!({"before": own[10]})).await, 7);
    assert_eq!(ids(&database, "user_id = 'u' and read_at is null").await, own[3..10]);
    assert_eq!(u.pages("unread=true&limit=5").await.concat(), own[3..10]);
    assert_eq!(u.read(json!({"before": foreign[19]})).await, 7, "an id of another's is a limit like any other");
    assert_eq!(u.read(json!({"before": "9223372036854775807"})).await, 0);
    assert_eq!(v.unread().await, 20, "another's were left alone");
}

/// Counting stops, marking does not.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_are_counted_as_a_thousand_and_marked_at_once() {
    let database = Database::new().await;
    fill(&database, &["u"], 11_000).await;
    let service = Service::on(&database).await;
    let inbox = Inbox::of(&service, "u");
    assert_eq!(inbox.unread().await, 1000);
    let all = ids(&database, "true").await;
    assert_eq!(inbox.read(json!({"ids": all[..1000]})).await, 1000);
    assert_eq!(inbox.read(json!({"before": all[0]})).await, 0);
    assert_eq!(ids(&database, "read_at is null").await, Vec::<String>::new());
}

/// Rule 21. Without an order of locking these deadlock.
#[tokio::test(flavor = "multi_thread")]
async fn devices_that_mark_the_same_in_opposite_order_do_not_deadlock() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let inbox = Inbox::of(&service, "u");
    for round in 0..8 {
        fill(&database, &["u"], 400).await;
        let up = ids(&database, "read_at is null").await;
        let mut down = up.clone();
        down.reverse();
        let bodies = [json!({"ids": up}), json!({"ids": down}), json!({"before": up[0]}), json!({"ids": &down[100..]})];
        let mark = async |body: Value| {
            for _ in 0..5 {
                match inbox.post(body.clone()).await {
                    // Another one held them for seconds, where the machine stood still: said, and no deadlock.
                    (503, answer) if answer["detail"].as_str().unwrap().contains(" of them ") => {}
                    (200, answer) => return answer["unread"].as_u64().unwrap(),
                    other => panic!("{other:?}"),
                }
            }
            panic!("they are held for ever");
        };
        let left = join_all(bodies.into_iter().map(mark)).await;
        assert!(left.contains(&0), "round {round}: {left:?}");
        assert_eq!(inbox.unread().await, 0, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_holds_is_asked_for_again_and_then_said() {
    let database = Database::new().await;
    fill(&database, &["u"], 10).await;
    let service = Service::on(&database).await;
    let inbox = Inbox::of(&service, "u");
    let all = ids(&database, "true").await;
    let mut superuser = database.superuser().await;

    for body in [json!({"ids": [all[4], all[5], all[6]]}), json!({"before": all[4]})] {
        let holder = superuser.transaction().await.unwrap();
        let hold = format!("select from notifier.notification where id = {} for update", all[5]);
        holder.execute(&hold, &[]).await.unwrap();
        let (status, answer) = inbox.post(body).await;
        assert_eq!(status, 503, "{answer}");
        assert!(answer["detail"].as_str().unwrap().starts_with("1 of them"), "{answer}");
        holder.rollback().await.unwrap();
    }
    assert_eq!(ids(&database, "read_at is null").await, [&all[..4], &all[5..6]].concat(), "the others are marked");
    assert_eq!(inbox.read(json!({"before": all[4]})).await, 4);

    // Let go of in time, nobody notices. A slow machine may be late: then it was said, and is tried once more.
    eventually("marked when the holder lets go", || async {
        database.run("update notifier.notification set read_at = null").await;
        let mut superuser = database.superuser().await;
        let holder = superuser.transaction().await.unwrap();
        holder
            .execute(&format!("select from notifier.notification where id = {} for update", all[0]), &[])
            .await
            .unwrap();
        let release = async {
            let marked = || async { !ids(&database, "read_at is not null").await.is_empty() };
            eventually("the other is marked", marked).await;
            holder.rollback().await.unwrap();
        };
        let ((status, answer), ()) = tokio::join!(inbox.post(json!({"ids": all[..2]})), release);
        status == 200 && answer["unread"] == 8
    })
    .await;
}

/// What the user's other sockets will be told.
#[tokio::test(flavor = "multi_thread")]
async fn marking_is_told_on_the_channel_once() {
    let database = Database::new().await;
    database.run("select setval('notifier.notification_id', 9007199254740993)").await;
    fill(&database, &["u"], 700).await;
    let service = Service::on(&database).await;
    let store = Store::new(&database.url().parse().unwrap(), 1).unwrap();
    let mut link = store.link().await.unwrap();
    link.listen().await.unwrap();
    let mut told = async || {
        loop {
            let payload: Value = serde_json::from_str(&link.next().await.unwrap()).unwrap();
            if let Some(read_by) = payload.get("read_by") {
                return read_by.clone();
            }
        }
    };
    let inbox = Inbox::of(&service, "u");
    let all = ids(&database, "true").await;
    inbox.read(json!({"ids": [all[1], all[2], "0"]})).await;
    assert_eq!(told().await, json!({"user_id": "u", "ids": [all[2], all[1]], "before": null, "origin": null}));
    inbox.read(json!({"ids": [all[1]]})).await;
    inbox.read(json!({"ids": all[100..]})).await;
    assert_eq!(told().await, json!({"user_id": "u", "ids": null, "before": null, "origin": null}), "too many to tell");
    let user = "u".parse().unwrap();
    let read = format!(r#"{{"before":"{}"}}"#, all[0]).parse().unwrap();
    let marked = store.mark_read(&user, &read, Some("socket 9")).await.unwrap();
    assert_eq!((marked.unread, marked.held), (0, vec![]));
    assert_eq!(told().await, json!({"user_id": "u", "ids": null, "before": all[0], "origin": "socket 9"}));
    assert_eq!(store.unread(&["v".parse().unwrap(), user]).await.unwrap(), [0, 0]);

    // Commits that NOTIFYed go one by one: none of them waits for the disk.
    database.run("begin; update notifier.notification set read_at = null; select notifier.mark_read('u', null, 9e18::bigint, null)").await;
    assert_eq!(database.one::<String>("show synchronous_commit").await, "off");
    database.run("rollback").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_not_right_are_told_what_is_wrong() {
    let database = Database::new().await;
    fill(&database, &["u"], 2).await;
    let service = Service::on(&database).await;
    let inbox = Inbox::of(&service, "u");
    for (query, wrong) in [
        ("before=x", "digits"),
        ("before=-1", "digits"),
        ("before=9223372036854775808", "digits"),
        ("before=1&before=2", "twice"),
        ("limit=0", "1 to 200"),
        ("limit=201", "1 to 200"),
        ("limit=1e2", "1 to 200"),
        ("unread=yes", "true or false"),
    ] {
        let (status, answer) = inbox.get(&format!("/api/notifications?{query}")).await;
        assert_eq!(status, 400, "{query}");
        assert!(answer["detail"].as_str().unwrap().contains(wrong), "{query}: {answer}");
    }
    assert_eq!(inbox.list("before=&limit=&unread=&_=123").await["notifications"].as_array().unwrap().len(), 2);
    let (status, answer) = inbox.post(json!({"ids": ["x"]})).await;
    assert_eq!((status, answer["detail"].as_str().unwrap().contains("the body: an id is")), (400, true), "{answer}");

    for (method, path, status, allow) in [
        ("GET", "/api", 404, None),
        ("GET", "/api/notifications/7", 404, None),
        ("GET", "/api/notifications//", 404, None),
        ("POST", "/api/notifications", 405, Some("GET")),
        ("DELETE", "/api/notifications/unread-count", 405, Some("GET")),
        ("GET", "/api/notifications/read/", 405, Some("POST")),
        ("GET", "/api/notifications/", 200, None),
    ] {
        let response = inbox.request(method, path).send().await.unwrap();
        assert_eq!(response.status(), status, "{method} {path}");
        assert_eq!(response.headers().get("allow").map(|value| value.to_str().unwrap()), allow, "{method} {path}");
    }
    assert_eq!(inbox.unread().await, 2, "nothing was marked by any of this");
}

/// Random wishes of many users, against what a few lines of Rust make of them.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_ever_reads_or_marks_what_is_anothers() {
    const USERS: [&str; 6] = ["1", "11", "2", "a b", "%", "U+0"];
    let database = Database::new().await;
    fill(&database, &USERS, 600).await;
    let service = Service::on(&database).await;
    // id -> (whose, read)
    let mut rows: BTreeMap<i64, (String, bool)> = BTreeMap::new();
    for row in database.rows("select id, user_id from notifier.notification").await {
        rows.insert(row.get(0), (row.get(1), false));
    }
    let every: Vec<i64> = rows.keys().copied().collect();
    for round in 0..120 {
        let user = USERS[fastrand::usize(..USERS.len())];
        let inbox = Inbox::of(&service, user);
        let some: Vec<i64> = (0..fastrand::usize(1..40)).map(|_| every[fastrand::usize(..every.len())]).collect();
        let (body, wanted): (Value, Box<dyn Fn(i64) -> bool>) = if round % 4 == 0 {
            let newest = some[0] - 300;
            (json!({"before": newest.max(0)}), Box::new(move |id| id <= newest))
        } else {
            (json!({"ids": some}), Box::new(move |id| some.contains(&id)))
        };
        rows.iter_mut().filter(|(id, (whose, _))| whose == user && wanted(**id)).for_each(|(_, row)| row.1 = true);
        let left: Vec<String> =
            rows.iter().rev().filter(|(_, row)| row.0 == user && !row.1).map(|(id, _)| id.to_string()).collect();
        assert_eq!(inbox.read(body).await, left.len() as u64, "round {round}");
        assert_eq!(inbox.pages("unread=true&limit=200").await.concat(), left, "round {round}");
        let before = every[fastrand::usize(..every.len())];
        let below = rows.range(..before).rev().filter(|(_, row)| row.0 == user).map(|(id, _)| id.to_string());
        let page = inbox.list(&format!("before={before}&limit=20")).await;
        let shown =
            page["notifications"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned());
        assert!(shown.eq(below.take(20)), "round {round}: {page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_without_its_database_says_so_and_comes_back() {
    let database = Database::new().await;
    fill(&database, &["u"], 3).await;
    let service = Service::on(&database).await;
    let inbox = Inbox::of(&service, "u");
    assert_eq!(inbox.unread().await, 3);
    database.go_away().await;
    for (method, path) in [("GET", "/api/notifications"), ("GET", "/api/notifications/unread-count")] {
        let response = inbox.request(method, path).send().await.unwrap();
        assert_eq!(response.status(), 503, "{path}");
        assert!(response.headers().contains_key("retry-after"), "{path}");
    }
    assert_eq!(inbox.post(json!({"before": "9"})).await.0, 503);
    database.come_back().await;
    eventually("the inbox is back", async || inbox.get("/api/notifications/unread-count").await.0 == 200).await;
    assert_eq!(inbox.unread().await, 3);
}
