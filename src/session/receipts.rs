//! What one socket was sent, and which ping confirms it.
//!
//! A ping carries a number, and a pong that echoes it confirms what was sent before that ping. Ids would not do: they are not in
//! order of sending, and "7 arrived" says nothing of a 6 that commits later.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::confirmations::Summary;

/// At most so many frames are on their way unconfirmed; then nothing is written until a pong.
pub const MAX_UNCONFIRMED: usize = 256;
/// A confirmation counts when the socket still lives after this: a page that reloads answers and is gone.
pub const SETTLE: Duration = Duration::from_secs(2);

/// What a frame told.
pub enum What {
    /// A row.
    Notification { id: i64, slot: i16, xid: u64 },
    /// How many rows were not sent.
    Summary(Box<Summary>),
}

/// See the module.
#[derive(Default)]
pub struct Receipts {
    /// In order of sending: first `noted` ones that are noted, then confirmed ones, last `unconfirmed` ones that are not.
    sent: VecDeque<Sent>,
    noted: usize,
    unconfirmed: usize,
    last_ping: u32,
    last_pong: u32,
}

struct Sent {
    what: What,
    /// The ping that covers it.
    ping: u32,
    confirmed: Option<Instant>,
}

impl Receipts {
    /// How many frames may be written now.
    pub fn room(&self) -> usize {
        MAX_UNCONFIRMED - self.unconfirmed
    }

    /// Whether all that was written is confirmed.
    pub fn is_confirmed(&self) -> bool {
        self.unconfirmed == 0
    }

    /// Whether a ping is out that no pong answered.
    pub fn is_awaited(&self) -> bool {
        self.last_ping != self.last_pong
    }

    /// A frame is written; the next ping covers it.
    pub fn sent(&mut self, what: What) {
        self.sent.push_back(Sent { what, ping: self.last_ping + 1, confirmed: None });
        self.unconfirmed += 1;
    }

    /// The payload of the next ping.
    pub fn ping(&mut self) -> [u8; 4] {
        self.last_ping += 1;
        self.last_ping.to_be_bytes()
    }

    /// A pong arrived; returns whether it answers a ping of ours for the first time. It answers those before it as well, since a
    /// client may answer only the latest. Other pongs are legal and mean nothing.
    pub fn pong(&mut self, echo: &[u8], now: Instant) -> bool {
        let Ok(number) = echo.try_into().map(u32::from_be_bytes) else { return false };
        if number <= self.last_pong || number > self.last_ping {
            return false;
        }
        self.last_pong = number;
        let confirmed = self.sent.len() - self.unconfirmed;
        for sent in self.sent.range_mut(confirmed..).take_while(|sent| sent.ping <= number) {
            sent.confirmed = Some(now);
            self.unconfirmed -= 1;
        }
        true
    }

    /// Notes what has settled by `now`.
    pub fn settle(&mut self, now: Instant, mut note: impl FnMut(&What)) {
        while let Some(sent) = self.sent.get(self.noted)
            && sent.confirmed.is_some_and(|confirmed| now >= confirmed + SETTLE)
        {
            note(&sent.what);
            self.noted += 1;
        }
    }

    /// Forgets what is noted and whose transaction no catch-up can meet again. Until then [`Self::told`] has to know it.
    pub fn forget(&mut self, is_past: impl Fn(u64) -> bool) {
        while self.noted > 0
            && self.sent.front().is_some_and(|sent| match sent.what {
                What::Notification { xid, .. } => is_past(xid),
                What::Summary(_) => true,
            })
        {
            self.sent.pop_front();
            self.noted -= 1;
        }
        if self.sent.is_empty() {
            // An idle socket holds no buffer.
            self.sent = VecDeque::new();
        }
    }

    /// The ids of what was sent and is not forgotten.
    pub fn told(&self) -> HashSet<i64> {
        self.sent
            .iter()
            .filter_map(|sent| match sent.what {
                What::Notification { id, .. } => Some(id),
                What::Summary(_) => None,
            })
            .collect()
    }

    /// When there is something to settle, or to forget once more after `looked`.
    pub fn deadline(&self, looked: Instant) -> Option<Instant> {
        let settled = self.sent.get(self.noted).and_then(|sent| sent.confirmed).map(|at| at + SETTLE);
        settled.or_else(|| (self.noted > 0).then(|| looked + SETTLE))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn row(id: i64) -> What {
        What::Notification { id, slot: 0, xid: id as u64 }
    }

    fn settled(receipts: &mut Receipts, now: Instant) -> Vec<i64> {
        let mut ids = Vec::new();
        receipts.settle(now, |what| {
            if let What::Notification { id, .. } = what {
                ids.push(*id);
            }
        });
        ids
    }

    #[test]
    fn a_pong_confirms_what_was_sent_before_its_ping_and_nothing_else() {
        let (mut receipts, now) = (Receipts::default(), Instant::now());
        receipts.sent(row(7));
        let first = receipts.ping();
        receipts.sent(row(6)); // committed later, with a smaller id
        let second = receipts.ping();
        assert!(receipts.pong(&first, now));
        assert_eq!(receipts.room(), MAX_UNCONFIRMED - 1);
        assert_eq!(settled(&mut receipts, now + SETTLE), [7]);
        assert!(receipts.is_awaited());
        assert!(receipts.pong(&second, now));
        assert_eq!(settled(&mut receipts, now + SETTLE), [6]);
        assert!(receipts.is_confirmed() && !receipts.is_awaited());
    }

    #[test]
    fn the_latest_pong_answers_for_those_before_it_and_strange_ones_for_none() {
        let (mut receipts, now) = (Receipts::default(), Instant::now());
        for id in 1..=3 {
            receipts.sent(row(id));
            receipts.ping();
        }
        for strange in [&[][..], b"hello", &4_u32.to_be_bytes(), &0_u32.to_be_bytes(), &[0, 0, 0, 0, 3]] {
            assert!(!receipts.pong(strange, now), "{strange:?}");
        }
        assert!(receipts.pong(&3_u32.to_be_bytes(), now));
        assert!(!receipts.pong(&2_u32.to_be_bytes(), now), "already answered for");
        assert_eq!(settled(&mut receipts, now + SETTLE), [1, 2, 3]);
    }

    #[test]
    fn what_is_confirmed_settles_after_a_while_and_is_forgotten_when_the_stream_is_past_it() {
        let (mut receipts, now) = (Receipts::default(), Instant::now());
        receipts.sent(row(1));
        let ping = receipts.ping();
        receipts.pong(&ping, now);
        assert_eq!(receipts.deadline(now), Some(now + SETTLE));
        assert_eq!(settled(&mut receipts, now + SETTLE / 2), [0; 0]);
        assert_eq!(settled(&mut receipts, now + SETTLE), [1]);
        assert_eq!(settled(&mut receipts, now + SETTLE), [0; 0], "noted once");
        receipts.forget(|xid| xid != 1);
        assert!(receipts.told().contains(&1), "a catch-up would find it again");
        receipts.forget(|_| true);
        assert!(receipts.told().is_empty() && receipts.deadline(now).is_none());
    }
}
