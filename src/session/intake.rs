//! What is to be told next on one socket: from the table when it opens or has fallen behind, then from its mailbox; each row once.
//! Pure; the session asks the questions and writes the frames.
//!
//! Subscribe, then read: what is published while the table is read waits in the mailbox, and what the read has seen is then left
//! out.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::receipts::{Identity, Receipts};
use crate::confirmations::Summary;
use crate::protocol::{self, Cursor, Epoch, Position, Resume, UserId};
use crate::registry::{Mail, Subscription, Taken};
use crate::store::{Gap, Opened, Page};

/// See the module.
pub struct Intake {
    mail: Subscription,
    /// The history of the database that `seen` and `missing` belong to.
    epoch: Epoch,
    /// Read and not yet written.
    backlog: VecDeque<Outgoing>,
    state: State,
    /// What the last catch-up has seen: mail visible in it was told or summarized. Gone once the stream is past it.
    seen: Option<Position>,
}

/// One frame to write.
pub enum Outgoing {
    /// A notification.
    Mail(Arc<Mail>),
    /// How many were not sent.
    Summary(Utf8Bytes, Box<Summary>),
}

enum State {
    /// Nothing is known yet.
    Opening,
    /// A catch-up is read page by page.
    Missing(Box<Missing>),
    /// The mailbox has all there is.
    Live,
}

/// What is visible in `within` and not seen by `after`.
struct Missing {
    after: Cursor,
    /// Where the first page was read; the others are read there too.
    within: Option<Position>,
    after_id: i64,
    /// The last id that was handed out.
    handed: i64,
    /// When `within` is told, what is visible here follows: `within` may be older than this socket.
    then: Option<Position>,
    /// Sent on this socket before.
    told: HashSet<Identity>,
    /// Whether it was missed before this socket opened.
    replayed: bool,
}

/// What has to be asked before more can be told.
pub enum Question {
    /// What an opening socket is told first.
    Opening,
    /// A page of what was missed.
    Page(Gap),
}

impl Intake {
    /// Of a socket that opens.
    pub fn new(mail: Subscription) -> Self {
        let epoch = mail.epoch();
        Self { mail, epoch, backlog: VecDeque::new(), state: State::Opening, seen: None }
    }

    /// Whose socket it is.
    pub fn user(&self) -> &UserId {
        self.mail.user()
    }

    /// The mailbox.
    pub fn mail(&self) -> &Subscription {
        &self.mail
    }

    /// Whether all that was missed when the socket opened has been handed out.
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Live) && self.backlog.is_empty()
    }

    /// Whether nothing waits to be handed out.
    pub fn is_empty(&self) -> bool {
        self.backlog.is_empty()
    }

    /// Takes what waits in the mailbox, at most `room` frames and about `bytes`, if nothing comes before it. Returns whether it had
    /// fallen behind.
    pub fn refill(&mut self, room: usize, bytes: usize, receipts: &mut Receipts) -> bool {
        if !self.is_live() {
            return false;
        }
        // Asked before the mailbox: what is published from here on is invisible in `seen`, but what waits may be visible.
        let past = self.seen.as_ref().is_some_and(|seen| self.mail.has_read_past(seen));
        match self.mail.take(room, bytes) {
            Taken::Mail(mail) => {
                let seen = self.seen.as_ref();
                let fresh = mail.into_iter().filter(|mail| !seen.is_some_and(|seen| seen.sees(mail.xid)));
                self.backlog.extend(fresh.map(Outgoing::Mail));
            }
            Taken::Lagged(from) => {
                // All that was dropped is invisible in `from`. In the same history it also is in `seen` or was told by it.
                let seen = self.seen.take().filter(|_| from.epoch == self.epoch);
                let position = seen.as_ref().map_or(&from.position, |seen| seen.newer(&from.position)).clone();
                if self.epoch != from.epoch {
                    receipts.begin_epoch();
                }
                self.epoch = from.epoch;
                self.state = State::Missing(Box::new(Missing {
                    after: Cursor::new(from.epoch, position),
                    within: None,
                    after_id: 0,
                    handed: 0,
                    then: None,
                    told: receipts.told(),
                    replayed: false,
                }));
                return true;
            }
            Taken::Nothing if past => self.seen = None,
            Taken::Nothing | Taken::Later => {}
        }
        false
    }

    /// What to ask now, if anything: once, then comes the answer.
    pub fn question(&self) -> Option<Question> {
        match &self.state {
            State::Opening => Some(Question::Opening),
            State::Missing(missing) if self.backlog.is_empty() => Some(Question::Page(Gap {
                user: self.mail.user().clone(),
                after: missing.after.position.clone(),
                within: missing.within.clone(),
                after_id: missing.after_id,
            })),
            State::Missing(_) | State::Live => None,
        }
    }

    /// Asks once more what an opening socket is told. What was sent since, or waits to be, is left out.
    pub fn reopen(&mut self) {
        if matches!(self.state, State::Live) {
            self.state = State::Opening;
            self.backlog.retain(|outgoing| matches!(outgoing, Outgoing::Mail(_)));
        }
    }

    /// The answer to [`Question::Opening`]. `after` is the cursor it was asked with; where the database accepts it, all that it does
    /// not see follows page by page. Returns the cursor to begin with.
    pub fn opened(&mut self, opened: Opened, after: Option<Cursor>, receipts: &Receipts) -> Cursor {
        if self.epoch == Epoch::default() {
            // The socket was there before this instance knew of any. What it is caught up with since then is seen by now.
            self.epoch = self.mail.epoch();
        }
        if let (Resume::Ok, Some(after)) = (opened.resume, after) {
            let begin = Cursor { sent: None, ..after.clone() };
            let (within, after_id, then) = match after.pages.as_deref() {
                Some((within, id)) => (within.clone(), *id, Some(opened.position)),
                None => (opened.position, 0, None),
            };
            self.state = State::Missing(Box::new(Missing {
                after: Cursor { pages: None, ..after },
                within: Some(within),
                after_id,
                handed: after_id,
                then,
                told: HashSet::new(),
                replayed: true,
            }));
            return begin;
        }
        self.state = State::Live;
        let replayed = opened.notifications.iter().map(|n| n.xid);
        let begin = Cursor::new(self.epoch, opened.position.without(replayed));
        let mut told = receipts.told();
        told.extend(self.backlog.iter().filter_map(|outgoing| match outgoing {
            Outgoing::Mail(mail) => Some((mail.id, mail.created)),
            Outgoing::Summary(..) => None,
        }));
        let fresh = opened.notifications.iter().filter(|n| !told.contains(&(n.id, n.created_at.microseconds)));
        self.backlog.extend(fresh.map(|n| Outgoing::Mail(self.mail.mail(n, true))));
        if opened.more > 0 {
            let before = opened.notifications.first().map_or(i64::MAX, |oldest| oldest.id);
            let within = Cursor::new(self.epoch, opened.position.clone());
            let summary = Summary { user: self.mail.user().clone(), within, before };
            self.backlog.push_back(Outgoing::Summary(protocol::more_frame(opened.more), Box::new(summary)));
        }
        self.seen = Some(opened.position);
        begin
    }

    /// The answer to [`Question::Page`].
    pub fn paged(&mut self, page: Page) {
        let State::Missing(missing) = &mut self.state else { return };
        let fresh = page.notifications.iter().filter(|n| {
            !missing.told.contains(&(n.id, n.created_at.microseconds)) && !missing.after.told.contains(&n.id)
        });
        self.backlog.extend(fresh.map(|n| Outgoing::Mail(self.mail.mail(n, missing.replayed))));
        match page.last {
            Some(last) => (missing.after_id, missing.within) = (last, Some(page.within)),
            None => match missing.then.take() {
                Some(then) => {
                    missing.after.position = page.within;
                    (missing.within, missing.after_id, missing.handed) = (Some(then), 0, 0);
                }
                None => (self.state, self.seen) = (State::Live, Some(page.within)),
            },
        }
    }

    /// The next frame to write.
    pub fn next(&mut self) -> Option<Outgoing> {
        let next = self.backlog.pop_front();
        if let (State::Missing(missing), Some(Outgoing::Mail(mail))) = (&mut self.state, &next) {
            missing.handed = mail.id;
        }
        if self.backlog.is_empty() {
            // An idle socket holds no buffer.
            self.backlog = VecDeque::new();
        }
        next
    }

    /// A cursor that sees nothing of this user's but what was handed out by [`Self::next`]. `None` while nothing is known.
    pub fn cursor(&self) -> Option<Cursor> {
        let (taken, waiting) = self.mail.taken();
        if taken.epoch != self.epoch {
            // It sees nothing: worth nothing to go on from, and good to confirm what was sent.
            return Some(Cursor::new(self.epoch, Position::nothing()));
        }
        let position = match &self.state {
            State::Opening => return None,
            State::Missing(missing) => {
                let pages = missing.within.clone().map(|within| Box::new((within, missing.handed)));
                return Some(Cursor { pages, ..missing.after.clone() }).filter(|cursor| cursor.epoch == self.epoch);
            }
            State::Live => self.seen.as_ref().map_or(&taken.position, |seen| seen.newer(&taken.position)),
        };
        let queued = self.backlog.iter().filter_map(|outgoing| match outgoing {
            Outgoing::Mail(mail) => Some(mail.xid),
            Outgoing::Summary(..) => None,
        });
        // Mail that waits and that `seen` sees was told by the catch-up, and is told again to whoever goes on from here: by id it is
        // known.
        Some(Cursor::new(self.epoch, position.without(queued.chain(waiting))))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::receipts::What;
    use super::*;
    use crate::metrics::Metrics;
    use crate::protocol::Payload;
    use crate::registry::{Registry, Room};
    use crate::store::Delivered;

    fn opened() -> Opened {
        let notification = |id: i64| {
            let text = format!(
                r#"{{"id":"{id}","slot":1,"xid":"{}","user_id":"7","event":"e","level":"info","message":"m","data":{{}},"created_at":"2026-11-23T01:02:03.123456Z"}}"#,
                100 + id
            );
            let Payload::Notification(notification) = Payload::decode(&text).unwrap() else { panic!("{text}") };
            *notification
        };
        Opened {
            position: "900:900:".parse().unwrap(),
            resume: Resume::New,
            unread: 0,
            more: 7,
            server_time: String::new(),
            notifications: (1..=5).map(notification).collect(),
            revoked: None,
        }
    }

    /// A first pong comes while most of the answer still waits to be sent.
    #[test]
    fn what_waits_to_be_sent_is_not_sent_twice_by_another_opening() {
        let registry = Arc::new(Registry::new(Metrics::new().frames.clone(), Room { frames: 10, bytes: 1 << 20 }));
        registry.begin("00000000000000ff".parse().unwrap(), "50:50:".parse().unwrap());
        let mut receipts = Receipts::new(true);
        let mut intake = Intake::new(registry.subscribe("7".parse().unwrap(), None));
        intake.opened(opened(), None, &receipts);
        let mut told = Vec::new();
        let mut send = |intake: &mut Intake, receipts: &mut Receipts| match intake.next() {
            Some(Outgoing::Mail(mail)) => {
                let row = Delivered { id: mail.id, slot: mail.slot, created: mail.created, live: false };
                receipts.sent(What::Notification(row, mail.xid));
                told.push(mail.id);
                true
            }
            Some(Outgoing::Summary(..)) => {
                told.push(0);
                true
            }
            None => false,
        };
        assert!(send(&mut intake, &mut receipts));
        intake.reopen();
        assert!(matches!(intake.question(), Some(Question::Opening)));
        intake.opened(opened(), None, &receipts);
        while send(&mut intake, &mut receipts) {}
        assert_eq!(told, [1, 2, 3, 4, 5, 0]);
    }
}
