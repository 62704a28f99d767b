//! A checker, as Jepsen does it: writers commit rows with unique keys and know what became of each; sockets log every frame; a
//! fault happens in the middle; when all is quiet again the two logs are compared.
//!
//! Nothing here waits for time to pass: it waits until what was committed has been seen, and fails when that takes too long.

mod ledger;
mod sockets;
mod verdict;
mod writers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

pub use ledger::{Ledger, Outcome};
pub use sockets::Door;
pub use verdict::Verdict;
pub use writers::{ALL, Kind, insert};

use super::{LIMIT, database};
use writers::Writers;

/// The first of the users a checker makes; the sample's are below.
const FIRST_USER: i64 = 10_000;

/// Whether `make torture` runs this: for longer, and with more of everything.
pub fn torture() -> bool {
    std::env::var_os("TORTURE").is_some()
}

/// One size for a test and another for torture.
pub fn size<T>(test: T, long: T) -> T {
    if torture() { long } else { test }
}

/// A database by address, whichever server it is of.
#[derive(Clone)]
pub struct Place {
    /// Host and port.
    pub host: String,
    pub database: String,
}

impl Place {
    /// A database of the server that tests share.
    pub fn of(database: &super::Database) -> Self {
        let url = database.url();
        let host = url.split(['@', '/']).nth(3).unwrap().to_owned();
        Self { host, database: database.name.clone() }
    }

    pub fn url(&self, user: &str) -> String {
        format!("postgresql://{user}@{}/{}", self.host, self.database)
    }

    /// A connection as the cluster's superuser.
    pub async fn superuser(&self) -> Client {
        database::connect(&self.url("postgres")).await
    }
}

/// What is written, by whom, and who looks.
#[derive(Clone, Copy)]
pub struct Plan {
    /// The line's name in the table.
    pub fault: &'static str,
    /// How many users are told.
    pub users: usize,
    /// How many sockets they have; the first users have one more when it does not come out even.
    pub sockets: usize,
    pub writers: usize,
    pub kinds: &'static [Kind],
    /// A writer rests for up to this long after each write.
    pub pause_ms: u64,
    /// How long transactions are held open at most.
    pub hold_ms: u64,
    /// What each writer's session runs first.
    pub session: &'static str,
    /// Whether errors are what the fault is about.
    pub writes_may_fail: bool,
}

impl Plan {
    /// A moderate load of all kinds.
    pub fn new(fault: &'static str) -> Self {
        Self {
            fault,
            users: 12,
            sockets: 20,
            writers: 8,
            kinds: ALL,
            pause_ms: 60,
            hold_ms: 30,
            session: "",
            writes_may_fail: false,
        }
    }

    /// The id of a user by number.
    pub fn user(&self, number: usize) -> i64 {
        FIRST_USER + (number % self.users) as i64
    }
}

/// A load that runs.
pub struct Checker {
    pub ledger: Arc<Ledger>,
    pub plan: Plan,
    place: Place,
    online: watch::Sender<bool>,
    resting: watch::Sender<bool>,
    sockets: JoinSet<()>,
    writing: JoinSet<()>,
    writers: Arc<Writers>,
    stop_writing: CancellationToken,
}

impl Checker {
    /// Makes the users, opens the sockets, begins to write, and returns when the first rows have been seen.
    pub async fn start(plan: Plan, place: &Place, address: SocketAddr) -> Self {
        Self::start_at(plan, place, Arc::new(move |_| address)).await
    }

    /// The same with sockets that connect to different places.
    pub async fn start_at(plan: Plan, place: &Place, door: Door) -> Self {
        let owner = database::connect(&place.url("parkmate")).await;
        owner
            .execute(
                "insert into app_user (id, name, email) overriding system value
                 select n, 'u', n || '@checker' from generate_series($1::int8, $2::int8) n",
                &[&plan.user(0), &plan.user(plan.users - 1)],
            )
            .await
            .unwrap();
        let ledger = Arc::new(Ledger::default());
        let (online, is_online) = watch::channel(true);
        let (resting, rests) = watch::channel(false);
        let mut sockets = JoinSet::new();
        for number in 0..plan.sockets {
            let user = plan.user(number);
            sockets.spawn(sockets::run(number, user, door.clone(), ledger.clone(), is_online.clone()));
        }
        let (url, failures) = (place.url("parking_app"), AtomicU64::new(0));
        let writers = Writers { plan, url, ledger: ledger.clone(), rests, failures };
        let checker = Self {
            ledger,
            plan,
            place: place.clone(),
            online,
            resting,
            sockets,
            writing: JoinSet::new(),
            writers: Arc::new(writers),
            stop_writing: CancellationToken::new(),
        };
        checker.all_open().await;
        checker.go_on().await
    }

    async fn go_on(mut self) -> Self {
        for _ in 0..self.plan.writers {
            self.writing.spawn(self.writers.clone().run(self.stop_writing.clone()));
        }
        if self.plan.writers > 0 {
            self.until("the first rows are seen", |ledger| ledger.seen() >= 2 * self.plan.writers).await;
        }
        self
    }

    /// Waits until every socket is open.
    pub async fn all_open(&self) {
        self.until("all sockets are open", |ledger| ledger.open_connections() == self.plan.sockets).await;
    }

    /// Takes every socket off the line, or back to it, at once. The former returns when all are closed.
    pub async fn go_online(&self, online: bool) {
        self.online.send_replace(online);
        if !online {
            self.until("all sockets are closed", |ledger| ledger.open_connections() == 0).await;
        }
    }

    /// Lets writers rest after what they are at, with their sessions open, or go on.
    pub fn rest(&self, resting: bool) {
        self.resting.send_replace(resting);
    }

    /// Waits until so many more rows have been committed, and so been written under the fault.
    pub async fn written(&self, rows: usize) {
        let since = Instant::now();
        self.until("rows are written", |ledger| ledger.ok_since(since) >= rows).await;
    }

    /// Waits until a fact of the ledger holds.
    pub async fn until(&self, what: &str, fact: impl Fn(&Ledger) -> bool) {
        let happened = patiently(|| fact(&self.ledger)).await;
        assert!(happened, "never happened under {:?}: {what}", self.plan.fault);
    }

    /// The fault is over: goes on writing for a moment, waits until all that was committed was seen, and judges.
    pub async fn finish(mut self) -> Verdict {
        let ended = Instant::now();
        if self.plan.writers > 0 {
            self.until("writes go on after the fault", |ledger| ledger.ok_since(ended) >= 2 * self.plan.writers).await;
        }
        self.stop_writing.cancel();
        timeout(limit(), async { while self.writing.join_next().await.is_some() {} }).await.expect("writers end");
        let mut missing = self.settle(None).await;
        if missing.is_empty() {
            self.all_open().await;
            // Rows that nobody is rung for: when they arrive, everything before them was read once more, and what would come
            // twice has come.
            missing = self.settle(Some(self.mark().await)).await;
        }
        if !missing.is_empty() {
            self.ledger.tell_of(&missing);
        }
        self.sockets.shutdown().await;
        let failures = self.writers.failures.load(std::sync::atomic::Ordering::Relaxed);
        Verdict::new(self.plan.fault, &self.ledger, ended, missing.len(), failures)
    }

    /// Waits until nothing is missing, or for as long as one may; returns what is.
    async fn settle(&self, keys: Option<Vec<i64>>) -> Vec<i64> {
        let mut missing = self.ledger.missing(keys);
        patiently(|| {
            missing = self.ledger.missing(Some(std::mem::take(&mut missing)));
            missing.is_empty()
        })
        .await;
        missing
    }

    /// Writes a row for each user with a socket.
    async fn mark(&self) -> Vec<i64> {
        let users: Vec<i64> = (0..self.plan.users.min(self.plan.sockets)).map(|n| self.plan.user(n)).collect();
        self.write("set notifier.doorbell = off", &users).await
    }

    /// Writes rows on a connection of its own, in one statement, and notes them; returns their keys.
    pub async fn write(&self, before: &str, users: &[i64]) -> Vec<i64> {
        let (client, connection) = tokio_postgres::connect(&self.place.url("parking_app"), NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(before).await.unwrap();
        let keys = self.ledger.begin(users);
        let rows: Vec<(i64, i64)> = users.iter().copied().zip(keys.iter().copied()).collect();
        client.batch_execute(&insert("success", &rows)).await.unwrap();
        self.ledger.end(&keys, Outcome::Ok);
        keys
    }
}

/// How long anything may take.
fn limit() -> Duration {
    LIMIT * size(1, 5)
}

/// Asks until a fact holds; returns whether it did in time. A look at a large ledger takes its time, and is not taken so often
/// that those who write in it have to wait.
async fn patiently(mut fact: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while started.elapsed() < limit() {
        let looked = Instant::now();
        if fact() {
            return true;
        }
        sleep((10 * looked.elapsed()).max(Duration::from_millis(10))).await;
    }
    false
}
