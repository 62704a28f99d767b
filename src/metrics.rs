//! Figures for operators, in the text format of Prometheus at `/metrics`; `docs/metrics.md` says what each tells. No user ids, and
//! no label a stranger can invent without end.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::protocol::Level;

/// So many events are counted by their own names. What is beyond is counted as [`OTHER`].
const MAX_EVENTS: usize = 200;
/// An event's name is not longer, where it is defined.
const MAX_NAME_BYTES: usize = 100;
/// The event of frames that are not counted by their own name.
const OTHER: &str = "other";
/// Upper bounds, in seconds: from what one NOTIFY takes to what only an outage does.
const LATENCIES: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// The clock is the best of so many readings: of each it is unknown how long it was on its way.
const READINGS: usize = 16;

/// A gauge that is no whole number.
type Fraction = Gauge<f64, AtomicU64>;

/// Why a socket was closed.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct Code {
    /// The close code: there are few.
    pub code: u16,
}

/// Why somebody was not let in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// As many sockets as there may be.
    Total,
    /// As many as its user may have.
    User,
    /// As many as its address may have.
    Address,
    /// Its address opens sockets too quickly.
    Rate,
    /// As many connections as there may be, or as its address may have.
    Connections,
    /// A trusted proxy did not say whose connection it is.
    Proxy,
    /// TLS did not begin.
    Tls,
    /// It brought no credential, or one that is worth nothing.
    Unauthorized,
    /// Its credential is another user's.
    Forbidden,
    /// A page that may not use it sent a cookie.
    Origin,
    /// Nobody could say what its credential is worth.
    Unknown,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::User => "user",
            Self::Address => "address",
            Self::Rate => "rate",
            Self::Connections => "connections",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Origin => "origin",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Refused {
    reason: &'static str,
}

/// Which pool of connections.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct Pool {
    /// Its name in this program.
    pub pool: &'static str,
}

/// One field a figure.
pub struct Metrics {
    registry: Registry,
    /// The database's clock.
    pub clock: Clock,
    /// Sockets open now.
    pub sockets: Gauge,
    /// Sockets ever opened.
    pub sockets_opened: Counter,
    /// Notification frames written to sockets.
    pub frames: Frames,
    /// Frames that say how many more notifications wait.
    pub summaries: Counter,
    /// Notifications noted as delivered.
    pub confirmed: Counter,
    /// From a row's creation to its frame being written; for each flush, of the oldest live frame in it.
    pub commit_to_frame: Histogram,
    /// From a row's creation to its delivery being noted, of live frames.
    pub commit_to_confirmed: Histogram,
    /// How long the notification waits that a socket of this instance has owed longest. Set when it is asked for.
    pub undelivered_age: Fraction,
    /// Payloads on the channel that could not be decoded.
    pub malformed_payloads: Counter,
    /// Notifications published, by whatever way they came.
    pub published: Counter,
    /// Times a mailbox was full and the session read on from the table.
    pub lags: Counter,
    /// Catch-ups of sockets, one for each opening and each page.
    pub catch_ups: Counter,
    /// Questions to the database that answered them, many in one.
    pub catch_up_reads: Counter,
    /// Notifications that were in the answers.
    pub catch_up_rows: Counter,
    /// Times the listener connected.
    pub listener_connects: Counter,
    /// Whether this instance is the relay.
    pub relay: Gauge,
    /// Whether it is, and tells for the writers what they commit.
    pub relay_busy: Gauge,
    position_age: Fraction,
    /// When [`Self::position_moved`] was called last, in microseconds of [`Clock::running`].
    moved: AtomicU64,
    /// How much of the server's NOTIFY queue is in use, 0 to 1. A full one fails everybody's COMMIT.
    pub notify_queue: Fraction,
    /// How many faults of events the database has ever recorded.
    pub faults: Gauge,
    /// How many connections each pool may have.
    pub pool_limit: Family<Pool, Gauge>,
    /// How many it has.
    pub pool_connections: Family<Pool, Gauge>,
    /// How many of them are in use.
    pub pool_in_use: Family<Pool, Gauge>,
    /// How many questions wait for one.
    pub pool_waiting: Family<Pool, Gauge>,
    /// Sockets that this side closed, by close code.
    pub closes: Family<Code, Counter>,
    /// Sockets closed whose client never answers, and is not told the same again.
    pub unanswering: Counter,
    refused: Family<Refused, Counter>,
}

impl Metrics {
    /// All at zero.
    #[allow(clippy::new_without_default, reason = "a part of the service, made once")]
    pub fn new() -> Self {
        let mut all = Registry::default();
        all.register_collector(Box::new(Process));
        let r = all.sub_registry_with_prefix("notifier");
        r.register("build", "The program that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        Self {
            clock: Clock::new(),
            sockets: add(r, "sockets", "Sockets open now"),
            sockets_opened: add(r, "sockets_opened", "Sockets opened: handshakes that became a session"),
            frames: Frames::new(add(r, "frames", "Notification frames written to sockets, by event and level")),
            summaries: add(r, "summaries", "Frames that tell how many more notifications wait in the inbox"),
            confirmed: add(r, "confirmed", "Notifications noted as delivered"),
            commit_to_frame: latency(
                r,
                "commit_to_frame",
                "From a row's creation, by the database's clock, until its frame was written to a socket, once for each flush: the \
                 oldest live frame in it. Postgres keeps no time of commit: how long the writer's transaction went on is within",
            ),
            commit_to_confirmed: latency(
                r,
                "commit_to_confirmed",
                "From a row's creation, by the database's clock, until the database had noted that a socket confirmed it. The two \
                 seconds that a socket has to live on are within. Of live frames",
            ),
            undelivered_age: with_unit(
                r,
                "undelivered_age",
                "How long the oldest notification waits that a socket of this instance was handed and has not confirmed",
                Unit::Seconds,
            ),
            malformed_payloads: add(r, "malformed_payloads", "Payloads on the channel that could not be decoded"),
            published: add(r, "published", "Notifications published on this instance"),
            lags: add(r, "lags", "Times a mailbox was full and the session read on from the table"),
            catch_ups: add(r, "catch_ups", "Catch-ups of sockets: openings and pages"),
            catch_up_reads: add(r, "catch_up_reads", "Questions to the database that answered catch-ups"),
            catch_up_rows: add(r, "catch_up_rows", "Notifications that were read for catch-ups"),
            listener_connects: add(r, "listener_connects", "Times the listener connected"),
            relay: add(r, "relay", "1 on the instance that is the relay"),
            relay_busy: add(
                r,
                "relay_busy",
                "1 on the relay while it tells for the writers what they commit, 0 while they NOTIFY themselves",
            ),
            position_age: with_unit(
                r,
                "position_age",
                "Since the stream was last read to its end: how old what this instance knows may be",
                Unit::Seconds,
            ),
            moved: AtomicU64::new(0),
            notify_queue: with_unit(
                r,
                "notify_queue",
                "How much of the server's NOTIFY queue is in use, as of the last read",
                Unit::Other("ratio".to_owned()),
            ),
            faults: add(r, "faults", "Faults of events that the database has ever recorded, as of the last read"),
            pool_limit: add(r, "pool_limit", "Connections that a pool may have"),
            pool_connections: add(r, "pool_connections", "Connections that a pool has"),
            pool_in_use: add(r, "pool_in_use", "Connections of a pool that are in use"),
            pool_waiting: add(r, "pool_waiting", "Questions that wait for a connection of a pool"),
            closes: add(r, "closes", "Sockets that this side closed, by close code"),
            unanswering: add(
                r,
                "unanswering",
                "Sockets closed whose client never answers pings and is not told the same again",
            ),
            refused: add(r, "refused", "Handshakes and connections that were refused, by reason"),
            registry: all,
        }
    }

    /// A handshake, or a connection before it, was refused.
    pub fn refused(&self, reason: Reason) {
        self.refused.get_or_create(&Refused { reason: reason.name() }).inc();
    }

    /// A read of the stream has answered: what this instance knows is as of now. To be called after each, whether the position
    /// moved or not.
    pub fn position_moved(&self) {
        self.moved.store(self.clock.running(), Ordering::Relaxed);
    }

    /// The figures as OpenMetrics text. Those that are looked at only when they are asked for are set by the
    /// caller. Blocks: it reads files.
    pub fn encode(&self) -> String {
        let age = self.clock.running().saturating_sub(self.moved.load(Ordering::Relaxed));
        self.position_age.set(Duration::from_micros(age).as_secs_f64());
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn add<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

fn with_unit<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str, unit: Unit) -> M {
    let metric = M::default();
    registry.register_with_unit(name, help, unit, metric.clone());
    metric
}

fn latency(registry: &mut Registry, name: &str, help: &str) -> Histogram {
    let histogram = Histogram::new(LATENCIES);
    registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    histogram
}

/// The database's clock as far as this instance knows it: all times of rows are the database's. Until the database has told, it is
/// this machine's.
pub struct Clock {
    start: Instant,
    /// What the database's clock shows, less [`Self::running`], both in microseconds.
    offset: AtomicI64,
    readings: Mutex<VecDeque<i64>>,
}

impl Clock {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let offset = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
        Self { start: Instant::now(), offset: AtomicI64::new(offset), readings: Mutex::default() }
    }

    /// The database's clock just showed this, in seconds since 1970. What it shows now is later, by the time the answer took;
    /// so of the last sixteen readings the one counts that was on its way the shortest. After a jump of either clock the old
    /// readings are gone with the sixteenth new one.
    pub fn set(&self, database: f64) {
        let reading = (database * 1e6) as i64 - self.running() as i64;
        let readings = &mut *self.readings.lock().unwrap_or_else(PoisonError::into_inner);
        if readings.len() == READINGS {
            readings.pop_front();
        }
        readings.push_back(reading);
        let best = readings.iter().max().copied().unwrap_or(reading);
        self.offset.store(best, Ordering::Relaxed);
    }

    /// How long ago something was, in seconds, that the database dated in microseconds since 1970. What is in its future was now.
    pub fn age(&self, database: i64) -> f64 {
        let now = self.offset.load(Ordering::Relaxed).saturating_add(self.running() as i64);
        now.saturating_sub(database).max(0) as f64 / 1e6
    }

    /// How long this runs, in microseconds.
    fn running(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Frame {
    event: String,
    level: &'static str,
}

/// A counter for each level.
type Levels = [OnceLock<Counter>; 4];

/// Counters of frames by event and level. An event's name is the DBA's, but `notifier.send` takes any text: only the first 200
/// that look like names are counted by themselves. Cheap to clone.
#[derive(Clone)]
pub struct Frames {
    family: Family<Frame, Counter>,
    events: Arc<RwLock<HashMap<Box<str>, Levels>>>,
}

impl Frames {
    fn new(family: Family<Frame, Counter>) -> Self {
        Self { family, events: Arc::default() }
    }

    /// The counter of an event's frames. Looked up once for each notification, and then shared by its sockets: it takes a lock.
    pub fn counter(&self, event: &str, level: Level) -> Counter {
        // What is in here holds whole counters, whatever has panicked.
        if let Some(levels) = self.events.read().unwrap_or_else(PoisonError::into_inner).get(event) {
            return self.of(levels, event, level);
        }
        let events = &mut *self.events.write().unwrap_or_else(PoisonError::into_inner);
        let named = events.len() - usize::from(events.contains_key(OTHER));
        let known = events.contains_key(event) || (named < MAX_EVENTS && is_name(event));
        let event = if known { event } else { OTHER };
        self.of(events.entry(event.into()).or_default(), event, level)
    }

    fn of(&self, levels: &Levels, event: &str, level: Level) -> Counter {
        let (nth, name) = match level {
            Level::Success => (0, "success"),
            Level::Error => (1, "error"),
            Level::Warning => (2, "warning"),
            Level::Info => (3, "info"),
        };
        let label = || Frame { event: event.to_owned(), level: name };
        levels[nth].get_or_init(|| self.family.get_or_create_owned(&label())).clone()
    }
}

/// Whether a text is a name as `notifier.define_event` takes them, and no part of it a number: that would be somebody's id.
fn is_name(event: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            && !part.bytes().all(|byte| byte.is_ascii_digit())
    };
    event.len() <= MAX_NAME_BYTES
        && event.starts_with(|c: char| c.is_ascii_lowercase())
        && event.split('.').all(is_part)
}

/// This process, by the names that exporters have in common. Read when it is asked for; where there is no `/proc` it says nothing.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        // Of the man page proc(5): user and system time stand 12th and 13th behind the name, in hundredths of a second.
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let mut times = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
        let mut time = || times.next()?.parse::<f64>().ok();
        if let (Some(user), Some(system)) = (time(), time()) {
            let cpu = ConstCounter::new((user + system) / 100.0);
            let help = "User and system CPU time spent";
            cpu.encode(encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), cpu.metric_type())?)?;
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB")?.trim().parse().ok());
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let most = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
        // A kernel before 6.2 does not say how many there are, and counting ten thousand takes tens of milliseconds.
        let told = fs::metadata("/proc/self/fd").ok().map(|folder| folder.len() as i64).filter(|count| *count > 0);
        let open = told.or_else(|| Some(fs::read_dir("/proc/self/fd").ok()?.count() as i64));
        for (name, help, unit, figure) in [
            ("process_resident_memory", "Resident memory", Some(&Unit::Bytes), resident.map(|kib: i64| kib * 1024)),
            ("process_open_fds", "Open file descriptors", None, open),
            (
                "process_max_fds",
                "Open file descriptors that the system allows",
                None,
                most.and_then(|n| n.parse().ok()),
            ),
        ] {
            if let Some(figure) = figure {
                let gauge = ConstGauge::new(figure);
                gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn two_hundred_events_are_counted_by_name_and_the_others_together() {
        let metrics = Metrics::new();
        for n in 0..MAX_EVENTS + 100 {
            metrics.frames.counter(&format!("event.n{n}"), Level::Info).inc();
        }
        // Those that are known stay so, whatever their level.
        metrics.frames.counter("event.n7", Level::Info).inc();
        metrics.frames.counter("event.n7", Level::Error).inc();
        let text = metrics.encode();
        let frames: Vec<_> = text.lines().filter(|line| line.starts_with("notifier_frames_total{")).collect();
        assert_eq!(frames.len(), MAX_EVENTS + 1 + 1);
        for line in [
            r#"notifier_frames_total{event="event.n7",level="info"} 2"#,
            r#"notifier_frames_total{event="event.n7",level="error"} 1"#,
            r#"notifier_frames_total{event="other",level="info"} 100"#,
        ] {
            assert!(frames.contains(&line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn only_names_are_labels() {
        for name in ["message", "booking.renewal_failed", "a.b2.c", "v2"] {
            assert!(is_name(name), "{name}");
        }
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for text in
            ["", "Booking", "hello you", "told.42", "42", "a..b", "a.", ".a", "a\"b", "a\nb", "jörg", "a-b", &long]
        {
            assert!(!is_name(text), "{text:?}");
        }
    }

    #[test]
    fn ages_are_by_the_database_s_clock_as_the_quickest_answer_told_it() {
        let clock = Clock::new();
        let (year, begun) = (365.0 * 86_400.0, Instant::now());
        // However long this machine stood still since.
        let late = || 0.5 + begun.elapsed().as_secs_f64();
        assert!(clock.age(0) > 50.0 * year, "this machine's until the database has told");
        // Its clock is wrong, and some answers take long.
        for _ in 0..READINGS {
            clock.set(1_000.0);
            clock.set(998.0);
        }
        let age = clock.age(999_000_000);
        assert!((1.0..1.0 + late()).contains(&age), "{age}");
        assert_eq!(clock.age(2_000_000_000), 0.0, "its future");
        for _ in 0..READINGS {
            clock.set(500.0);
        }
        assert!(clock.age(499_000_000) < 1.0 + late(), "it was put back");
    }

    #[test]
    fn the_position_ages_until_a_read_answers() {
        let metrics = Metrics::new();
        let age = || {
            metrics.encode();
            metrics.position_age.get()
        };
        let first = age();
        assert!(age() > first);
        let before = metrics.clock.running();
        metrics.position_moved();
        assert!(age() <= Duration::from_micros(metrics.clock.running() - before).as_secs_f64());
    }
}
