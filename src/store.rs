//! The only file that sends SQL, with what stands under it in `store/`: everything else asks here.

mod credentials;
mod hosts;
mod inbox;
mod link;
mod migrations;
mod sockets;
mod tls;
mod told;

use std::convert::Infallible;
use std::fmt;
use std::future::ready;
use std::ops::Deref;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use deadpool_postgres::Object;
use futures_util::{FutureExt, TryStreamExt};
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Config, Row, RowStream, SimpleQueryRow};
use tracing::error;

use crate::protocol::{Cursor, Epoch, Notification, Position};

pub use credentials::{Authenticated, Ticket, is_of_one};
pub use deadpool_postgres::Status as PoolStatus;
pub use hosts::NoPrimary;
pub use inbox::{Entry, InboxPage, Marked};
pub use link::{Doorbell, Link};
pub use sockets::{Delivered, Gap, Opened, Opening, Page};

use hosts::Hosts;
use tls::Tls;

/// How long a statement may take to answer: then its server is lost, whatever TCP says.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// So many notifications of one row are handed out before others have their turn: thousands may stand in one.
const MOST_AT_ONCE: usize = 500;
/// The server ends a statement before we give up its answer.
const STATEMENT_LIMIT: &str = "set statement_timeout = '8s'";
/// How else a pooled session differs from the database's defaults. Under SERIALIZABLE our reads would conflict with writers. The
/// server ends a statement soon after we have gone (where its system can tell).
const SESSION: &str = "set default_transaction_isolation = 'read committed';
    do $$ begin perform set_config('client_connection_check_interval', '2s', false); exception when others then null; end $$";

/// The address of a database, as a person gave it. It holds a password, so nothing prints it.
#[derive(Clone)]
pub struct DatabaseUrl(String);

impl FromStr for DatabaseUrl {
    type Err = Infallible;

    /// Takes any text: whoever refuses it repeats it. [`Store::new`] says what is wrong with it and does not.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl(..)")
    }
}

impl DatabaseUrl {
    fn config(&self) -> Result<(Config, Tls)> {
        let (tls, rest) = Tls::take(&self.0)?;
        // The parser's own message repeats parts of the text.
        let config: Option<Config> = rest.parse().ok().filter(|config: &Config| !config.get_hosts().is_empty());
        let mut config = config.with_context(|| tls::malformed(&rest))?;
        tls.apply(&mut config);
        let at = |host: &Host| matches!(host, Host::Tcp(name) if name.contains('@'));
        if config.get_hosts().iter().any(at) {
            bail!("the database URL is malformed: in a password, @ is written %40, / is %2F and : is %3A");
        }
        let hosts = config.get_hosts().len();
        if ![0, 1, hosts].contains(&config.get_ports().len()) || ![0, hosts].contains(&config.get_hostaddrs().len()) {
            bail!(
                "the database URL is malformed: each host has a port or all have one, and each has a hostaddr or none"
            );
        }
        Ok((config, tls))
    }
}

/// Whether the role lacks a privilege.
fn is_denied(error: &anyhow::Error) -> bool {
    sqlstate(error) == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
}

/// What the database says an error is, where it is the database that says so.
fn sqlstate(error: &anyhow::Error) -> Option<&SqlState> {
    error.chain().find_map(|cause| cause.downcast_ref::<tokio_postgres::Error>()?.code())
}

/// What a read of the stream tells beside notifications.
pub struct Head {
    /// Up to where this read.
    pub position: Position,
    /// How long until the service has work to do.
    pub work: Option<Duration>,
    /// The database's present epoch.
    pub epoch: Epoch,
    /// How far the database has noted that it was read.
    pub noted: Position,
    /// The channel's name: a secret.
    pub channel: String,
    /// How full the server's NOTIFY queue is, from 0 to 1.
    pub queue: f64,
    /// How many faults of events were ever kept.
    pub faults: i64,
    /// The database's clock, in seconds since 1970, ...
    pub now: f64,
    /// ... as it was here.
    pub at: Instant,
}

/// The database has begun another epoch: nothing may be read on in the old one.
#[derive(Debug)]
pub struct OtherEpoch(Epoch);

impl std::error::Error for OtherEpoch {}

impl fmt::Display for OtherEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the database has begun another epoch, {}", self.0)
    }
}

/// A booking's timer, for the demo.
pub struct Timer {
    /// The event it brings.
    pub event: String,
    /// The booking it looks at.
    pub booking_id: i64,
    /// When, by the database's clock.
    pub in_seconds: f64,
}

/// Something that [`Store::check`] found.
pub struct Finding {
    /// `error`, `warning` or `note`.
    pub severity: String,
    /// Whose it is: events, with commas; none where it is nobody's.
    pub event: Option<String>,
    /// What is wrong.
    pub problem: String,
    /// A statement to run, or what to do in words.
    pub fix: String,
}

/// The database as the service sees it. Cheap to clone. Every method takes a pooled connection, waits at most ten seconds for
/// one and as long for an answer, and may be dropped at any time: what it began is then finished or undone by the database.
#[derive(Clone)]
pub struct Store {
    hosts: Arc<Hosts>,
    /// Which of the pools.
    pool: usize,
}

impl Store {
    /// A pool of at most `size` connections. Connects to nothing yet.
    ///
    /// # Errors
    /// The address is malformed, or names a certificate that cannot be used.
    pub fn new(url: &DatabaseUrl, size: usize) -> Result<Self> {
        let [store] = Self::several(url, [("all", size)])?;
        Ok(store)
    }

    /// Several pools to one and the same server, each with a name for operators. Connects to nothing yet.
    ///
    /// # Errors
    /// The address is malformed, or names a certificate that cannot be used.
    pub fn several<const N: usize>(url: &DatabaseUrl, sizes: [(&'static str, usize); N]) -> Result<[Self; N]> {
        let (address, tls) = url.config()?;
        let hosts = Arc::new(Hosts::new(address, tls, &sizes));
        Ok(std::array::from_fn(|pool| Self { hosts: hosts.clone(), pool }))
    }

    /// Looks for the primary, for the listener: all else is asked of the server it listens to, and from the first call on nobody
    /// but it looks. Connections to another server end. The first time it makes sure that the schema is one this binary works
    /// with. Returns a connection outside the pools.
    ///
    /// # Errors
    /// [`NoPrimary`], with each host's reason; or says which side of the schema is older and what to do.
    pub async fn seek(&self) -> Result<Link> {
        self.hosts.lead();
        let mut link = self.hosts.look().await.with_context(|| format!("connecting to {}", self.place()))?;
        // Once: beside a newer schema an older instance goes on until it is replaced, and must be able to come back to it.
        if !self.hosts.is_checked() {
            migrations::check(&mut link).await?;
            self.hosts.checked();
        }
        Ok(link)
    }

    /// A connection of its own to the primary, outside the pools: for locks that live as long as their session.
    ///
    /// # Errors
    /// The server cannot be reached, refuses, or is not the one that is listened to any more.
    pub async fn link(&self) -> Result<Link> {
        self.hosts.link().await.with_context(|| format!("connecting to {}", self.place()))
    }

    /// How all pools to the server stand, by name.
    pub fn pools(&self) -> Vec<(&'static str, PoolStatus)> {
        self.hosts.pools()
    }

    /// Hosts, ports and name of the database, for messages.
    pub fn place(&self) -> String {
        self.hosts.place()
    }

    /// Brings the schema `notifier` to this binary's version. Any number may call it at once.
    ///
    /// # Errors
    /// The database cannot be reached, is too old, is newer than this binary, or refuses a statement.
    pub async fn migrate(&self) -> Result<migrations::Migrated> {
        migrations::migrate(self.link().await?).await
    }

    /// Makes sure that the schema is one this binary works with. Changes nothing.
    ///
    /// # Errors
    /// Says which side is older and what to do.
    pub async fn check_schema(&self) -> Result<()> {
        migrations::check(&mut self.link().await?).await
    }

    /// What broke since it was defined, the worst first; nothing when all is well. Changes nothing.
    ///
    /// # Errors
    /// As [`Store::check_schema`], where the role may read which release the schema is of; the role may not call `notifier.check`.
    pub async fn check(&self) -> Result<Vec<Finding>> {
        let mut link = self.link().await?;
        // What says so stands beside secrets, and who looks after events reads no secrets.
        migrations::check(&mut link).await.or_else(|error| if is_denied(&error) { Ok(()) } else { Err(error) })?;
        let rows = link.query("select severity, event, problem, fix from notifier.check()").await.map_err(|error| {
            let denied = is_denied(&error);
            error.context(if denied {
                "this role may not look after events: take the owner of the schema notifier, or a member of notifier_admin"
            } else {
                "asking notifier.check()"
            })
        })?;
        let text = |row: &SimpleQueryRow, column| row.get(column).map(str::to_owned);
        Ok(rows
            .iter()
            .map(|row| Finding {
                severity: text(row, 0).unwrap_or_default(),
                event: text(row, 1),
                problem: text(row, 2).unwrap_or_default(),
                fix: text(row, 3).unwrap_or_default(),
            })
            .collect())
    }

    /// Reads what was committed since a position of an epoch, and hands each notification to `publish` as it arrives, by id. `limit`
    /// is how long the database may take for the first: it gathers all before. Dropped half-way it has moved nothing.
    ///
    /// # Errors
    /// The database cannot be asked, or is in another epoch, and then nothing was handed out; otherwise what was has to be expected
    /// again.
    pub async fn stream(&self, after: &Cursor, limit: Duration, mut publish: impl FnMut(Notification)) -> Result<Head> {
        let lease = self.lease().await?;
        let rows = lease
            .limit(ANSWER_LIMIT, async {
                // The server counts while it sends as well, and a slow reader is no slow query.
                lease.batch_execute(&format!("set statement_timeout = '{}s'", 600 + limit.as_secs())).await?;
                let statement = lease.prepare_cached("select * from notifier.read_on($1::text::pg_snapshot)").await?;
                lease.query_raw(&statement, [after.position.to_string()]).await
            })
            .await?;
        let mut rows = std::pin::pin!(rows);
        let head = lease.limit(limit, rows.try_next()).await?.context("the stream has no position")?;
        let head = Head {
            position: head.try_get::<_, &str>(0)?.parse()?,
            work: head.try_get::<_, Option<f64>>(1)?.map(seconds),
            epoch: head.try_get::<_, &str>(2)?.parse()?,
            noted: head.try_get::<_, &str>(3)?.parse()?,
            channel: head.try_get(4)?,
            queue: head.try_get(5)?,
            faults: head.try_get(6)?,
            now: head.try_get(7)?,
            at: Instant::now(),
        };
        if head.epoch != after.epoch {
            bail!(OtherEpoch(head.epoch));
        }
        while let Some(row) = lease.next(ANSWER_LIMIT, &mut rows).await? {
            // What cannot be read must not keep everybody from the others.
            let unreadable = |error: &anyhow::Error| error!(error = format!("{error:#}"), "told, unreadable, skipped");
            let Ok(notifications) = told::notifications(&row).inspect_err(unreadable) else { continue };
            for (nth, notification) in (1..).zip(notifications) {
                if let Ok(notification) = notification.inspect_err(unreadable) {
                    publish(notification);
                }
                if nth % MOST_AT_ONCE == 0 {
                    yield_now().await;
                }
            }
        }
        lease.limit(ANSWER_LIMIT, lease.batch_execute(STATEMENT_LIMIT)).await?;
        Ok(head)
    }

    /// Notes how far the stream was read, which a crash of the database then leaves as it is.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn note_position(&self, at: &Cursor) -> Result<()> {
        let sql = "select notifier.note_position($1, $2::text::pg_snapshot)";
        self.one(sql, &[&at.epoch.to_string(), &at.position.to_string()]).await?;
        Ok(())
    }

    /// Does a piece of what the service owes (timers that are due above all), and lets go of notifications older than
    /// `retention`. Returns how long until there is more.
    ///
    /// # Errors
    /// The database cannot be asked or undid the piece; it is still owed then.
    pub async fn work(&self, retention: Duration) -> Result<Option<Duration>> {
        let sql = "select notifier.work(make_interval(secs => $1))";
        Ok(self.one(sql, &[&retention.as_secs_f64()]).await?.try_get::<_, Option<f64>>(0)?.map(seconds))
    }

    /// Sends a beat on the channel. `from` is a word. In the simple protocol, which a pooler lets through.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn beat(&self, from: &str) -> Result<()> {
        let lease = self.lease().await?;
        lease.limit(ANSWER_LIMIT, lease.batch_execute(&format!("select notifier.beat('{from}')"))).await
    }

    /// Runs an application's script of several statements in one transaction; returns how many rows its last one touched.
    /// For the demo, which stands for an application.
    ///
    /// # Errors
    /// Whatever Postgres says of it.
    pub async fn run_script(&self, sql: &str) -> Result<u64> {
        let lease = self.lease().await?;
        let messages = lease.limit(ANSWER_LIMIT, lease.simple_query(sql)).await?;
        Ok(messages
            .iter()
            .rev()
            .find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
                _ => None,
            })
            .unwrap_or_default())
    }

    /// Bookings' timers armed after the timer `last`, and the last one there is: for the demo's countdowns. `None` as `last`:
    /// only the latter.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn timers_after(&self, last: Option<i64>) -> Result<(i64, Vec<Timer>)> {
        let lease = self.lease().await?;
        let sql = "select id, event, (key ->> 0)::int8, extract(epoch from due_at - clock_timestamp())::float8
                   from notifier.timer where id > coalesce($1, (select max(id) - 1 from notifier.timer), 0) order by id";
        let rows = lease.limit(ANSWER_LIMIT, lease.query(sql, &[&last])).await?;
        let end = rows.last().map_or(Ok(last.unwrap_or(0)), |row| row.try_get(0))?;
        let timer =
            |row: &Row| Ok(Timer { event: row.try_get(1)?, booking_id: row.try_get(2)?, in_seconds: row.try_get(3)? });
        Ok((end, rows.iter().map(timer).collect::<Result<_>>()?))
    }
}

impl Store {
    /// The one row of a statement that is prepared once for each connection.
    async fn one(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row> {
        let lease = self.lease().await?;
        lease
            .limit(ANSWER_LIMIT, async {
                let statement = lease.prepare_cached(sql).await?;
                lease.query_one(&statement, parameters).await
            })
            .await
    }

    /// As many rows as were asked for, each as something.
    async fn each<T>(
        &self,
        count: usize,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
        read: impl Fn(&Row) -> Result<T>,
    ) -> Result<Vec<T>> {
        let lease = self.lease().await?;
        let rows = lease
            .limit(ANSWER_LIMIT, async {
                let statement = lease.prepare_cached(sql).await?;
                lease.query(&statement, parameters).await
            })
            .await?;
        ensure!(rows.len() == count, "{} answers to {count} questions", rows.len());
        rows.iter().map(read).collect()
    }

    async fn lease(&self) -> Result<Lease> {
        Ok(Lease { object: Some(self.hosts.pooled(self.pool).await?), asking: AtomicBool::new(false) })
    }
}

/// A pooled connection that goes back to the pool only when its last question was answered well: one that hangs would hang the
/// next, and one that failed may be left with settings of the statement that did.
struct Lease {
    /// `None` only while it is dropped.
    object: Option<Object>,
    asking: AtomicBool,
}

impl Lease {
    async fn limit<T>(
        &self,
        limit: Duration,
        question: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        self.asking.store(true, Ordering::Relaxed);
        let answer = timeout(limit, question).await.context("the database does not answer")?;
        let answer = answer?;
        self.is_the_one_to_ask()?;
        self.asking.store(false, Ordering::Relaxed);
        Ok(answer)
    }

    /// The next row of an answer. One that has arrived is not timed, which costs half as much as to decode it.
    async fn next(&self, limit: Duration, rows: &mut Pin<&mut RowStream>) -> Result<Option<Row>> {
        match rows.try_next().now_or_never() {
            Some(Ok(row)) if self.is_the_one_to_ask().is_ok() => Ok(row),
            Some(arrived) => self.limit(limit, ready(arrived)).await,
            None => self.limit(limit, rows.try_next()).await,
        }
    }

    fn is_the_one_to_ask(&self) -> Result<()> {
        // Another server is the primary now, or this one was started again.
        let asked = Object::pool(self).is_some_and(|pool| !pool.is_closed());
        ensure!(asked, "the server that answered is not the one to ask any more");
        Ok(())
    }
}

impl Deref for Lease {
    type Target = Object;

    fn deref(&self) -> &Object {
        #[allow(clippy::expect_used, reason = "see the field")]
        self.object.as_ref().expect("taken only by drop")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let (true, Some(object)) = (self.asking.load(Ordering::Relaxed), self.object.take()) {
            drop(Object::take(object));
        }
    }
}

/// One row that this binary cannot read must not keep everybody from the others.
fn decode(payload: &str) -> Option<Notification> {
    match serde_json::from_str(payload) {
        Ok(notification) => Some(notification),
        Err(error) => {
            // The payload holds somebody's message, and the error quotes it.
            error!(kind = ?error.classify(), column = error.column(), "a row of notifier.notification is undecodable and skipped");
            None
        }
    }
}

/// Seconds as Postgres counts them: an interval of centuries is no reason to panic.
pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0))
        .unwrap_or(Duration::from_secs(86_400))
        .min(Duration::from_secs(86_400))
}
