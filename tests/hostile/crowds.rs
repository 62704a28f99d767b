//! Too many, and too slow.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

use super::{answer, connect, ended, handshake};
use crate::support::process::{Process, binary, is_ready};
use crate::support::service::metric;
use crate::support::{Database, LIMIT, Service, eventually};

/// The service as it comes; tests that open many sockets from one address run with more.
const AS_IT_COMES: [&str; 6] =
    ["--max-sockets-per-user", "20", "--max-sockets-per-address", "50", "--max-new-sockets-per-address", "20"];

/// A request with a credential, and a socket up to its hello; how long both take.
async fn log_in(from: [u8; 4], to: std::net::SocketAddr) -> Duration {
    let begun = Instant::now();
    let mut request = connect(from, to).await;
    let text = "GET /api/notifications/unread-count HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer 7\r\nConnection: close\r\n\r\n";
    request.write_all(text.as_bytes()).await.unwrap();
    assert_eq!(answer(&mut request).await.expect("an answer").status, 200);
    let (mut socket, answer) = handshake(from, to, "7", "").await;
    assert_eq!(answer.status, 101);
    let mut frames = answer.rest;
    while !frames.windows(11).any(|part| part == b"\"connected\"") {
        assert!(socket.read_buf(&mut frames).await.unwrap() > 0, "no hello");
    }
    begun.elapsed()
}

/// What most logins took at most, each from an address of its own.
async fn usual_login(first: u8, to: std::net::SocketAddr) -> Duration {
    let mut logins = Vec::new();
    for n in 0..9 {
        logins.push(log_in([127, 0, 8, first + n], to).await);
    }
    logins.sort();
    logins[logins.len() / 2]
}

/// What it may be beside an attack, by what it is in peace: a login that waited for the attack's end would take far longer.
fn slowed_down(peace: Duration) -> Duration {
    Duration::from_millis(500) + 10 * peace
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_slow_heads_are_closed_in_six_seconds_and_a_login_answers_meanwhile() {
    const FROM_ONE: usize = 400;
    let database = Database::new().await;
    let service = Process::start_with(&database.url(), "127.0.0.1:0".parse().unwrap(), &AS_IT_COMES).await;
    let to = service.address;
    let peace = usual_login(101, to).await;
    let mut slow = JoinSet::new();
    for n in 0..2_000 {
        // Sixteen addresses with a hundred each, which each of them may have, and one with four hundred, which none may have.
        let from = if n < FROM_ONE { [127, 0, 9, 9] } else { [127, 0, 1, 1 + (n % 16) as u8] };
        let mut stream = connect(from, to).await;
        slow.spawn(async move {
            let begun = Instant::now();
            let (mut reading, mut writing) = stream.split();
            let _ = writing.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ").await;
            let (mut drip, mut room) = (interval(Duration::from_millis(500)), [0; 512]);
            loop {
                tokio::select! {
                    read = reading.read(&mut room) => {
                        if read.is_ok_and(|count| count > 0) { continue }
                        return begun.elapsed();
                    }
                    _ = drip.tick() => { let _ = writing.write_all(b"x").await; }
                }
            }
        });
    }
    let attacked = usual_login(1, to).await;
    assert!(!slow.is_empty(), "the attack goes on");
    assert!(attacked < slowed_down(peace), "{attacked:?}, and {peace:?} in peace");
    let (mut slowest, mut latest) = (Duration::ZERO, Duration::ZERO);
    // Five seconds are what they have. How late a machine is that has other things to do is seen by what is done meanwhile.
    for host in (1..200).cycle() {
        let begun = Instant::now();
        while let Some(took) = slow.try_join_next() {
            slowest = slowest.max(took.unwrap());
        }
        if slow.is_empty() {
            break;
        }
        log_in([127, 0, 7, host], to).await;
        // A user may have twenty sockets, and those before have to be noticed as gone.
        sleep(Duration::from_millis(50)).await;
        latest = latest.max(begun.elapsed());
    }
    assert!(slowest < Duration::from_secs(6) + 4 * latest, "{slowest:?}, where something else took {latest:?}");
    let refused = metric(to, "notifier_refused_total{reason=\"connections\"}").await;
    assert_eq!(refused, FROM_ONE as u64 - 200, "of one address two hundred are let in");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_handshakes_from_one_address_is_refused_cheaply_and_troubles_nobody_else() {
    const FLOOD: usize = 2_000;
    let database = Database::new().await;
    let service = Process::start_with(&database.url(), "127.0.0.1:0".parse().unwrap(), &AS_IT_COMES).await;
    let to = service.address;
    let peace = usual_login(1, to).await;
    let begun = Instant::now();
    let mut flood = JoinSet::new();
    for lane in 0..20 {
        flood.spawn(async move {
            let mut open = Vec::new();
            for n in 0..FLOOD / 20 {
                let (stream, answer) = handshake([127, 0, 2, 1], to, &format!("u{lane}.{n}"), "").await;
                match answer.status {
                    101 => open.push(stream),
                    429 => assert!(["1", "30"].contains(&answer.header("retry-after").unwrap()), "{answer:?}"),
                    other => panic!("{other}"),
                }
            }
            open
        });
    }
    // Others come in while it goes on.
    let attacked = usual_login(101, to).await;
    let mut open = Vec::new();
    while let Some(streams) = flood.join_next().await {
        open.extend(streams.unwrap());
    }
    assert!(attacked < slowed_down(peace), "{attacked:?}, and {peace:?} in peace");
    // Forty at once and twenty a second, and of those fifty may stay.
    let most = (40 + 20 * (begun.elapsed().as_secs() as usize + 1)).min(50);
    assert!((40..=most).contains(&open.len()), "{} let in", open.len());
    let refused = ["rate", "address"].map(|reason| format!("notifier_refused_total{{reason=\"{reason}\"}}"));
    let mut counted = 0;
    for name in &refused {
        counted += metric_or_none(to, name).await;
    }
    assert_eq!(counted, (FLOOD - open.len()) as u64);
    // Who is refused asks the database nothing.
    eventually("the sockets that were let in have been greeted", || async {
        metric(to, "notifier_catch_ups_total").await == (open.len() + 18) as u64
    })
    .await;
}

async fn metric_or_none(to: std::net::SocketAddr, name: &str) -> u64 {
    let text = reqwest::get(format!("http://{to}/metrics")).await.unwrap().text().await.unwrap();
    let figure = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
    figure.map_or(0, |figure| figure.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_limit_refuses_with_its_status_and_what_closes_makes_room() {
    let database = Database::new().await;
    let service = Service::start_with(&database.url(), |config| {
        config.limits.max_sockets = 5;
        config.limits.max_sockets_per_user = 2;
        config.limits.max_sockets_per_address = 3;
    })
    .await;
    eventually("the service listens", || service.is_ready()).await;
    let try_as = async |from: [u8; 4], user: &str| {
        let (stream, answer) = handshake(from, service.address, user, "").await;
        let refused = answer.header("retry-after").map(|seconds| (answer.status, seconds.to_owned()));
        assert_eq!(refused.is_none(), answer.status == 101, "{answer:?}");
        refused.map_or(Ok(stream), Err)
    };
    let (one, two, three) = ([127, 0, 5, 1], [127, 0, 5, 2], [127, 0, 5, 3]);
    let refused = |status: u16, seconds: &str| Some((status, seconds.to_owned()));
    let mut open = vec![try_as(one, "7").await.unwrap(), try_as(one, "7").await.unwrap()];
    assert_eq!(try_as(two, "7").await.err(), refused(429, "30"), "two of a user");
    open.push(try_as(one, "8").await.unwrap());
    assert_eq!(try_as(one, "9").await.err(), refused(429, "30"), "three of an address");
    open.push(try_as(two, "9").await.unwrap());
    open.push(try_as(two, "10").await.unwrap());
    assert_eq!(try_as(three, "11").await.err(), refused(503, "5"), "five in all");
    for reason in ["user", "address", "total"] {
        assert_eq!(service.metric(&format!("notifier_refused_total{{reason=\"{reason}\"}}")).await, 1, "{reason}");
    }
    drop(open);
    eventually("they are gone", || async { service.metric("notifier_sockets").await == 0 }).await;
    assert!(try_as(one, "7").await.is_ok());
}

/// Neither idle connections nor a small limit of the system take what the service needs for itself.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_cannot_take_all_files() {
    let database = Database::new().await;
    let binary = binary();
    let program = binary.as_std().get_program().to_str().unwrap();
    let mut command = tokio::process::Command::new("sh");
    command
        .args(["-c", &format!("ulimit -n 200 && exec {program} \"$@\""), "sh"])
        .args(["serve", "--auth", "none", "--database-url", &database.url(), "--listen", "127.0.0.1:0"])
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut log = tokio::io::BufReader::new(child.stderr.take().unwrap());
    let (mut said, mut address) = (String::new(), None);
    while address.is_none() {
        let mut line = String::new();
        use tokio::io::AsyncBufReadExt;
        let read = tokio::time::timeout(LIMIT, log.read_line(&mut line)).await.expect("it never served").unwrap();
        assert!(read > 0, "it ended: {said}");
        address = line.split_once("serving address=").map(|(_, address)| address.trim().parse().unwrap());
        said += &line;
    }
    assert!(said.contains("--max-sockets 20000 needs") && said.contains("set --max-sockets 112"), "{said}");
    let to = address.unwrap();
    let mut idle = Vec::new();
    for n in 0..300 {
        idle.push(connect([127, 0, 6, 1 + (n % 10) as u8], to).await);
    }
    let mut open = JoinSet::new();
    for mut stream in idle {
        open.spawn(async move { ended(&mut stream).await.len() });
    }
    while let Some(read) = open.join_next().await {
        assert_eq!(read.unwrap(), 0);
    }
    // It has had them all, and can still open what it needs.
    assert!(metric(to, "notifier_refused_total{reason=\"connections\"}").await >= 150);
    eventually("the service listens", || is_ready(to)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_refused_before_it_is_whole() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut stream = connect([127, 0, 7, 1], service.address).await;
    // It ends nowhere: an answer can only come before its end.
    let head = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Large: {}", "x".repeat(40 * 1024));
    let _ = stream.write_all(head.as_bytes()).await;
    if let Some(answer) = answer(&mut stream).await {
        assert_eq!(answer.status, 431);
    }
    ended(&mut stream).await;
    let mut stream = connect([127, 0, 7, 1], service.address).await;
    let head = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n", "x".repeat(12 * 1024));
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(answer(&mut stream).await.unwrap().status, 200);
}
