//! `/metrics`: what is documented is there, what is there is documented, and no label tells of a person.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use tokio_tungstenite::tungstenite::Message;

use crate::support::socket::Ending;
use crate::support::{Database, Service, Socket, eventually};

async fn scrape(service: &Service) -> String {
    let response = service.get("/metrics").await.unwrap();
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    response.text().await.unwrap()
}

/// A sample's name, its labels and its value.
type Sample<'a> = (&'a str, BTreeMap<&'a str, &'a str>, f64);

fn samples(text: &str) -> Vec<Sample<'_>> {
    let sample = |line| {
        let (name, value) = str::rsplit_once(line, ' ').unwrap();
        let (name, labels) =
            name.split_once('{').map_or((name, ""), |(name, rest)| (name, rest.strip_suffix('}').unwrap()));
        let labels = labels.split_terminator("\",").map(|label| label.split_once("=\"").unwrap());
        (name, labels.map(|(key, value)| (key, value.trim_end_matches('"'))).collect(), value.parse().unwrap())
    };
    text.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

/// A figure without labels.
async fn figure(service: &Service, name: &str) -> f64 {
    let text = scrape(service).await;
    let sample = samples(&text).into_iter().find(|(found, ..)| *found == name);
    sample.unwrap_or_else(|| panic!("no {name} in\n{text}")).2
}

/// What there is to know of a metric before it has a value.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Described {
    /// As it is asked for: with `_total` or `_info`, without `_bucket`.
    name: String,
    kind: String,
    unit: String,
    labels: BTreeSet<String>,
}

fn documented() -> BTreeSet<Described> {
    let rows = include_str!("../docs/metrics.md").lines().filter(|line| line.starts_with("| `"));
    let described = |row: &str| {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
        assert_eq!(cells.len(), 6, "name, type, unit, labels, what it tells, what to alert on: {row}");
        assert!(!cells[4].is_empty(), "says nothing: {row}");
        let labels = cells[3].split(", ").filter(|label| !label.is_empty()).map(str::to_owned).collect();
        Described { name: cells[0].clone(), kind: cells[1].clone(), unit: cells[2].clone(), labels }
    };
    rows.map(described).collect()
}

fn scraped(text: &str) -> BTreeSet<Described> {
    let (comments, samples) = (|word: &str| format!("# {word} "), samples(text));
    let of = |word, name: &str| {
        let comment = comments(word);
        text.lines().find_map(|line| line.strip_prefix(&comment)?.strip_prefix(name)?.strip_prefix(' '))
    };
    let types = comments("TYPE");
    let described = |line: &str| {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(of("HELP", name).is_some_and(|help| !help.is_empty()), "{name} has no help text");
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let full = format!("{name}{suffix}");
        let own = samples.iter().filter(|(sample, ..)| {
            let rest = sample.strip_prefix(full.as_str());
            rest.is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
        });
        let labels: BTreeSet<_> = own.flat_map(|(_, labels, _)| labels.keys().map(|key| (*key).to_owned())).collect();
        // The bounds of a histogram's buckets belong to its type.
        let labels = labels.into_iter().filter(|label| label != "le").collect();
        Described { name: full, kind: kind.to_owned(), unit: of("UNIT", name).unwrap_or_default().to_owned(), labels }
    };
    text.lines().filter_map(|line| line.strip_prefix(&types)).map(described).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_documented_is_there_and_the_other_way_round() {
    let database = Database::new().await;
    let service = Service::start_with(&database.url(), |config| config.limits.max_sockets_per_user = 1).await;
    eventually("the service listens", || service.is_ready()).await;
    // What has labels is there once it has a value.
    let mut socket = Socket::open(service.address, "7").await;
    socket.nothing_but_a_marker(&database).await;
    let second = format!("ws://{}/ws/notifications/7/", service.address);
    assert!(tokio_tungstenite::connect_async(second).await.is_err());
    socket.send(Message::text("no json")).await;
    assert_eq!(socket.ending().await, Ending::Closed(4400));
    let text = scrape(&service).await;
    let (documented, scraped) = (documented(), scraped(&text));
    let names =
        |of: &BTreeSet<Described>, but: &BTreeSet<Described>| format!("{:#?}", of.difference(but).collect::<Vec<_>>());
    assert!(
        documented == scraped,
        "only in docs/metrics.md: {}\nonly in /metrics: {}",
        names(&documented, &scraped),
        names(&scraped, &documented)
    );
    let pools: Vec<_> = samples(&text).into_iter().filter(|(name, ..)| *name == "notifier_pool_limit").collect();
    let names: BTreeSet<_> = pools.iter().map(|(_, labels, _)| labels["pool"]).collect();
    assert_eq!(names, BTreeSet::from(["parts", "catch_up", "inbox", "auth"]));
    let process = |name| samples(&text).into_iter().find(|(found, ..)| *found == name).unwrap().2;
    assert!(process("process_resident_memory_bytes") > 1e6 && process("process_cpu_seconds_total") > 0.0);
    assert!(process("process_open_fds") > 3.0 && process("process_open_fds") <= process("process_max_fds"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_label_holds_a_user_or_a_message() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let (user, message) = ("u48151623", "Your code is 42 \"secret\".");
    let mut socket = Socket::open(service.address, user).await;
    let events = [message, "48151623", "told.48151623", "To u48151623", "a\nb 1", "hello"];
    for event in events {
        let sql = "select notifier.send($1, 'warning', $2, event => $3)";
        database.owner.execute(sql, &[&user, &message, &event]).await.unwrap();
        assert_eq!(socket.frame().await["event"], event);
    }
    let text = scrape(&service).await;
    let frames: BTreeMap<_, _> = samples(&text)
        .into_iter()
        .filter(|(name, ..)| *name == "notifier_frames_total")
        .map(|(_, labels, value)| ((labels["event"], labels["level"]), value as u64))
        .collect();
    assert_eq!(frames, BTreeMap::from([(("hello", "warning"), 1), (("other", "warning"), 5)]));
    for secret in [user, "48151623", "Your code", "secret"] {
        assert!(!text.contains(secret), "{secret} is in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_events_there_are_the_labels_are_few() {
    const EVENTS: u64 = 250;
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "7").await;
    let lines = samples(&scrape(&service).await).len();
    database
        .run(&format!(
            "select notifier.send('7', (array['success', 'error', 'warning', 'info'])[1 + n % 4], 'hello', event => 'event.n' || n)
             from generate_series(1, {EVENTS}) n"
        ))
        .await;
    for _ in 0..EVENTS {
        socket.frame().await;
    }
    let text = scrape(&service).await;
    let frames: Vec<_> = samples(&text).into_iter().filter(|(name, ..)| *name == "notifier_frames_total").collect();
    let events: BTreeSet<_> = frames.iter().map(|(_, labels, _)| labels["event"]).collect();
    assert_eq!(events.len(), 201);
    let others: f64 = frames.iter().filter(|(_, labels, _)| labels["event"] == "other").map(|(.., value)| value).sum();
    assert_eq!(others as u64, EVENTS - 200);
    assert_eq!(frames.iter().map(|(.., value)| value).sum::<f64>() as u64, EVENTS);
    assert_eq!(samples(&text).len(), lines + 200 + 4, "nothing else has a label for each");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_notification_moves_the_latencies_and_a_replayed_one_does_not() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    database.run("select notifier.send('8', 'info', 'while nobody looked')").await;
    let mut absent = Socket::open(service.address, "8").await;
    assert_eq!(absent.frame().await["replayed"], true);
    let confirmed = async |count: f64| {
        eventually("it is noted", async || figure(&service, "notifier_confirmed_total").await == count).await;
        eventually("and measured", async || {
            figure(&service, "notifier_commit_to_confirmed_seconds_count").await == count - 1.0
        })
        .await;
    };
    absent.meanwhile(confirmed(1.0)).await;
    assert_eq!(figure(&service, "notifier_catch_up_rows_total").await, 1.0);
    for name in ["notifier_commit_to_frame_seconds_count", "notifier_commit_to_confirmed_seconds_count"] {
        assert_eq!(figure(&service, name).await, 0.0, "{name}");
    }

    let mut socket = Socket::open(service.address, "7").await;
    database.write("update payment set status = 'verified' where id = 201").await;
    assert_eq!(socket.frame().await["event"], "payment.verified");
    socket.meanwhile(confirmed(2.0)).await;
    let told = figure(&service, "notifier_commit_to_frame_seconds_sum").await;
    let noted = figure(&service, "notifier_commit_to_confirmed_seconds_sum").await;
    // The clocks are compared as well as an answer of the database is quick.
    assert!(told >= 0.0 && noted > told + 1.0, "told after {told} s, noted after {noted} s");
    for name in ["notifier_commit_to_frame_seconds_count", "notifier_commit_to_confirmed_seconds_count"] {
        assert_eq!(figure(&service, name).await, 1.0, "{name}");
    }
    assert_eq!(figure(&service, "notifier_sockets_opened_total").await, 2.0);
    assert_eq!(figure(&service, "notifier_catch_ups_total").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_socket_does_not_confirm_grows_old_and_what_it_missed_before_does_not() {
    let database = Database::new().await;
    database.run("select notifier.send('7', 'info', 'yesterday')").await;
    database.run("update notifier.notification set created_at = now() - interval '20 hours', slot = notifier.slot(now() - interval '20 hours')").await;
    let service = Service::on(&database).await;
    let age = async || figure(&service, "notifier_undelivered_age_seconds").await;
    // It takes its frame and answers no ping.
    let mut socket = Socket::open(service.address, "7").await;
    let Some(Ok(Message::Text(_))) = socket.stream.next().await else { panic!("no frame") };
    eventually("it owes something", async || age().await > 0.0).await;
    let before = age().await;
    assert!(before < 3_600.0, "it waits for no longer than the socket is there: {before} s");
    eventually("which grows old", async || age().await > before + 0.1).await;
    socket.meanwhile(eventually("and is confirmed", async || age().await == 0.0)).await;
    socket.nothing_but_a_marker(&database).await;
}
