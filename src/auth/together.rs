//! One question for all who ask: what arrives while other questions are under way waits, and is asked at once.
//!
//! Those who ask only wait. Whoever asks for them is a part of the service: a stranger who hangs up breaks off nobody's question, and
//! leaves none behind in the database that nobody waits for while the next is asked beside it.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep};

/// How many are asked together at most.
const BATCH: usize = 200;
/// What took longer is asked for fewer at once, until it is quicker: who waits does so for all that are asked with them.
const SLOW: Duration = Duration::from_millis(500);

/// See the module.
pub struct Together<Q, A> {
    waiting: Mutex<Vec<(Q, oneshot::Sender<A>)>>,
    arrived: Notify,
    /// How many are asked together now.
    batch: AtomicUsize,
}

impl<Q: Clone, A> Together<Q, A> {
    /// Nobody asks yet.
    pub fn new() -> Self {
        Self { waiting: Mutex::default(), arrived: Notify::new(), batch: AtomicUsize::new(BATCH) }
    }

    /// The answer to a question; `None` when nobody answers any more, since the service ends. Waits while nobody does
    /// [`Self::serve`]. Cancel safe.
    pub async fn ask(&self, question: Q) -> Option<A> {
        let (asker, answer) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push((question, asker));
        self.arrived.notify_one();
        answer.await.ok()
    }

    /// Answers questions, one batch after the other; `all` answers many, in order, and each batch waits so long for others to join
    /// it. As many batches are under way as this runs.
    pub async fn serve<F: Future<Output = Vec<A>>>(&self, gather: Duration, all: impl Fn(Vec<Q>) -> F) -> Infallible {
        loop {
            if !self.has_waiting() {
                self.arrived.notified().await;
                continue;
            }
            if !gather.is_zero() {
                sleep(gather).await;
            }
            let batch = self.take();
            if batch.is_empty() {
                continue;
            }
            let begun = Instant::now();
            let answers = all(batch.iter().map(|(question, _)| question.clone()).collect()).await;
            self.took(batch.len(), begun.elapsed());
            for ((_, asker), answer) in batch.into_iter().zip(answers) {
                let _ = asker.send(answer);
            }
        }
    }

    fn has_waiting(&self) -> bool {
        !self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn take(&self) -> Vec<(Q, oneshot::Sender<A>)> {
        let waiting = &mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Who has gone need not be answered.
        waiting.retain(|(_, asker)| !asker.is_closed());
        let rest = waiting.split_off(waiting.len().min(self.batch.load(Ordering::Relaxed)));
        if !rest.is_empty() {
            self.arrived.notify_one();
        }
        std::mem::replace(waiting, rest)
    }

    fn took(&self, count: usize, time: Duration) {
        let batch = self.batch.load(Ordering::Relaxed);
        if time > SLOW {
            // So many would not have been too slow.
            let share = SLOW.as_secs_f64() / time.as_secs_f64();
            self.batch.store(((count as f64 * share) as usize).clamp(1, batch), Ordering::Relaxed);
        } else if count == batch && time < SLOW / 4 {
            self.batch.store((2 * batch).min(BATCH), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A batch that is under way: its questions, and who is to have the answer.
    type Asked = (Vec<u32>, oneshot::Sender<Vec<u32>>);

    /// Answers what it is asked when the test says so.
    fn serve(together: &Arc<Together<u32, u32>>, gather: Duration) -> tokio::sync::mpsc::UnboundedReceiver<Asked> {
        let (batches, asked) = tokio::sync::mpsc::unbounded_channel();
        let together = together.clone();
        tokio::spawn(async move {
            let all = |questions: Vec<u32>| {
                let (answer, answered) = oneshot::channel();
                batches.send((questions, answer)).unwrap();
                async move { answered.await.unwrap() }
            };
            together.serve(gather, all).await
        });
        asked
    }

    fn ask(together: &Arc<Together<u32, u32>>, question: u32) -> tokio::task::JoinHandle<Option<u32>> {
        let together = together.clone();
        tokio::spawn(async move { together.ask(question).await })
    }

    async fn waiting(together: &Together<u32, u32>, count: usize) {
        while together.waiting.lock().unwrap().len() < count {
            tokio::task::yield_now().await;
        }
    }

    fn answer((questions, asker): Asked) -> usize {
        let answers: Vec<_> = questions.into_iter().map(|question| question * 2).collect();
        let count = answers.len();
        asker.send(answers).unwrap();
        count
    }

    #[tokio::test]
    async fn who_waits_is_asked_for_together_and_who_goes_breaks_nothing_off() {
        let together = Arc::new(Together::new());
        let mut asked = serve(&together, Duration::ZERO);
        let first = ask(&together, 1000);
        let under_way = asked.recv().await.unwrap();
        let gone = ask(&together, 2000);
        waiting(&together, 1).await;
        let others: Vec<_> = (0..2 * BATCH as u32).map(|question| ask(&together, question)).collect();
        waiting(&together, 2 * BATCH + 1).await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        // The first goes as well while it is asked for: the question ends in its time, and the next are not asked beside it.
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert!(asked.try_recv().is_err());
        answer(under_way);
        for _ in 0..2 {
            let batch = asked.recv().await.unwrap();
            assert!(!batch.0.contains(&2000), "nobody waits for that");
            assert_eq!(answer(batch), BATCH);
        }
        for (question, other) in others.into_iter().enumerate() {
            assert_eq!(other.await.unwrap(), Some(2 * question as u32));
        }
    }

    #[test]
    fn what_is_slow_is_asked_for_fewer_at_once_until_it_is_quick() {
        let together = Together::<(), ()>::new();
        let mut sizes = Vec::new();
        for milliseconds in [100, 100, 100, 1, 1, 1, 1, 1, 1, 1] {
            let batch = together.batch.load(Ordering::Relaxed);
            sizes.push(batch);
            together.took(batch, Duration::from_millis(milliseconds) * batch as u32);
        }
        assert_eq!(sizes, [200, 5, 5, 5, 10, 20, 40, 80, 160, 160]);
        together.batch.store(1, Ordering::Relaxed);
        together.took(1, 10 * SLOW);
        assert_eq!(together.batch.load(Ordering::Relaxed), 1, "one by one in the end");
    }
}
