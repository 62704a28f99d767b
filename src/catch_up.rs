//! Reads for sockets what they have not been told, many users in one question: while some questions are under way, those that
//! arrive gather for the next. Ten thousand sockets that come back at once ask some dozens of questions.

use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::OptionFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::metrics::Metrics;
use crate::protocol::{ReadBy, Told};
use crate::registry::Registry;
use crate::store::{Gap, Opened, Opening, Page, Store};

/// How many sockets one question is for at most.
const BATCH: usize = 200;
/// While one question is under way and fewer than a batch wait, so long until the next is asked beside it: each costs more than most
/// of the sockets in it, and the first over a connection, which is planned, as much as a thousand of them.
const GATHER: Duration = Duration::from_millis(10);
/// How long until a question that failed is asked again, more or less, and one that is only halved.
const PAUSE: Duration = Duration::from_secs(1);
const HALVED_PAUSE: Duration = Duration::from_millis(100);
/// How many times that something was read wait to be told. Of more nobody is told until the next.
const MAX_MIRRORS: usize = 100_000;

/// What catch-ups ask, and who waits for each answer.
pub struct CatchUp {
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    window: Duration,
    limit: i32,
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Default)]
struct Waiting {
    openings: Asked<Opening, Opened>,
    gaps: Asked<Gap, Page>,
    /// What was read somewhere, to be told with a fresh count.
    mirrors: Vec<ReadBy>,
}

impl Waiting {
    /// How many do for one and the same question.
    fn most(&self) -> usize {
        self.openings.len().max(self.gaps.len()).max(self.mirrors.len())
    }
}

type Asked<Q, A> = Vec<(Q, oneshot::Sender<A>)>;
type Answering<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

impl CatchUp {
    /// Opening sockets are told of the last `window`, the newest `limit`.
    pub fn new(registry: Arc<Registry>, metrics: Arc<Metrics>, window: Duration, limit: i32) -> Self {
        Self { registry, metrics, window, limit, waiting: Mutex::default(), arrived: Notify::new() }
    }

    /// What a socket that opens is told first. Waits as long as the database does not answer. Dropped, the question is not asked
    /// or its answer goes unheard.
    pub async fn opened(&self, opening: Opening) -> Opened {
        self.ask(|waiting| &mut waiting.openings, opening).await
    }

    /// A page of what was missed. Otherwise like [`Self::opened`].
    pub async fn missed(&self, gap: Gap) -> Page {
        self.ask(|waiting| &mut waiting.gaps, gap).await
    }

    /// Tells a user's other sockets what was read and how many are unread now. Synchronous: it is told later.
    pub fn mirror(&self, read_by: ReadBy) {
        let waiting = &mut *self.lock();
        if waiting.mirrors.len() < MAX_MIRRORS {
            waiting.mirrors.push(read_by);
            self.arrived.notify_one();
        }
    }

    /// Tells everybody who wants to know how many are unread now: what was read while nothing was heard is unknown.
    pub fn recount(&self) {
        for user_id in self.registry.curious() {
            self.mirror(ReadBy { user_id, ids: None, before: None, origin: None });
        }
    }

    async fn ask<Q: Clone, A>(&self, queue: impl Fn(&mut Waiting) -> &mut Asked<Q, A>, question: Q) -> A {
        loop {
            let (answer, answered) = oneshot::channel();
            queue(&mut self.lock()).push((question.clone(), answer));
            self.arrived.notify_one();
            if let Ok(answer) = answered.await {
                return answer;
            }
            // Nobody answers any more: this stops, and the caller with it, or it asks in vain but not in haste.
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Answers until `stop`, over at most `connections` at once.
    pub async fn run(self: Arc<Self>, store: Store, connections: usize, stop: CancellationToken) {
        tokio::select! {
            // What is read before the stream has a position could be older than where the stream begins.
            () = self.registry.begun() => {}
            () = stop.cancelled() => return,
        }
        let mut answering = FuturesUnordered::<Answering>::new();
        // Since when some wait beside a question that is under way.
        let mut gathering = None;
        loop {
            while answering.len() < connections {
                let patient = !answering.is_empty() && gathering.is_none_or(|since: Instant| since.elapsed() < GATHER);
                let Some(batch) = self.batch(&store, if patient { BATCH } else { 1 }) else { break };
                answering.push(batch);
                gathering = None;
            }
            gathering = (self.lock().most() > 0).then(|| gathering.unwrap_or_else(Instant::now));
            let another = gathering.filter(|_| answering.len() < connections).map(|since| sleep_until(since + GATHER));
            tokio::select! {
                () = self.arrived.notified() => {}
                Some(()) = answering.next() => {}
                Some(()) = OptionFuture::from(another) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// A question, if at least so many wait for one.
    fn batch<'a>(&'a self, store: &'a Store, least: usize) -> Option<Answering<'a>> {
        let waiting = &mut *self.lock();
        if waiting.most() < least {
            return None;
        }
        if let Some(batch) = take(&mut waiting.openings) {
            return Some(Box::pin(self.answer(
                batch,
                |openings| store.opened(openings, self.window, self.limit),
                |opened| opened.notifications.len(),
            )));
        }
        if let Some(batch) = take(&mut waiting.gaps) {
            return Some(Box::pin(self.answer(batch, |gaps| store.missed(gaps), |page| page.notifications.len())));
        }
        let mirrors = take_some(&mut waiting.mirrors)?;
        Some(Box::pin(self.tell_of(mirrors, store)))
    }

    /// Asks for all of a batch until the database answers: the sockets stay open meanwhile. Of a batch that fails half is asked
    /// for, down to one: a question that cannot be answered in time keeps none of the others waiting.
    /// `rows` is how many an answer holds.
    async fn answer<Q, A, F>(&self, mut batch: Asked<Q, A>, question: impl Fn(Vec<Q>) -> F, rows: impl Fn(&A) -> usize)
    where
        Q: Clone,
        F: Future<Output = anyhow::Result<Vec<A>>>,
    {
        let mut size = batch.len();
        while !batch.is_empty() {
            size = size.min(batch.len());
            self.metrics.catch_up_reads.inc();
            match question(batch[..size].iter().map(|(question, _)| question.clone()).collect()).await {
                Ok(answers) => {
                    self.metrics.catch_ups.inc_by(answers.len() as u64);
                    self.metrics.catch_up_rows.inc_by(answers.iter().map(&rows).sum::<usize>() as u64);
                    for ((_, socket), answer) in batch.drain(..size).zip(answers) {
                        let _ = socket.send(answer);
                    }
                    size *= 2;
                }
                Err(error) => {
                    warn!(error = format!("{error:#}"), sockets = size, "catch-up failed, asking again");
                    sleep(if size > 1 { HALVED_PAUSE } else { PAUSE.mul_f64(0.5 + fastrand::f64()) }).await;
                    // What fails by itself comes last.
                    batch.rotate_left(size);
                    size = (size / 2).max(1);
                    batch.retain(|(_, answer)| !answer.is_closed());
                }
            }
        }
    }

    /// Those with a socket here are told; of others nothing is asked.
    async fn tell_of(&self, mut mirrors: Vec<ReadBy>, store: &Store) {
        mirrors.retain(|read_by| self.registry.is_curious(&read_by.user_id));
        if mirrors.is_empty() {
            return;
        }
        let users: Vec<_> = mirrors.iter().map(|read_by| read_by.user_id.clone()).collect();
        let mut counts = store.unread(&users).await;
        if counts.is_err() {
            // A connection that was lost, say. A database that is away for longer is listened to anew, and then all is counted anew.
            sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
            counts = store.unread(&users).await;
        }
        match counts {
            Ok(counts) => {
                for (read_by, unread) in mirrors.iter().zip(counts) {
                    let (ids, before) = (read_by.ids.as_deref(), read_by.before.as_deref());
                    let frame = Told::Read { ids, before, unread }.frame();
                    let origin = read_by.origin.as_ref().and_then(|origin| u64::from_str_radix(origin, 16).ok());
                    self.registry.tell(&read_by.user_id, &frame, origin);
                }
            }
            Err(error) => warn!(error = format!("{error:#}"), "what was read is not mirrored"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here panics half-way through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take<Q, A>(asked: &mut Asked<Q, A>) -> Option<Asked<Q, A>> {
    // Who has gone need not be answered.
    asked.retain(|(_, answer)| !answer.is_closed());
    take_some(asked)
}

fn take_some<T>(waiting: &mut Vec<T>) -> Option<Vec<T>> {
    if waiting.is_empty() {
        // After ten thousand sockets came back at once nothing of them is kept.
        *waiting = Vec::new();
        return None;
    }
    let rest = waiting.split_off(waiting.len().min(BATCH));
    Some(mem::replace(waiting, rest))
}
