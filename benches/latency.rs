//! From the acknowledgement of a commit to the frame, beside two floors: a plain trigger's NOTIFY, as a LISTEN in this process hears
//! it; and the same with the one hop more that a server has, a LISTEN on a thread of its own that writes what it hears to a TCP
//! connection and does nothing else. All are stamped by the same clock, written by the same code, and read by one thread.

use std::future::poll_fn;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio_postgres::{AsyncMessage, NoTls};

use crate::support::place::settle;
use crate::support::{Crowd, Place, Socket, Table, count, eventually, is_quick, median, medians, place, rounds};

/// So many users, a socket each, are told in turn.
const USERS: u64 = 100;
/// More events than one run has.
const MOST: usize = 1 << 18;

/// What is compared: the table that is written to, which is the channel of the floors as well.
const WAYS: [&str; 3] = ["told", "floor", "hop"];

/// How fast events come.
struct Pace {
    per_second: f64,
    /// On so many connections, since one commit may take milliseconds.
    writers: u64,
    duration: Duration,
}

/// When each event was acknowledged and when it arrived, in nanoseconds of one clock; 0 stands for not yet.
struct Stamps {
    zero: Instant,
    next: AtomicU64,
    acknowledged: Vec<AtomicU64>,
    arrived: Vec<AtomicU64>,
}

impl Stamps {
    fn new() -> Self {
        let none = || (0..MOST).map(|_| AtomicU64::new(0)).collect();
        Self { zero: Instant::now(), next: AtomicU64::new(0), acknowledged: none(), arrived: none() }
    }

    fn now(&self) -> u64 {
        self.zero.elapsed().as_nanos() as u64
    }

    /// Events that only warm up have a negative number.
    fn arrive(&self, number: Option<i64>, at: u64) {
        if let Some(number) = number.and_then(|number| usize::try_from(number).ok()) {
            // The first time counts.
            let _ = self.arrived[number].compare_exchange(0, at, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    fn arrived(&self, numbers: std::ops::Range<u64>) -> bool {
        numbers.into_iter().all(|number| self.arrived[number as usize].load(Ordering::Relaxed) != 0)
    }

    /// Milliseconds, sorted. An event may arrive before its writer has seen the acknowledgement.
    fn waited(&self, numbers: std::ops::Range<u64>) -> Vec<f64> {
        let at = |stamps: &[AtomicU64], number| stamps[number as usize].load(Ordering::Relaxed) as f64 / 1e6;
        let mut waited: Vec<f64> =
            numbers.map(|number| at(&self.arrived, number) - at(&self.acknowledged, number)).collect();
        waited.sort_by(f64::total_cmp);
        waited
    }
}

pub async fn run() {
    let place = Place::with(&["app"]).await;
    let owner = place.owner("app").await;
    // One row like those to come says how long their payloads are.
    owner.batch_execute("insert into public.told (user_id, number) values (1, 100000)").await.unwrap();
    let sql = "select octet_length(notifier.payload(n)) from notifier.notification n";
    let size: i32 = owner.query_one(sql, &[]).await.unwrap().get(0);
    for floor in &WAYS[1..] {
        let trigger = format!(
            "create trigger plain after insert on public.{floor} for each row execute function public.ring_plainly({size}, {floor})"
        );
        owner.batch_execute(&trigger).await.unwrap();
    }

    let service = place.serve("app").await;
    let stamps = Arc::new(Stamps::new());
    let (stop, stopped) = oneshot::channel::<()>();
    let (ready, listening) = oneshot::channel();
    let (url, address, shared) = (place.url("app"), service.address, stamps.clone());
    let reader = thread::spawn(move || {
        runtime().block_on(async {
            let _client = listen(&url, address, shared).await;
            ready.send(()).unwrap();
            let _ = stopped.await;
        });
    });
    listening.await.unwrap();

    let table = Table::new(
        &format!(
            "`latency`: from commit acknowledged to arrival, in ms; {USERS} users; payloads of {size} bytes; a ratio is the median of \
             the rounds' ratios"
        ),
        &[
            "idle sockets",
            "events/s asked",
            "got (frame)",
            "got (floor)",
            "frame p50",
            "p99",
            "p99.9",
            "LISTEN p50",
            "p99",
            "p99.9",
            "p50 ratio",
            "p99 ratio",
            "LISTEN and a write p50",
            "p99",
            "p50 ratio",
            "p99 ratio",
        ],
    );
    for idle in [0, count(10_000)] {
        let crowd = match idle {
            0 => None,
            _ => Some(Crowd::open(service.address, USERS + 1..USERS + 1 + idle).await),
        };
        settle(&service).await;
        let paces: &[(f64, u64, f64)] =
            if idle == 0 { &[(10.0, 1, 3.0), (200.0, 4, 5.0), (2000.0, 16, 2.0)] } else { &[(200.0, 4, 3.0)] };
        for &(per_second, writers, seconds) in paces {
            let duration = Duration::from_secs_f64(if is_quick() { seconds / 4.0 } else { seconds });
            let pace = Pace { per_second, writers, duration };
            let mut figures = [Vec::new(), Vec::new(), Vec::new()];
            for _ in 0..rounds() {
                for (figures, table) in figures.iter_mut().zip(WAYS) {
                    figures.push(slice(&place.url("app"), table, &pace, &stamps).await);
                }
            }
            let [ours, floor, hop] = &figures;
            let ratio = |floor: &[[f64; 4]], at: usize| {
                let ratio = median(ours.iter().zip(floor).map(|(ours, floor)| ours[at] / floor[at]).collect());
                // There is none where something arrived before its writer had seen the acknowledgement.
                if ratio > 0.0 { format!("{ratio:.2}") } else { "-".to_owned() }
            };
            let ratios = [floor, hop].map(|floor| [ratio(floor, 1), ratio(floor, 2)]);
            let [ours, floor, hop] = [medians(ours), medians(floor), medians(hop)];
            let mut cells = vec![idle.to_string(), per_second.to_string()];
            cells.extend([ours[0], floor[0]].map(|rate| format!("{rate:.0}")));
            let ms = |ms: &[f64]| ms.iter().map(|ms| format!("{ms:.3}")).collect::<Vec<_>>();
            cells.extend(
                [ms(&ours[1..]), ms(&floor[1..]), ratios[0].to_vec(), ms(&hop[1..3]), ratios[1].to_vec()].concat(),
            );
            table.row(&cells);
        }
        if let Some(crowd) = crowd {
            place::close(crowd, &service).await;
        }
    }
    drop(stop);
    reader.join().unwrap();
}

/// Writes for a while and waits for all: events a second, p50, p99, p99.9.
async fn slice(url: &str, table: &'static str, pace: &Pace, stamps: &Arc<Stamps>) -> [f64; 4] {
    let first = stamps.next.load(Ordering::SeqCst);
    let all_ready = Arc::new(Barrier::new(pace.writers as usize));
    let writers: Vec<_> = (0..pace.writers)
        .map(|writer| {
            let (url, stamps, all_ready) = (url.to_owned(), stamps.clone(), all_ready.clone());
            let interval = Duration::from_secs_f64(pace.writers as f64 / pace.per_second);
            let offset = interval.mul_f64(writer as f64 / pace.writers as f64);
            let duration = pace.duration;
            thread::spawn(move || write(&url, table, interval, offset, duration, &stamps, &all_ready))
        })
        .collect();
    tokio::task::spawn_blocking(|| writers.into_iter().for_each(|writer| writer.join().unwrap())).await.unwrap();
    let numbers = first..stamps.next.load(Ordering::SeqCst);
    eventually("all have arrived", || async { stamps.arrived(numbers.clone()) }).await;
    let events = (numbers.end - numbers.start) as f64;
    let waited = stamps.waited(numbers);
    let percentile = |part: f64| waited[((part * events).ceil() as usize).max(1) - 1];
    [events / pace.duration.as_secs_f64(), percentile(0.5), percentile(0.99), percentile(0.999)]
}

/// One writer's thread. It sleeps by the system's clock, which is finer than the runtime's.
fn write(
    url: &str,
    table: &str,
    interval: Duration,
    offset: Duration,
    duration: Duration,
    stamps: &Stamps,
    all_ready: &Barrier,
) {
    let runtime = runtime();
    let client = runtime.block_on(place::connect(url));
    let sql = format!("insert into public.{table} (user_id, number) values ($1, $2)");
    let insert = runtime.block_on(client.prepare(&sql)).unwrap();
    // Plans are settled after the fifth time.
    for _ in 0..8 {
        runtime.block_on(client.execute(&insert, &[&1_i64, &-1_i64])).unwrap();
    }
    all_ready.wait();
    let started = Instant::now();
    let mut next = offset;
    loop {
        // At no beat, so that nothing of the service falls into step with it.
        let at = next + interval.mul_f64(fastrand::f64());
        next += interval;
        if at >= duration || started.elapsed() >= duration {
            return;
        }
        thread::sleep(at.saturating_sub(started.elapsed()));
        let number = stamps.next.fetch_add(1, Ordering::SeqCst);
        let user = (number % USERS + 1) as i64;
        runtime.block_on(client.execute(&insert, &[&user, &(number as i64)])).unwrap();
        stamps.acknowledged[number as usize].store(stamps.now(), Ordering::Relaxed);
    }
}

/// Listens for both. What it returns has to be kept.
async fn listen(url: &str, address: std::net::SocketAddr, stamps: Arc<Stamps>) -> tokio_postgres::Client {
    for user in 1..=USERS {
        let mut socket = Socket::open(address, user, None).await.unwrap();
        let stamps = stamps.clone();
        tokio::spawn(async move {
            loop {
                socket.read(|frame| stamps.arrive(number(frame), stamps.now())).await.expect("a socket ended");
            }
        });
    }
    let mut hop = hop(url.to_owned()).await;
    let told = stamps.clone();
    tokio::spawn(async move {
        while let Ok(number) = hop.read_i64().await {
            told.arrive(Some(number), told.now());
        }
    });
    hear(url, "floor", move |number| stamps.arrive(Some(number), stamps.now())).await
}

/// The second floor: a thread that does nothing but listen and write. Returns where what it writes arrives.
async fn hop(url: String) -> TcpStream {
    let here = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = here.local_addr().unwrap();
    thread::spawn(move || {
        runtime().block_on(async {
            let mut there = std::net::TcpStream::connect(address).unwrap();
            there.set_nodelay(true).unwrap();
            let _client = hear(&url, "hop", move |number| {
                // Nobody reads any more when the bench is over.
                let _ = there.write_all(&number.to_be_bytes());
            })
            .await;
            std::future::pending::<()>().await;
        });
    });
    here.accept().await.unwrap().0
}

/// Calls back with the number of each NOTIFY. What it returns has to be kept.
async fn hear(url: &str, channel: &str, mut heard: impl FnMut(i64) + Send + 'static) -> tokio_postgres::Client {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(notification) = message {
                heard(notification.payload().trim_end().parse().unwrap());
            }
        }
    });
    client.batch_execute(&format!("listen {channel}")).await.unwrap();
    client
}

/// The number in a frame's `data`.
fn number(frame: &[u8]) -> Option<i64> {
    const KEY: &str = "\"number\":";
    let frame = std::str::from_utf8(frame).unwrap();
    let value = frame[frame.rfind(KEY)? + KEY.len()..].trim_start();
    value[..value.find(['}', ','])?].trim_end().parse().ok()
}

/// For one thread.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
