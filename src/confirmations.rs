//! Notes in the database what reached a socket, in batches: one statement for what many sockets confirmed within a moment.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::metrics::Metrics;
use crate::protocol::{Cursor, UserId};
use crate::store::{Delivered, Store};

/// How long confirmations are gathered before they are noted.
const GATHER: Duration = Duration::from_millis(50);
/// How long until what could not be noted is tried again.
const PAUSE: Duration = Duration::from_millis(500);
/// How many one statement notes.
const BATCH: usize = 5_000;
/// How many wait at most, 24 bytes each. Beyond, they are forgotten: those notifications are sent once more to the next socket.
const MAX_WAITING: usize = 1_000_000;
/// How long a catch-up waits for confirmations before it reads without them.
const SETTLE_LIMIT: Duration = Duration::from_secs(1);

/// What a user was told as a number: everything visible in `within` and undelivered with an id below `before`.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Who was told.
    pub user: UserId,
    /// Where they were counted.
    pub within: Cursor,
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

#[derive(Default)]
struct Waiting {
    batch: Batch,
    /// How many were ever left here.
    left: u64,
}

#[derive(Default)]
struct Batch {
    /// And how often each was tried.
    delivered: Vec<(Delivered, u8)>,
    summaries: Vec<Summary>,
    /// What each device has had, at last.
    devices: HashMap<(UserId, Arc<str>), Cursor>,
}

impl Confirmations {
    /// Nothing waits.
    #[allow(clippy::new_without_default, reason = "a part of the service, made once")]
    pub fn new() -> Self {
        Self { waiting: Mutex::default(), arrived: Notify::new(), settled: watch::Sender::new(0) }
    }

    /// A notification reached a socket of its user.
    pub fn delivered(&self, row: Delivered) {
        let waiting = &mut *self.lock();
        if waiting.batch.delivered.len() < MAX_WAITING {
            waiting.batch.delivered.push((row, 0));
            waiting.left += 1;
            self.arrived.notify_one();
        }
    }

    /// A summary reached a socket of its user.
    pub fn summarized(&self, summary: Summary) {
        let waiting = &mut *self.lock();
        if waiting.batch.summaries.len() < MAX_WAITING {
            waiting.batch.summaries.push(summary);
            waiting.left += 1;
            self.arrived.notify_one();
        }
    }

    /// A device has had all that the cursor sees.
    pub fn device(&self, user: UserId, device: Arc<str>, cursor: Cursor) {
        let waiting = &mut *self.lock();
        if waiting.batch.devices.len() < MAX_WAITING {
            // In place of an older one the count stays even.
            waiting.left += u64::from(waiting.batch.devices.insert((user, device), cursor).is_none());
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
        let mut batch = mem::take(&mut self.lock().batch);
        let mut held = Vec::new();
        if let Err(error) = self.try_to_note(&mut batch, &mut held, store, metrics).await {
            warn!(
                error = format!("{error:#}"),
                waiting = batch.delivered.len(),
                "confirmations not noted, trying again"
            );
            sleep(PAUSE.mul_f64(1.0 + fastrand::f64())).await;
        } else if !held.is_empty() {
            sleep(PAUSE).await;
        } else {
            return;
        }
        let waiting = &mut *self.lock();
        waiting.left += held.len() as u64;
        waiting.batch.delivered.extend(batch.delivered);
        waiting.batch.delivered.extend(held);
        waiting.batch.summaries.extend(batch.summaries);
        for (device, cursor) in batch.devices {
            waiting.batch.devices.entry(device).or_insert(cursor);
        }
        self.arrived.notify_one();
    }

    /// Takes what it has noted out of the batch; `held` gets the rows that somebody has locked.
    async fn try_to_note(
        &self,
        batch: &mut Batch,
        held: &mut Vec<(Delivered, u8)>,
        store: &Store,
        metrics: &Metrics,
    ) -> anyhow::Result<()> {
        let settle = |count: usize| self.settled.send_modify(|settled| *settled += count as u64);
        while let Some(summary) = batch.summaries.last() {
            store.summarize(&summary.user, &summary.within, summary.before).await?;
            batch.summaries.pop();
            settle(1);
        }
        while !batch.delivered.is_empty() {
            let rest = batch.delivered.len().saturating_sub(BATCH);
            let (new, locked) = store.confirm(batch.delivered[rest..].iter().map(|(row, _)| row)).await?;
            metrics.confirmed.inc_by(new.unsigned_abs());
            settle(batch.delivered.len() - rest);
            let locked =
                batch.delivered.drain(rest..).filter(|(row, tries)| *tries < TRIES && locked.contains(&row.id));
            held.extend(locked.map(|(row, tries)| (row, tries + 1)));
        }
        while !batch.devices.is_empty() {
            let some: Vec<_> = batch.devices.iter().take(BATCH).collect();
            store.remember(&some).await?;
            let some: Vec<_> = some.into_iter().map(|(device, _)| device.clone()).collect();
            batch.devices.retain(|device, _| !some.contains(device));
            settle(some.len());
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here panics half-way through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
