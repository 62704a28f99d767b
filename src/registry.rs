//! Who listens here: user -> subscriptions. Each notification reaches each subscription of its user once.
//!
//! NOTIFY and the stream tell the same rows; the registry drops what it published before. It knows two things: the position
//! up to which the stream was read, and the ids published since. An id is forgotten when the position sees its transaction,
//! and not sooner: from then on the position answers for it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::protocol::{Notification, Position, UserId, notification_frame};

/// A mailbox holds at most so many frames, and at most [`MAX_MAILBOX_BYTES`] unless one frame alone is larger. What does not
/// fit is dropped, and the session reads it from the table when it has sent the rest.
pub const MAX_MAILBOX_FRAMES: usize = 256;
/// See [`MAX_MAILBOX_FRAMES`].
pub const MAX_MAILBOX_BYTES: usize = 256 * 1024;

/// A frame on its way to one socket, and what its delivery is confirmed by.
#[derive(Clone, Debug)]
pub struct Mail {
    /// The notification's id.
    pub id: i64,
    /// The leaf that holds it.
    pub slot: i16,
    /// The transaction that wrote it.
    pub xid: u64,
    /// The text to send.
    pub frame: Utf8Bytes,
}

impl Mail {
    /// A notification as mail.
    pub fn new(notification: &Notification, replayed: bool) -> Self {
        Self {
            id: notification.id,
            slot: notification.slot,
            xid: notification.xid,
            frame: notification_frame(notification, replayed),
        }
    }
}

/// All subscriptions of this instance. Every method is synchronous and short: the listener calls them between two polls.
pub struct Registry {
    inner: Mutex<Inner>,
}

struct Inner {
    users: HashMap<UserId, Vec<Arc<Mailbox>>>,
    /// How far the stream was read.
    position: Arc<Position>,
    /// Published and not visible in `position`: id -> xid.
    published: HashMap<i64, u64>,
}

#[derive(Default)]
struct Mailbox {
    mail: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Mail>,
    bytes: usize,
    /// Set while something was dropped: all that was dropped is invisible in it.
    lag: Option<Arc<Position>>,
}

/// What [`Subscription::take`] found.
pub enum Taken {
    /// Frames in order of arrival.
    Mail(Vec<Mail>),
    /// Nothing waits, but something was dropped; all of it is invisible in this position.
    Lagged(Arc<Position>),
    /// Nothing waits.
    Nothing,
}

impl Registry {
    /// Starts at a position of the database. Invariant: it was taken before the first socket may subscribe, so that whatever it
    /// sees is found by the catch-up of an opening socket.
    pub fn new(position: Position) -> Self {
        let inner = Inner { users: HashMap::new(), position: Arc::new(position), published: HashMap::new() };
        Self { inner: Mutex::new(inner) }
    }

    /// Subscribes to what is published for a user from now on. Dropping the subscription ends it.
    pub fn subscribe(self: &Arc<Self>, user: UserId) -> Subscription {
        let mailbox = Arc::<Mailbox>::default();
        self.lock().users.entry(user.clone()).or_default().push(mailbox.clone());
        Subscription { registry: self.clone(), user, mailbox }
    }

    /// Puts a notification into each mailbox of its user, unless it was published before. Returns whether it was new.
    pub fn publish(&self, notification: &Notification) -> bool {
        let inner = &mut *self.lock();
        if inner.position.sees(notification.xid) || inner.published.insert(notification.id, notification.xid).is_some()
        {
            return false;
        }
        if let Some(mailboxes) = inner.users.get(&notification.user_id) {
            let mail = Mail::new(notification, false);
            for mailbox in mailboxes {
                mailbox.push(mail.clone(), &inner.position);
            }
        }
        true
    }

    /// Notes that all notifications visible in the position have been published.
    pub fn advance(&self, position: Position) {
        let inner = &mut *self.lock();
        inner.published.retain(|_, xid| !position.sees(*xid));
        if inner.published.capacity() > 4 * inner.published.len().max(1024) {
            inner.published.shrink_to(1024);
        }
        inner.position = Arc::new(position);
    }

    /// How far the stream was read.
    pub fn position(&self) -> Arc<Position> {
        self.lock().position.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half-way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mailbox {
    fn push(&self, mail: Mail, position: &Arc<Position>) {
        let queue = &mut *self.lock();
        if queue.lag.is_some() {
            return;
        }
        let full = queue.frames.len() >= MAX_MAILBOX_FRAMES
            || (!queue.frames.is_empty() && queue.bytes + mail.frame.len() > MAX_MAILBOX_BYTES);
        if full {
            queue.lag = Some(position.clone());
            return;
        }
        queue.bytes += mail.frame.len();
        queue.frames.push_back(mail);
        self.arrived.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One socket's place in the registry.
pub struct Subscription {
    registry: Arc<Registry>,
    user: UserId,
    mailbox: Arc<Mailbox>,
}

impl Subscription {
    /// The user whose notifications arrive here.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// Waits until something may have arrived. Cancel safe; may return without mail.
    pub async fn arrived(&self) {
        self.mailbox.arrived.notified().await;
    }

    /// Takes what waits, at most `limit` frames. A lag is told once, when the frames before it are gone.
    pub fn take(&self, limit: usize) -> Taken {
        let queue = &mut *self.mailbox.lock();
        if queue.frames.is_empty() {
            return queue.lag.take().map_or(Taken::Nothing, Taken::Lagged);
        }
        let count = limit.min(queue.frames.len());
        let mail: Vec<_> = queue.frames.drain(..count).collect();
        queue.bytes -= mail.iter().map(|mail| mail.frame.len()).sum::<usize>();
        if queue.frames.is_empty() {
            // An idle socket holds no buffer.
            queue.frames = VecDeque::new();
            if queue.lag.is_some() {
                self.mailbox.arrived.notify_one();
            }
        } else {
            self.mailbox.arrived.notify_one();
        }
        Taken::Mail(mail)
    }

    /// Whether a catch-up of this socket could still meet what the transaction wrote: not once both the stream and the lag, if
    /// there is one, lie behind it.
    pub fn is_past(&self, xid: u64) -> bool {
        let lag = self.mailbox.lock().lag.clone();
        lag.unwrap_or_else(|| self.registry.position()).sees(xid)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let inner = &mut *self.registry.lock();
        if let Some(mailboxes) = inner.users.get_mut(&self.user) {
            mailboxes.retain(|mailbox| !Arc::ptr_eq(mailbox, &self.mailbox));
            if mailboxes.is_empty() {
                inner.users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn notification(id: i64, xid: u64, user: &str) -> Notification {
        let text = format!(
            r#"{{"id":"{id}","slot":0,"xid":"{xid}","user_id":"{user}","event":"e","level":"info","message":"m","data":{{}},"created_at":"t"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn ids(subscription: &Subscription) -> Vec<i64> {
        match subscription.take(usize::MAX) {
            Taken::Mail(mail) => mail.iter().map(|mail| mail.id).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn every_socket_of_the_user_gets_it_once_and_nobody_else() {
        let registry = Arc::new(Registry::new("5:5:".parse().unwrap()));
        let (phone, laptop, other) = (
            registry.subscribe("1".parse().unwrap()),
            registry.subscribe("1".parse().unwrap()),
            registry.subscribe("2".parse().unwrap()),
        );
        assert!(registry.publish(&notification(1, 7, "1")));
        assert!(!registry.publish(&notification(1, 7, "1")), "told by NOTIFY and by the stream");
        registry.advance("8:8:".parse().unwrap());
        assert!(!registry.publish(&notification(1, 7, "1")), "a NOTIFY that arrives after the read");
        assert!(registry.publish(&notification(2, 8, "1")));
        assert_eq!(ids(&phone), [1, 2]);
        assert_eq!(ids(&laptop), [1, 2]);
        assert_eq!(ids(&other), [0; 0]);
        drop((phone, laptop, other));
        assert!(registry.lock().users.is_empty(), "no subscription is left, and no user without one");
    }

    #[test]
    fn a_row_that_was_running_at_the_position_is_published_when_it_commits() {
        let registry = Arc::new(Registry::new("5:5:".parse().unwrap()));
        let socket = registry.subscribe("1".parse().unwrap());
        registry.advance("5:9:5".parse().unwrap());
        assert!(registry.publish(&notification(1, 5, "1")));
        assert!(!registry.publish(&notification(2, 6, "1")), "committed before the position");
        assert_eq!(ids(&socket), [1]);
    }

    #[test]
    fn a_full_mailbox_keeps_what_it_has_and_says_from_where_to_catch_up() {
        let registry = Arc::new(Registry::new("5:5:".parse().unwrap()));
        let socket = registry.subscribe("1".parse().unwrap());
        for id in 0..MAX_MAILBOX_FRAMES as i64 + 10 {
            registry.publish(&notification(id, 6, "1"));
        }
        assert!(!socket.is_past(6));
        registry.advance("7:7:".parse().unwrap());
        assert!(!socket.is_past(6), "the lag still lies before it");
        assert_eq!(ids(&socket).len(), MAX_MAILBOX_FRAMES);
        let Taken::Lagged(from) = socket.take(usize::MAX) else { panic!("no lag") };
        assert_eq!(from.to_string(), "5:5:");
        assert!(socket.is_past(6));
        assert!(matches!(socket.take(usize::MAX), Taken::Nothing));
        registry.publish(&notification(999, 8, "1"));
        assert_eq!(ids(&socket), [999]);
    }
}
