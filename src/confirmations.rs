//! Notes in the database what reached a socket, in batches: one statement for what many sockets confirmed within a moment.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
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

/// How long confirmations are gathered before they are noted, unless a catch-up waits for them: each statement waits for the disk, and
/// a writer that commits meanwhile for both.
const GATHER: Duration = Duration::from_millis(250);
/// So long at least: when a crowd comes back thousands of catch-ups wait, and all wake with each statement.
const LEAST: Duration = Duration::from_millis(50);
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
    /// Somebody waits for what is gathered.
    hurried: Notify,
    /// How many of all that were left have been noted or given up.
    settled: watch::Sender<u64>,
}

/// A row that somebody holds locked, or that is none yet, is tried so often, half a second apart: two minutes.
const TRIES: u8 = 240;

/// A user's device.
type Device = (UserId, Arc<str>);

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
    devices: HashMap<Device, Cursor>,
}

impl Confirmations {
    /// Nothing waits.
    #[allow(clippy::new_without_default, reason = "a part of the service, made once")]
    pub fn new() -> Self {
        let (arrived, hurried) = (Notify::new(), Notify::new());
        Self { waiting: Mutex::default(), arrived, hurried, settled: watch::Sender::new(0) }
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
        if *settled.borrow() < left {
            self.hurried.notify_one();
        }
        let _ = timeout(SETTLE_LIMIT, settled.wait_for(|settled| *settled >= left)).await;
    }

    /// Notes confirmations until `stop`, and then what is left.
    pub async fn run(self: Arc<Self>, store: Store, metrics: Arc<Metrics>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.arrived.notified() => {
                    sleep(LEAST).await;
                    tokio::select! {
                        () = sleep(GATHER.saturating_sub(LEAST)) => {}
                        () = self.hurried.notified() => {}
                        () = stop.cancelled() => {}
                    }
                }
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
        // Each by itself: what fails of one keeps none of the others.
        let noted = [
            self.note_delivered(&mut batch.delivered, &mut held, store, metrics).await,
            self.note_devices(&mut batch.devices, store).await,
            self.note_summaries(&mut batch.summaries, store).await,
        ];
        let mut failed = false;
        for error in noted.into_iter().filter_map(Result::err) {
            failed = true;
            warn!(error = format!("{error:#}"), "confirmations not noted, trying again");
        }
        if failed {
            sleep(PAUSE.mul_f64(1.0 + fastrand::f64())).await;
        } else if !held.is_empty() {
            sleep(PAUSE).await;
        } else if batch.summaries.is_empty() {
            return;
        }
        let waiting = &mut *self.lock();
        waiting.left += held.len() as u64;
        waiting.batch.delivered.extend(batch.delivered);
        waiting.batch.delivered.extend(held);
        waiting.batch.summaries.extend(batch.summaries);
        for (device, cursor) in batch.devices {
            match waiting.batch.devices.entry(device) {
                Entry::Vacant(entry) => {
                    entry.insert(cursor);
                }
                // A newer one stands in its place.
                Entry::Occupied(_) => self.settle_more(1),
            }
        }
        self.arrived.notify_one();
    }

    /// Takes what it has noted; `held` gets the rows that somebody has locked.
    async fn note_delivered(
        &self,
        delivered: &mut Vec<(Delivered, u8)>,
        held: &mut Vec<(Delivered, u8)>,
        store: &Store,
        metrics: &Metrics,
    ) -> anyhow::Result<()> {
        while !delivered.is_empty() {
            let rest = delivered.len().saturating_sub(BATCH);
            let (new, locked) = store.confirm(delivered[rest..].iter().map(|(row, _)| row)).await?;
            let locked = HashSet::<_>::from_iter(locked);
            metrics.confirmed.inc_by(new.unsigned_abs());
            for (row, _) in delivered[rest..].iter().filter(|(row, _)| row.live && !locked.contains(&row.id)) {
                metrics.commit_to_confirmed.observe(metrics.clock.age(row.created));
            }
            self.settle_more(delivered.len() - rest);
            let locked = delivered.drain(rest..).filter(|(row, tries)| *tries < TRIES && locked.contains(&row.id));
            held.extend(locked.map(|(row, tries)| (row, tries + 1)));
        }
        Ok(())
    }

    async fn note_devices(&self, devices: &mut HashMap<Device, Cursor>, store: &Store) -> anyhow::Result<()> {
        while !devices.is_empty() {
            let some: Vec<_> = devices.iter().take(BATCH).collect();
            store.remember(&some).await?;
            let noted: Vec<_> = some.into_iter().map(|(device, _)| device.clone()).collect();
            for device in &noted {
                devices.remove(device);
            }
            self.settle_more(noted.len());
        }
        Ok(())
    }

    /// A piece of each: of a million rows it takes minutes, and everybody else's are noted between.
    async fn note_summaries(&self, summaries: &mut Vec<Summary>, store: &Store) -> anyhow::Result<()> {
        let mut rest = mem::take(summaries).into_iter();
        while let Some(summary) = rest.next() {
            match store.summarize(&summary.user, &summary.within, summary.before).await {
                Ok(true) => summaries.push(summary),
                Ok(false) => self.settle_more(1),
                Err(error) => {
                    summaries.push(summary);
                    summaries.extend(rest);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn settle_more(&self, count: usize) {
        self.settled.send_modify(|settled| *settled += count as u64);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here panics half-way through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
