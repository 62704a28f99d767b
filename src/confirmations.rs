//! Notes in the database what reached a socket, in batches: one statement for what many sockets confirmed within a moment.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::metrics::Metrics;
use crate::protocol::{Position, UserId};
use crate::store::Store;

/// How long confirmations are gathered before they are noted.
const GATHER: Duration = Duration::from_millis(50);
/// How long until what could not be noted is tried again.
const PAUSE: Duration = Duration::from_millis(500);
/// How many one statement notes.
const BATCH: usize = 5_000;
/// How many wait at most, 16 bytes each. Beyond, they are forgotten: those notifications are sent once more to the next socket.
const MAX_WAITING: usize = 1_000_000;
/// How long a catch-up waits for confirmations before it reads without them.
const SETTLE_LIMIT: Duration = Duration::from_secs(1);

/// What a user was told as a number: everything visible in `within` and undelivered with an id below `before`.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Who was told.
    pub user: UserId,
    /// The position at which they were counted.
    pub within: Position,
    /// The oldest id that was sent by itself.
    pub before: i64,
}

/// Where sessions leave what was confirmed. Leaving is synchronous and never waits.
pub struct Confirmations {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    /// How many of all that were left have been noted or given up.
    settled: watch::Sender<u64>,
}

/// A row that somebody holds locked is tried so often, half a second apart.
const TRIES: u8 = 20;

struct Delivered {
    id: i64,
    slot: i16,
    tries: u8,
}

#[derive(Default)]
struct Waiting {
    delivered: Vec<Delivered>,
    summaries: Vec<Summary>,
    /// How many were ever left here.
    left: u64,
}

impl Confirmations {
    /// Nothing waits.
    #[allow(clippy::new_without_default, reason = "a part of the service, made once")]
    pub fn new() -> Self {
        Self { waiting: Mutex::default(), arrived: Notify::new(), settled: watch::Sender::new(0) }
    }

    /// A notification reached a socket of its user.
    pub fn delivered(&self, id: i64, slot: i16) {
        let waiting = &mut *self.lock();
        if waiting.delivered.len() < MAX_WAITING {
            waiting.delivered.push(Delivered { id, slot, tries: 0 });
            waiting.left += 1;
            self.arrived.notify_one();
        }
    }

    /// A summary reached a socket of its user.
    pub fn summarized(&self, summary: Summary) {
        let waiting = &mut *self.lock();
        if waiting.summaries.len() < MAX_WAITING {
            waiting.summaries.push(summary);
            waiting.left += 1;
            self.arrived.notify_one();
        }
    }

    /// Waits until what was left so far is noted, so that a catch-up does not send it again; for a second at most.
    pub async fn settle(&self) {
        let left = self.lock().left;
        let mut settled = self.settled.subscribe();
        let _ = timeout(SETTLE_LIMIT, settled.wait_for(|settled| *settled >= left)).await;
    }

    /// Notes confirmations until `stop`, and then what is left.
    pub async fn run(self: Arc<Self>, store: Store, metrics: Arc<Metrics>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.arrived.notified() => sleep(GATHER).await,
                () = stop.cancelled() => {
                    self.note(&store, &metrics).await;
                    return;
                }
            }
            self.note(&store, &metrics).await;
        }
    }

    /// Notes all that waits. What the database does not take waits on.
    async fn note(&self, store: &Store, metrics: &Metrics) {
        let (mut delivered, mut summaries) = {
            let waiting = &mut *self.lock();
            (mem::take(&mut waiting.delivered), mem::take(&mut waiting.summaries))
        };
        let mut held = Vec::new();
        while let Some(summary) = summaries.last() {
            match store.summarize(&summary.user, &summary.within, summary.before).await {
                Ok(_) => self.settled.send_modify(|settled| *settled += 1),
                Err(error) => return self.put_back(delivered, summaries, &error).await,
            }
            summaries.pop();
        }
        while !delivered.is_empty() {
            let rest = delivered.len().saturating_sub(BATCH);
            match store.confirm(delivered[rest..].iter().map(|row| (row.id, row.slot))).await {
                Ok((new, locked)) => {
                    metrics.confirmed.inc_by(new.unsigned_abs());
                    self.settled.send_modify(|settled| *settled += (delivered.len() - rest) as u64);
                    held.extend(delivered.drain(rest..).filter(|row| row.tries < TRIES && locked.contains(&row.id)));
                }
                Err(error) => {
                    delivered.append(&mut held);
                    return self.put_back(delivered, summaries, &error).await;
                }
            }
        }
        if !held.is_empty() {
            sleep(PAUSE).await;
            let waiting = &mut *self.lock();
            waiting.left += held.len() as u64;
            waiting.delivered.extend(held.into_iter().map(|row| Delivered { tries: row.tries + 1, ..row }));
            self.arrived.notify_one();
        }
    }

    async fn put_back(&self, delivered: Vec<Delivered>, summaries: Vec<Summary>, error: &anyhow::Error) {
        warn!(error = format!("{error:#}"), waiting = delivered.len(), "confirmations not noted, trying again");
        sleep(PAUSE.mul_f64(1.0 + fastrand::f64())).await;
        let waiting = &mut *self.lock();
        waiting.delivered.extend(delivered);
        waiting.summaries.extend(summaries);
        self.arrived.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here panics half-way through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
