//! One question for all who ask: what arrives while other questions are under way waits, and is asked at once.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::sleep;

/// How many ask together at most.
const BATCH: usize = 200;

/// See the module.
pub struct Together<Q, A> {
    waiting: Mutex<Vec<(Q, oneshot::Sender<A>)>>,
    /// How many questions may be under way.
    turns: Semaphore,
    /// How long whoever has the turn waits for others to join.
    gather: Duration,
}

impl<Q: Clone, A> Together<Q, A> {
    /// At most so many questions are under way at once, and each waits so long for others to join it.
    pub fn new(turns: usize, gather: Duration) -> Self {
        Self { waiting: Mutex::default(), turns: Semaphore::new(turns), gather }
    }

    /// The answer to a question; `all` answers many, in order. Whose turn it is asks for all who wait. Cancel safe: when the one who
    /// asks goes away, the others ask again.
    pub async fn ask<F: Future<Output = Vec<A>>>(&self, question: Q, all: impl Fn(Vec<Q>) -> F) -> A {
        loop {
            let (answer, mut answered) = oneshot::channel();
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push((question.clone(), answer));
            loop {
                tokio::select! {
                    biased;
                    answer = &mut answered => match answer {
                        Ok(answer) => return answer,
                        Err(_) => break,
                    },
                    turn = self.turns.acquire() => {
                        if !self.gather.is_zero() {
                            sleep(self.gather).await;
                        }
                        let batch = self.take();
                        if batch.is_empty() {
                            // Ours is under way, in somebody else's hands.
                            drop(turn);
                            match answered.await {
                                Ok(answer) => return answer,
                                Err(_) => break,
                            }
                        }
                        let answers = all(batch.iter().map(|(question, _)| question.clone()).collect()).await;
                        for ((_, asker), answer) in batch.into_iter().zip(answers) {
                            let _ = asker.send(answer);
                        }
                    }
                }
            }
        }
    }

    fn take(&self) -> Vec<(Q, oneshot::Sender<A>)> {
        let waiting = &mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Who has gone need not be answered.
        waiting.retain(|(_, asker)| !asker.is_closed());
        let rest = waiting.split_off(waiting.len().min(BATCH));
        std::mem::replace(waiting, rest)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn who_waits_is_asked_for_by_whoever_has_the_turn() {
        let together = Arc::new(Together::<u32, u32>::new(1, Duration::ZERO));
        let (asked, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let ask = |question: u32| {
            let (together, asked, go) = (together.clone(), asked.clone(), go.clone());
            tokio::spawn(async move {
                let all = |questions: Vec<u32>| {
                    let (asked, go) = (asked.clone(), go.clone());
                    async move {
                        if asked.fetch_add(1, Ordering::SeqCst) == 0 {
                            go.notified().await;
                        }
                        questions.into_iter().map(|question| question * 2).collect()
                    }
                };
                together.ask(question, all).await
            })
        };
        let first = ask(1000);
        while asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..2 * BATCH as u32).map(ask).collect();
        while together.waiting.lock().unwrap().len() < others.len() {
            tokio::task::yield_now().await;
        }
        // The one who asks goes away: nobody is left behind.
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        for (question, other) in others.into_iter().enumerate() {
            assert_eq!(other.await.unwrap(), 2 * question as u32);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 3, "four hundred in two questions, after the first");
    }
}
