//! pgbench at work beside a measurement, with a log of each of its transactions: any stretch of time can be looked at afterwards.

use std::fs;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tokio::process::Child;
use tokio::time::timeout;
use tokio_postgres::Client;

use super::{LIMIT, eventually};

/// Killed when dropped.
pub struct Load {
    child: Child,
    folder: TempDir,
    superuser: Client,
    clients: u64,
}

/// What a load did.
pub struct Log {
    transactions: Vec<Transaction>,
    /// How many of its clients had failed: each ends at its first error.
    pub errors: u64,
    /// What pgbench said, of which the last lines are of its being stopped.
    pub said: String,
}

struct Transaction {
    script: usize,
    microseconds: f64,
    ended: SystemTime,
}

impl Load {
    /// Name of the file that its log begins with, in a folder that is its own.
    pub const LOG: &str = "log";

    /// Waits until all its clients are at work.
    pub async fn started(child: Child, folder: TempDir, superuser: Client, clients: u64) -> Self {
        let load = Self { child, folder, superuser, clients };
        eventually("pgbench is connected", || async { load.backends().await.len() as u64 == clients }).await;
        load
    }

    /// The server's processes that work for it. (pgbench also opens a connection of its own at first, which asks nothing.)
    pub async fn backends(&self) -> Vec<u32> {
        let sql = "select pid from pg_stat_activity where application_name = 'pgbench' and query <> ''";
        let rows = self.superuser.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, i32>(0) as u32).collect()
    }

    /// Ends it and tells what it did.
    pub async fn stop(self) -> Log {
        let errors = self.clients - self.backends().await.len() as u64;
        // It has no other end at which it writes out its log.
        let sql = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgbench'";
        self.superuser.query(sql, &[]).await.unwrap();
        let Self { child, folder, .. } = self;
        let ended = timeout(LIMIT, child.wait_with_output()).await.expect("pgbench never ended").unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        let mut transactions = Vec::new();
        for file in fs::read_dir(folder.path()).unwrap() {
            let path = file.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().starts_with(Self::LOG) {
                let text = fs::read_to_string(path).unwrap();
                transactions.extend(text.lines().map(transaction));
            }
        }
        assert!(!transactions.is_empty(), "pgbench did nothing: {said}");
        Log { transactions, errors, said }
    }
}

impl Log {
    /// Commits a second.
    pub fn rate(&self, during: &Range<SystemTime>) -> f64 {
        self.count(during) as f64 / during.end.duration_since(during.start).unwrap().as_secs_f64()
    }

    /// How many transactions ended.
    pub fn count(&self, during: &Range<SystemTime>) -> usize {
        self.transactions.iter().filter(|transaction| during.contains(&transaction.ended)).count()
    }

    /// How many microseconds each transaction of a script took.
    pub fn microseconds(&self, script: usize, during: &Range<SystemTime>) -> Vec<f64> {
        let wanted = |transaction: &&Transaction| transaction.script == script && during.contains(&transaction.ended);
        self.transactions.iter().filter(wanted).map(|transaction| transaction.microseconds).collect()
    }
}

/// A line is: client, number, microseconds, script, and when it ended in seconds and microseconds since 1970.
fn transaction(line: &str) -> Transaction {
    let fields: Vec<u64> = line.split(' ').take(6).map(|field| field.parse().unwrap()).collect();
    let ended = SystemTime::UNIX_EPOCH + Duration::from_secs(fields[4]) + Duration::from_micros(fields[5]);
    Transaction { script: fields[3] as usize, microseconds: fields[2] as f64, ended }
}
