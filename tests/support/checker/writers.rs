//! Writers: the parking application, committing rows that each tell one user, in all the ways an application does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_postgres::error::Severity;
use tokio_postgres::{Client, Error, NoTls};
use tokio_util::sync::CancellationToken;

use super::Plan;
use super::ledger::{Ledger, Outcome};

/// A way to write.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// One row, one statement.
    Single,
    /// One statement, several rows, several users.
    Several,
    /// One statement that tells by the thousand. Not among [`ALL`], which write often.
    Thousand,
    /// A row that tells nobody, then an update that tells.
    Update,
    /// A transaction of which a part is rolled back.
    Savepoint,
    /// A transaction that is rolled back.
    Rollback,
    /// A transaction held open for a moment, so that commits come in another order than ids.
    Held,
}

/// All ways.
pub const ALL: &[Kind] = &[Kind::Single, Kind::Several, Kind::Update, Kind::Savepoint, Kind::Rollback, Kind::Held];

/// What all writers share.
pub struct Writers {
    pub plan: Plan,
    pub url: String,
    pub ledger: Arc<Ledger>,
    /// Whether they write nothing for now.
    pub rests: watch::Receiver<bool>,
    /// Statements that the server refused with an error while it was there.
    pub failures: AtomicU64,
}

/// How far a write came before it failed.
enum Ended {
    /// Before its commit was asked for.
    Early(Error),
    /// When the commit may have happened.
    Committing(Error),
}

impl Writers {
    /// Writes until `stop`, over as many connections as it takes.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let connected = timeout(Duration::from_secs(5), tokio_postgres::connect(&self.url, NoTls)).await;
            let Ok(Ok((client, connection))) = connected else {
                sleep(Duration::from_millis(20 + fastrand::u64(..50))).await;
                continue;
            };
            tokio::spawn(connection);
            if client.batch_execute(self.plan.session).await.is_err() {
                continue;
            }
            while !stop.is_cancelled() && !client.is_closed() {
                // (What lets them rest may have ended with the test.)
                let _ = self.rests.clone().wait_for(|rests| !rests).await;
                self.write(&client).await;
                sleep(Duration::from_millis(fastrand::u64(..=self.plan.pause_ms))).await;
            }
        }
    }

    async fn write(&self, client: &Client) {
        let kind = self.plan.kinds[fastrand::usize(..self.plan.kinds.len())];
        let count = match kind {
            Kind::Several => fastrand::usize(2..5),
            Kind::Thousand => fastrand::usize(1001..1500),
            _ => 1,
        };
        let users: Vec<i64> = (0..count).map(|_| self.plan.user(fastrand::usize(..self.plan.users))).collect();
        let keys = self.ledger.begin(&users);
        let rows: Vec<(i64, i64)> = users.into_iter().zip(keys.iter().copied()).collect();
        let wanted = !matches!(kind, Kind::Rollback);
        let ended = match kind {
            Kind::Single | Kind::Several | Kind::Thousand => committing(client, &insert("success", &rows)).await,
            Kind::Update => self.update(client, rows[0]).await,
            Kind::Savepoint => self.savepoint(client, rows[0]).await,
            Kind::Rollback | Kind::Held => self.held(client, &rows, wanted).await,
        };
        let outcome = match &ended {
            Ok(()) | Err(Ended::Early(_)) if !wanted => Outcome::RolledBack,
            Ok(()) => Outcome::Ok,
            Err(Ended::Early(_)) => Outcome::Failed,
            // An error, and not a lost connection, is an answer: the transaction is undone.
            Err(Ended::Committing(error)) if is_refusal(error) => Outcome::Failed,
            Err(Ended::Committing(_)) => Outcome::Unknown,
        };
        self.ledger.end(&keys, outcome);
        if let Err(Ended::Early(error) | Ended::Committing(error)) = ended
            && is_refusal(&error)
        {
            if self.failures.fetch_add(1, Ordering::Relaxed) < 3 && !self.plan.writes_may_fail {
                eprintln!("a write failed: {error:?}");
            }
            // A transaction may be left open behind it.
            let _ = client.batch_execute("rollback").await;
        }
    }

    async fn update(&self, client: &Client, row: (i64, i64)) -> Result<(), Ended> {
        let insert = format!("{} returning id", insert("pending", &[row]));
        let id: i64 = client.query_one(&insert, &[]).await.map_err(Ended::Early)?.get(0);
        committing(client, &format!("update payment set status = 'success' where id = {id}")).await
    }

    async fn savepoint(&self, client: &Client, row: (i64, i64)) -> Result<(), Ended> {
        let undone = self.ledger.begin(&[row.0, row.0]);
        self.ledger.end(&undone, Outcome::RolledBack);
        let sql = format!(
            "begin; savepoint s; {}; rollback to s; {}; savepoint t; {}",
            insert("success", &[(row.0, undone[0])]),
            insert("success", &[row]),
            insert("success", &[(row.0, undone[1])])
        );
        client.batch_execute(&sql).await.map_err(Ended::Early)?;
        self.hold().await;
        committing(client, "rollback to t; commit").await
    }

    async fn held(&self, client: &Client, rows: &[(i64, i64)], commit: bool) -> Result<(), Ended> {
        client.batch_execute(&format!("begin; {}", insert("success", rows))).await.map_err(Ended::Early)?;
        self.hold().await;
        if commit {
            committing(client, "commit").await
        } else {
            client.batch_execute("rollback").await.map_err(Ended::Early)
        }
    }

    async fn hold(&self) {
        sleep(Duration::from_millis(fastrand::u64(..=self.plan.hold_ms))).await;
    }
}

/// Paid renewals: each tells its user, with its key in `data.amount`. Rows are (user, key).
pub fn insert(status: &str, rows: &[(i64, i64)]) -> String {
    let values: Vec<String> =
        rows.iter().map(|(user, key)| format!("(104, {user}, {key}, '{status}', true)")).collect();
    format!("insert into payment (booking_id, user_id, amount, status, is_renewal) values {}", values.join(", "))
}

async fn committing(client: &Client, sql: &str) -> Result<(), Ended> {
    client.batch_execute(sql).await.map_err(Ended::Committing)
}

/// Whether the server answered with an error and went on.
fn is_refusal(error: &Error) -> bool {
    error.as_db_error().is_some_and(|error| error.parsed_severity() == Some(Severity::Error))
}
