//! What one socket was sent, and which ping confirms it.
//!
//! A ping carries a number, and a pong that echoes it confirms what was sent before that ping. Ids would not do: they are not in
//! order of sending, and "7 arrived" says nothing of a 6 that commits later. A client that keeps cursors confirms by giving one
//! back.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::confirmations::Summary;
use crate::protocol::{Cursor, Position};
use crate::store::Delivered;

/// At most so many frames are on their way unconfirmed; then nothing is written until a pong.
pub const MAX_UNCONFIRMED: usize = 256;
/// A confirmation counts when the socket still lives after this: a page that reloads answers and is gone.
pub const SETTLE: Duration = Duration::from_secs(2);

/// What a frame told.
pub enum What {
    /// A row, and the transaction that wrote it.
    Notification(Delivered, u64),
    /// How many rows were not sent.
    Summary(Box<Summary>),
}

/// See the module.
pub struct Receipts {
    /// Whether an answered ping confirms; otherwise [`Self::ack`] alone does.
    by_pong: bool,
    /// In order of sending: first `noted` ones that are noted, then confirmed ones, last `unconfirmed` ones that are not.
    sent: VecDeque<Sent>,
    noted: usize,
    unconfirmed: usize,
    /// How many were ever sent.
    count: u64,
    /// How many of `count` were sent in epochs before.
    before: u64,
    last_ping: u32,
    last_pong: u32,
}

struct Sent {
    what: What,
    /// The ping that covers it.
    ping: u32,
    /// Confirmed, which counts from then on.
    counts: Option<Instant>,
}

/// A row as nothing but itself: id and time of creation.
pub type Identity = (i64, i64);

impl Receipts {
    /// Nothing is sent.
    pub fn new(by_pong: bool) -> Self {
        Self {
            by_pong,
            sent: VecDeque::new(),
            noted: 0,
            unconfirmed: 0,
            count: 0,
            before: 0,
            last_ping: 0,
            last_pong: 0,
        }
    }

    /// How many frames may be written now.
    pub fn room(&self) -> usize {
        MAX_UNCONFIRMED - self.unconfirmed
    }

    /// Whether all that was written is confirmed.
    pub fn is_confirmed(&self) -> bool {
        self.unconfirmed == 0
    }

    /// Whether all that was written is noted.
    pub fn is_settled(&self) -> bool {
        self.noted == self.sent.len()
    }

    /// Whether a ping is out that no pong answered.
    pub fn is_awaited(&self) -> bool {
        self.last_ping != self.last_pong
    }

    /// A frame is written; the next ping covers it.
    pub fn sent(&mut self, what: What) {
        self.sent.push_back(Sent { what, ping: self.last_ping + 1, counts: None });
        self.unconfirmed += 1;
        self.count += 1;
    }

    /// When the oldest row was created that is not confirmed, in order of sending.
    pub fn oldest(&self) -> Option<i64> {
        self.rows(self.sent.len() - self.unconfirmed..).next().map(|(row, _)| row.created)
    }

    /// How many frames were ever sent.
    pub fn count(&self) -> u64 {
        self.count
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
        if self.by_pong {
            self.confirm(now + SETTLE, |_, sent| sent.ping <= number);
        }
        true
    }

    /// The client has dealt with the first `count` frames of this socket; returns whether that was news.
    pub fn ack(&mut self, count: u64, now: Instant) -> bool {
        let (before, first) = (self.unconfirmed, self.first());
        self.confirm(now, |nth, _| first + (nth as u64) < count);
        self.unconfirmed < before
    }

    fn confirm(&mut self, counts: Instant, is_covered: impl Fn(usize, &Sent) -> bool) {
        let confirmed = self.sent.len() - self.unconfirmed;
        for (nth, sent) in self.sent.iter_mut().enumerate().skip(confirmed) {
            if !is_covered(nth, sent) {
                break;
            }
            sent.counts = Some(counts);
            self.unconfirmed -= 1;
        }
    }

    /// Notes what has settled by `now`; returns whether anything has.
    pub fn settle(&mut self, now: Instant, mut note: impl FnMut(&What)) -> bool {
        let before = self.noted;
        while let Some(sent) = self.sent.get(self.noted)
            && sent.counts.is_some_and(|counts| now >= counts)
        {
            note(&sent.what);
            self.noted += 1;
        }
        self.noted > before
    }

    /// What was sent so far belongs to an epoch before: its ids and transactions say nothing in the next.
    pub fn begin_epoch(&mut self) {
        self.before = self.count;
    }

    /// The number of the first that is not forgotten.
    fn first(&self) -> u64 {
        self.count - self.sent.len() as u64
    }

    /// Forgets what is noted and whose transaction no catch-up can meet again. Until then [`Self::told`] has to know it. What was sent
    /// in an epoch before no catch-up meets once the socket `is_live` in this one.
    pub fn forget(&mut self, is_live: bool, is_past: impl Fn(u64) -> bool) {
        while self.noted > 0
            && self.sent.front().is_some_and(|sent| match sent.what {
                What::Notification(_, xid) => (is_live && self.first() < self.before) || is_past(xid),
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

    /// What was sent and is not forgotten.
    pub fn told(&self) -> HashSet<Identity> {
        self.rows(..).map(|(row, _)| (row.id, row.created)).collect()
    }

    /// A position moved back to where it sees nothing that is not noted, and the ids that are noted and it does not see. `None`
    /// while something it sees was told only as a number and that is not noted, or while those ids are too many to keep.
    pub fn noted(&self, position: &Position) -> Option<(Position, Vec<i64>)> {
        if self.sent.range(self.noted..).any(|sent| matches!(sent.what, What::Summary(_))) {
            return None;
        }
        let position = position.without(self.rows(self.noted..).map(|(_, xid)| xid));
        let told: Vec<_> = self
            .rows(self.old().min(self.noted)..self.noted)
            .filter(|(_, xid)| !position.sees(*xid))
            .map(|(row, _)| row.id)
            .collect();
        (told.len() <= MAX_UNCONFIRMED).then_some((position, told))
    }

    /// The ids that were sent and that the cursor does not see.
    pub fn sent_beside(&self, cursor: &Cursor) -> Vec<i64> {
        self.rows(self.old()..).filter(|(row, xid)| !cursor.sees(row.id, *xid)).map(|(row, _)| row.id).collect()
    }

    /// How many of those that are not forgotten were sent in epochs before.
    fn old(&self) -> usize {
        self.before.saturating_sub(self.first()) as usize
    }

    fn rows(&self, range: impl std::ops::RangeBounds<usize>) -> impl Iterator<Item = (&Delivered, u64)> {
        self.sent.range(range).filter_map(|sent| match &sent.what {
            What::Notification(row, xid) => Some((row, *xid)),
            What::Summary(_) => None,
        })
    }

    /// When there is something to settle, or to forget once more after `looked`.
    pub fn deadline(&self, looked: Instant) -> Option<Instant> {
        let settled = self.sent.get(self.noted).and_then(|sent| sent.counts);
        settled.or_else(|| (self.noted > 0).then(|| looked + SETTLE))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn row(id: i64) -> What {
        What::Notification(Delivered { id, slot: 0, created: 0, live: true }, id as u64)
    }

    fn settled(receipts: &mut Receipts, now: Instant) -> Vec<i64> {
        let mut ids = Vec::new();
        receipts.settle(now, |what| {
            if let What::Notification(row, _) = what {
                ids.push(row.id);
            }
        });
        ids
    }

    #[test]
    fn a_pong_confirms_what_was_sent_before_its_ping_and_nothing_else() {
        let (mut receipts, now) = (Receipts::new(true), Instant::now());
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
        let (mut receipts, now) = (Receipts::new(true), Instant::now());
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
        let (mut receipts, now) = (Receipts::new(true), Instant::now());
        receipts.sent(row(1));
        let ping = receipts.ping();
        receipts.pong(&ping, now);
        assert_eq!(receipts.deadline(now), Some(now + SETTLE));
        assert_eq!(settled(&mut receipts, now + SETTLE / 2), [0; 0]);
        assert_eq!(settled(&mut receipts, now + SETTLE), [1]);
        assert_eq!(settled(&mut receipts, now + SETTLE), [0; 0], "noted once");
        receipts.forget(false, |xid| xid != 1);
        assert!(receipts.told().contains(&(1, 0)), "a catch-up would find it again");
        receipts.forget(false, |_| true);
        assert!(receipts.told().is_empty() && receipts.deadline(now).is_none());
    }
    #[test]
    fn a_cursor_given_back_confirms_what_it_sees_at_once_and_a_pong_does_not() {
        let (mut receipts, now) = (Receipts::new(false), Instant::now());
        for id in 5..=7 {
            receipts.sent(row(id));
        }
        let ping = receipts.ping();
        assert!(receipts.pong(&ping, now), "a sign of life");
        assert!(settled(&mut receipts, now + 2 * SETTLE).is_empty());
        assert!(!receipts.ack(0, now));
        assert!(receipts.ack(1, now));
        assert_eq!(settled(&mut receipts, now), [5]);
        receipts.forget(false, |_| true);
        receipts.sent(row(8));
        assert!(!receipts.ack(1, now), "known");
        assert!(receipts.ack(3, now));
        assert_eq!(settled(&mut receipts, now), [6, 7]);
        assert!(receipts.ack(u64::MAX, now), "more than was sent is all that was sent");
    }

    #[test]
    fn what_is_noted_is_a_position_and_what_it_does_not_see() {
        let (mut receipts, now) = (Receipts::new(true), Instant::now());
        receipts.sent(row(5));
        receipts.sent(row(9));
        let ping = receipts.ping();
        receipts.sent(row(6));
        receipts.pong(&ping, now);
        receipts.settle(now + SETTLE, |_| {});
        let (position, told) = receipts.noted(&"8:8:".parse().unwrap()).unwrap();
        assert_eq!((position.to_string().as_str(), told), ("6:8:6", vec![9]));
        assert_eq!(receipts.sent_beside(&Cursor::new(Default::default(), "8:8:".parse().unwrap())), [9]);
    }
    #[test]
    fn what_was_sent_in_an_epoch_before_is_forgotten_and_named_by_no_cursor() {
        let (mut receipts, now) = (Receipts::new(true), Instant::now());
        receipts.sent(row(5_000_000));
        let ping = receipts.ping();
        receipts.pong(&ping, now);
        receipts.settle(now + SETTLE, |_| {});
        receipts.begin_epoch();
        receipts.sent(row(7));
        let at = Cursor::new(Default::default(), "7:7:".parse().unwrap());
        assert_eq!(receipts.sent_beside(&at), [7]);
        assert_eq!(receipts.noted(&at.position).unwrap().1, [0; 0]);
        receipts.forget(false, |_| false);
        assert!(receipts.told().contains(&(5_000_000, 0)), "the catch-up of the new epoch may meet it");
        receipts.forget(true, |_| false);
        assert!(!receipts.told().contains(&(5_000_000, 0)) && receipts.told().contains(&(7, 0)));
    }
}
