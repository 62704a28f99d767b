//! What waits for one socket: bounded in frames and bytes, and what does not fit is read from the table.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::metrics::Frames;
use crate::protocol::{Cursor, Notification, notification_frame};

/// How much may wait in a mailbox: so many frames, and so many bytes unless one frame alone is larger. What does not fit is dropped,
/// and the session reads it from the table when it has sent the rest. Bytes are counted as if no other socket had a share in what
/// waits. With what the session has taken and not written, and what it knows of frames that are not confirmed (128 KiB together), a
/// socket that reads nothing costs no more.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Frames.
    pub frames: usize,
    /// Bytes.
    pub bytes: usize,
}

/// Where a socket rests between two writes, it is called sooner when so many frames wait, or so many bytes.
const MOST_HELD: Room = Room { frames: 64, bytes: 16 * 1024 };
/// So many frames beside notifications wait at most; of more, the oldest go.
pub const MAX_NEWS: usize = 16;

/// A frame on its way to the sockets of a user, and what its delivery is confirmed by. Made once: in a mailbox waits a reference.
#[derive(Debug)]
pub struct Mail {
    /// The notification's id.
    pub id: i64,
    /// The leaf that holds it.
    pub slot: i16,
    /// The transaction that wrote it.
    pub xid: u64,
    /// When it was created, in microseconds since 1970: with `id` it tells the row from every other.
    pub created: i64,
    /// The text to send.
    pub frame: Utf8Bytes,
    /// Whether it is told as it happens, and was not missed before its socket opened.
    pub live: bool,
    /// Counts the frame when it is written: looked up once for all sockets.
    pub written: Counter,
}

impl Mail {
    /// A notification as mail.
    pub fn new(notification: &Notification, replayed: bool, frames: &Frames) -> Self {
        Self {
            id: notification.id,
            slot: notification.slot,
            xid: notification.xid,
            created: notification.created_at.microseconds,
            frame: notification_frame(notification, replayed),
            live: !replayed,
            written: frames.counter(&notification.event, notification.level),
        }
    }

    /// How much memory it takes, in bytes: the frame, itself, and the counts of references to both.
    pub fn size(&self) -> usize {
        self.frame.len() + size_of::<Self>() + size_of::<[usize; 8]>()
    }
}

/// What waits for one socket, and what is known of it.
pub struct Mailbox {
    mail: Mutex<Queue>,
    /// Something has come, or may be taken now.
    pub arrived: Notify,
    /// What tells this socket from the user's others, where it wants to hear of more than notifications.
    pub origin: Option<u64>,
    /// When the socket was opened.
    pub opened: Instant,
    /// When the oldest row was created that was written to the socket and is not confirmed; `i64::MAX` when there is none.
    pub owed: AtomicI64,
    /// When the user was revoked last while it was open, in seconds since 1970 as the bits of a float; 0 for never.
    pub revoked: AtomicU64,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Arc<Mail>>,
    bytes: usize,
    /// When something was taken last, and whether what has come since is held back until the socket is called.
    taken: Option<Instant>,
    held: bool,
    /// Set while something was dropped: all that was dropped is invisible in it.
    lag: Option<Arc<Cursor>>,
    /// Frames beside notifications.
    news: VecDeque<Utf8Bytes>,
}

/// What [`Subscription::take`](super::Subscription::take) found.
pub enum Taken {
    /// Frames in order of arrival.
    Mail(Vec<Arc<Mail>>),
    /// Nothing waits, but something was dropped; all of it is invisible in this position.
    Lagged(Arc<Cursor>),
    /// Nothing waits.
    Nothing,
    /// What waits is not to be taken yet: [`Subscription::arrived`](super::Subscription::arrived) returns when it is.
    Later,
}

impl Mailbox {
    /// An empty one. `origin` is given where more than notifications is wanted.
    pub fn new(origin: Option<u64>) -> Self {
        Self {
            mail: Mutex::default(),
            arrived: Notify::new(),
            origin,
            opened: Instant::now(),
            owed: AtomicI64::new(i64::MAX),
            revoked: AtomicU64::new(0),
        }
    }

    /// Returns until when it has to be held back, if it is the first to be: something was taken less than `rest` ago.
    pub fn push(
        &self,
        mail: &Arc<Mail>,
        position: &Arc<Cursor>,
        room: Room,
        now: Instant,
        rest: Option<Duration>,
    ) -> Option<Instant> {
        let queue = &mut *self.lock();
        if queue.lag.is_some() {
            return None;
        }
        let full =
            queue.frames.len() >= room.frames || (!queue.frames.is_empty() && queue.bytes + mail.size() > room.bytes);
        if full {
            queue.lag = Some(position.clone());
            queue.held = false;
            self.arrived.notify_one();
            return None;
        }
        queue.bytes += mail.size();
        queue.frames.push_back(mail.clone());
        if queue.held {
            if queue.frames.len() < MOST_HELD.frames && queue.bytes < MOST_HELD.bytes {
                return None;
            }
            queue.held = false;
        } else if queue.frames.len() == 1
            && let (Some(taken), Some(rest)) = (queue.taken, rest)
            && now < taken + rest
        {
            queue.held = true;
            return Some(now + rest);
        }
        self.arrived.notify_one();
        None
    }

    /// What was held back may be taken.
    pub fn call(&self) {
        if std::mem::take(&mut self.lock().held) {
            self.arrived.notify_one();
        }
    }

    /// Drops nothing that waits; from here on the table is read, from a position of another epoch or an older one.
    pub fn lag_from(&self, position: &Arc<Cursor>) {
        let queue = &mut *self.lock();
        let lag = match queue.lag.take() {
            // It has fallen behind further, and that was not read yet.
            Some(lag) if lag.position.is_older(&position.position) => {
                Arc::new(Cursor::new(position.epoch, lag.position.clone()))
            }
            _ => position.clone(),
        };
        queue.lag = Some(lag);
        self.arrived.notify_one();
    }

    /// When the oldest was created of what waits here or is written and not confirmed. What was dropped counts again once it was
    /// read from the table.
    pub fn owes(&self) -> Option<i64> {
        let waits = self.lock().frames.front().map_or(i64::MAX, |mail| mail.created);
        Some(waits.min(self.owed.load(Ordering::Relaxed))).filter(|created| *created < i64::MAX)
    }

    /// Puts in a frame beside notifications.
    pub fn tell(&self, frame: Utf8Bytes) {
        let queue = &mut *self.lock();
        if queue.news.len() >= MAX_NEWS {
            queue.news.pop_front();
        }
        queue.news.push_back(frame);
        self.arrived.notify_one();
    }

    /// What [`Subscription::take`](super::Subscription::take) says.
    pub fn take(&self, frames: usize, bytes: usize) -> Taken {
        let queue = &mut *self.lock();
        if queue.held {
            return Taken::Later;
        }
        if queue.frames.is_empty() {
            return queue.lag.take().map_or(Taken::Nothing, Taken::Lagged);
        }
        let mut size = 0;
        let fits = |mail: &&Arc<Mail>| {
            let fits = size < bytes;
            size += if fits { mail.size() } else { 0 };
            fits
        };
        let count = queue.frames.iter().take(frames).take_while(fits).count();
        let mail: Vec<_> = queue.frames.drain(..count).collect();
        queue.bytes -= size;
        queue.taken = Some(Instant::now());
        if queue.frames.is_empty() {
            // An idle socket holds no buffer.
            queue.frames = VecDeque::new();
            if queue.lag.is_some() {
                self.arrived.notify_one();
            }
        } else {
            self.arrived.notify_one();
        }
        Taken::Mail(mail)
    }

    /// Takes what waits beside notifications.
    pub fn take_news(&self) -> VecDeque<Utf8Bytes> {
        std::mem::take(&mut self.lock().news)
    }

    /// From where what was dropped is read, if anything was, and the transactions of what waits.
    pub fn waiting(&self) -> (Option<Arc<Cursor>>, Vec<u64>) {
        let queue = self.lock();
        (queue.lag.clone(), queue.frames.iter().map(|mail| mail.xid).collect())
    }

    /// From where what was dropped is read, if anything was.
    pub fn lag(&self) -> Option<Arc<Cursor>> {
        self.lock().lag.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
