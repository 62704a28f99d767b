//! Who listens here: user -> subscriptions. Each notification reaches each subscription of its user once.
//!
//! NOTIFY and the stream tell the same rows; the registry drops what it published before. It knows two things: the position
//! up to which the stream was read, and the ids published since. An id is forgotten when the position sees its transaction,
//! and not sooner: from then on the position answers for it.
//!
//! Where ids and transaction ids may have come back (another epoch), nothing of that holds: the stream is read on from a position
//! that surely holds, and each socket catches up from there by itself, leaving out the rows that it knows by more than their id.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::protocol::{Cursor, Epoch, Notification, Position, UserId, notification_frame};

/// A mailbox holds at most so many frames, and at most [`MAX_MAILBOX_BYTES`] unless one frame alone is larger. What does not
/// fit is dropped, and the session reads it from the table when it has sent the rest.
pub const MAX_MAILBOX_FRAMES: usize = 512;
/// Counted as if no other socket had a share in what waits. With what the session has taken and not written, and what it knows of
/// frames that are not confirmed, a socket that reads nothing costs 256 KiB at most.
pub const MAX_MAILBOX_BYTES: usize = 128 * 1024;
/// Of what is published and not noted as durable so many ids are kept.
const MAX_UNNOTED: usize = 100_000;
/// So many epochs are remembered.
const MAX_EPOCHS: usize = 16;
/// So many frames beside notifications wait at most; of more, the oldest go.
const MAX_NEWS: usize = 16;

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
}

impl Mail {
    /// A notification as mail.
    pub fn new(notification: &Notification, replayed: bool) -> Self {
        Self {
            id: notification.id,
            slot: notification.slot,
            xid: notification.xid,
            created: notification.created_at.microseconds,
            frame: notification_frame(notification, replayed),
        }
    }

    /// How much memory it takes, in bytes: the frame, itself, and the counts of references to both.
    pub fn size(&self) -> usize {
        self.frame.len() + size_of::<Self>() + size_of::<[usize; 8]>()
    }
}

/// All subscriptions of this instance. Every method is synchronous and short: the listener calls them between two polls.
pub struct Registry {
    inner: Mutex<Inner>,
    begun: watch::Sender<bool>,
    stopping: AtomicBool,
}

struct Inner {
    users: HashMap<UserId, Vec<Arc<Mailbox>>>,
    /// How far the stream was read, in which epoch.
    position: Arc<Cursor>,
    /// The last epochs, the present one at the end.
    epochs: Vec<Epoch>,
    /// How far it was read by what the database has noted: after a crash it is read on from here.
    durable: Position,
    /// Published and not visible in both `position` and `durable`: id -> xid.
    published: HashMap<i64, u64>,
}

struct Mailbox {
    mail: Mutex<Queue>,
    arrived: Notify,
    /// What tells this socket from the user's others, where it wants to hear of more than notifications.
    origin: Option<u64>,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Arc<Mail>>,
    bytes: usize,
    /// Set while something was dropped: all that was dropped is invisible in it.
    lag: Option<Arc<Cursor>>,
    /// Frames beside notifications.
    news: VecDeque<Utf8Bytes>,
}

/// What [`Subscription::take`] found.
pub enum Taken {
    /// Frames in order of arrival.
    Mail(Vec<Arc<Mail>>),
    /// Nothing waits, but something was dropped; all of it is invisible in this position.
    Lagged(Arc<Cursor>),
    /// Nothing waits.
    Nothing,
}

impl Registry {
    /// Has read nothing yet, in no epoch. What subscribes now catches up when one has begun.
    #[allow(clippy::new_without_default, reason = "a part of the service, made once")]
    pub fn new() -> Self {
        let nothing = Position::nothing();
        let inner = Inner {
            users: HashMap::new(),
            position: Arc::new(Cursor::new(Epoch::default(), nothing.clone())),
            epochs: Vec::new(),
            durable: nothing,
            published: HashMap::new(),
        };
        Self { inner: Mutex::new(inner), begun: watch::Sender::new(false), stopping: AtomicBool::new(false) }
    }

    /// Waits until an epoch has begun. What is read from the table before may be older than what the stream begins with.
    pub async fn begun(&self) {
        // The sender lives as long as this.
        let _ = self.begun.subscribe().wait_for(|begun| *begun).await;
    }

    /// Subscribes to what is published for a user from now on. Dropping the subscription ends it. `origin` is given by a socket
    /// that wants to hear of more than notifications.
    pub fn subscribe(self: &Arc<Self>, user: UserId, origin: Option<u64>) -> Subscription {
        let mailbox = Arc::new(Mailbox { mail: Mutex::default(), arrived: Notify::new(), origin });
        let inner = &mut *self.lock();
        if self.stopping.load(Ordering::Relaxed) {
            mailbox.arrived.notify_one();
        }
        inner.users.entry(user.clone()).or_insert_with(|| Vec::with_capacity(1)).push(mailbox.clone());
        Subscription { registry: self.clone(), user, mailbox }
    }

    /// Puts a notification into each mailbox of its user, unless it was published before. Returns whether it was new.
    pub fn publish(&self, notification: &Notification) -> bool {
        let inner = &mut *self.lock();
        let known = inner.position.position.sees(notification.xid)
            || inner.published.insert(notification.id, notification.xid).is_some();
        if known {
            return false;
        }
        if let Some(mailboxes) = inner.users.get(&notification.user_id) {
            let mail = Arc::new(Mail::new(notification, false));
            for mailbox in mailboxes {
                mailbox.push(&mail, &inner.position);
            }
        }
        true
    }

    /// Notes that all notifications visible in the position have been published, and how far the database has noted the same.
    /// Returns whether it should note more.
    pub fn advance(&self, position: Position, durable: Position) -> bool {
        let inner = &mut *self.lock();
        // A database that notes nothing must not fill our memory: what `position` sees it answers for alone.
        let few = inner.published.len() < MAX_UNNOTED;
        inner.published.retain(|_, xid| !position.sees(*xid) || (few && !durable.sees(*xid)));
        let unnoted = inner.published.values().any(|xid| position.sees(*xid));
        if inner.published.capacity() > 4 * inner.published.len().max(1024) {
            inner.published.shrink_to(1024);
        }
        inner.durable = durable;
        inner.position = Arc::new(Cursor::new(inner.position.epoch, position));
        unnoted
    }

    /// Begins another epoch: the stream is read on from `durable`, and each socket catches up from there.
    pub fn begin(&self, epoch: Epoch, durable: Position) {
        let inner = &mut *self.lock();
        if inner.epochs.len() >= MAX_EPOCHS {
            inner.epochs.remove(0);
        }
        inner.epochs.push(epoch);
        inner.position = Arc::new(Cursor::new(epoch, durable.clone()));
        inner.durable = durable;
        inner.published.clear();
        for mailbox in inner.users.values().flatten() {
            mailbox.lag_from(&inner.position);
        }
        self.begun.send_replace(true);
    }

    /// This instance stops: every socket hears of it in its mailbox, which it listens to anyway. (A token that each of them polled
    /// with every frame would be one lock for all of them.)
    pub fn stop(&self) {
        let inner = &*self.lock();
        self.stopping.store(true, Ordering::Relaxed);
        inner.users.values().flatten().for_each(|mailbox| mailbox.arrived.notify_one());
    }

    /// The last epochs that this instance has been in.
    pub fn epochs(&self) -> Vec<Epoch> {
        self.lock().epochs.clone()
    }

    /// How far the stream was read.
    pub fn position(&self) -> Arc<Cursor> {
        self.lock().position.clone()
    }

    /// Gives a frame to the user's sockets that want to hear of more than notifications, but the one of this origin.
    pub fn tell(&self, user: &UserId, frame: &Utf8Bytes, origin: Option<u64>) {
        for mailbox in self.lock().users.get(user).into_iter().flatten() {
            if mailbox.origin.is_some() && mailbox.origin != origin {
                mailbox.tell(frame.clone());
            }
        }
    }

    /// Whether the user has a socket that wants to hear of more than notifications.
    pub fn is_curious(&self, user: &UserId) -> bool {
        self.lock().users.get(user).is_some_and(|mailboxes| mailboxes.iter().any(|mailbox| mailbox.origin.is_some()))
    }

    /// The users with such a socket.
    pub fn curious(&self) -> Vec<UserId> {
        let inner = self.lock();
        let curious = inner.users.iter().filter(|(_, mailboxes)| mailboxes.iter().any(|m| m.origin.is_some()));
        curious.map(|(user, _)| user.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half-way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mailbox {
    fn push(&self, mail: &Arc<Mail>, position: &Arc<Cursor>) {
        let queue = &mut *self.lock();
        if queue.lag.is_some() {
            return;
        }
        let full = queue.frames.len() >= MAX_MAILBOX_FRAMES
            || (!queue.frames.is_empty() && queue.bytes + mail.size() > MAX_MAILBOX_BYTES);
        if full {
            queue.lag = Some(position.clone());
            return;
        }
        queue.bytes += mail.size();
        queue.frames.push_back(mail.clone());
        self.arrived.notify_one();
    }

    /// Drops nothing that waits; from here on the table is read, from a position of another epoch or an older one.
    fn lag_from(&self, position: &Arc<Cursor>) {
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

    fn tell(&self, frame: Utf8Bytes) {
        let queue = &mut *self.lock();
        if queue.news.len() >= MAX_NEWS {
            queue.news.pop_front();
        }
        queue.news.push_back(frame);
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

    /// What tells this socket from the user's others, if it wants to hear of more than notifications.
    pub fn origin(&self) -> Option<u64> {
        self.mailbox.origin
    }

    /// The epoch the stream is read in.
    pub fn epoch(&self) -> Epoch {
        self.registry.position().epoch
    }

    /// Whether the stream was read past all that the position could still be told of.
    pub fn has_read_past(&self, position: &Position) -> bool {
        self.registry.position().position.covers(position)
    }

    /// Waits until something may have arrived. Cancel safe; may return without mail.
    pub async fn arrived(&self) {
        self.mailbox.arrived.notified().await;
    }

    /// Whether this instance stops. [`Self::arrived`] returns once more when it begins to.
    pub fn is_stopping(&self) -> bool {
        self.registry.stopping.load(Ordering::Relaxed)
    }

    /// Takes what waits beside notifications.
    pub fn take_news(&self) -> VecDeque<Utf8Bytes> {
        std::mem::take(&mut self.mailbox.lock().news)
    }

    /// Takes what waits, at most `frames` of them and about `bytes`. A lag is told once, when the frames before it are gone.
    pub fn take(&self, frames: usize, bytes: usize) -> Taken {
        let queue = &mut *self.mailbox.lock();
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

    /// Whether no catch-up of this socket can meet what the transaction wrote: what was read, what the database has noted, and the
    /// lag, if there is one, all lie behind it.
    pub fn is_past(&self, xid: u64) -> bool {
        let lag = self.mailbox.lock().lag.clone();
        let inner = self.registry.lock();
        let read = inner.durable.sees(xid) && inner.position.position.sees(xid);
        read && lag.is_none_or(|lag| lag.position.sees(xid))
    }

    /// How far the stream was read, and what of it still waits here: all that is visible in the position and was published since
    /// this subscribed has been taken, but for the transactions given. Where something was dropped, it is the position from which
    /// it is found.
    pub fn taken(&self) -> (Arc<Cursor>, Vec<u64>) {
        // In this order: what is published between the two waits in the mailbox.
        let position = self.registry.position();
        let queue = self.mailbox.lock();
        let waiting = queue.frames.iter().map(|mail| mail.xid).collect();
        (queue.lag.clone().unwrap_or(position), waiting)
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
            r#"{{"id":"{id}","slot":0,"xid":"{xid}","user_id":"{user}","event":"e","level":"info","message":"m","data":{{}},"created_at":"2026-11-23T01:02:03.000000Z"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn at(text: &str) -> Position {
        text.parse().unwrap()
    }

    fn registry(text: &str) -> Arc<Registry> {
        let registry = Registry::new();
        registry.begin("00000000000000ff".parse().unwrap(), at(text));
        Arc::new(registry)
    }

    fn ids(subscription: &Subscription) -> Vec<i64> {
        match subscription.take(usize::MAX, usize::MAX) {
            Taken::Mail(mail) => mail.iter().map(|mail| mail.id).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn every_socket_of_the_user_gets_it_once_and_nobody_else() {
        let registry = registry("5:5:");
        let (phone, laptop, other) = (
            registry.subscribe("1".parse().unwrap(), None),
            registry.subscribe("1".parse().unwrap(), None),
            registry.subscribe("2".parse().unwrap(), None),
        );
        assert!(registry.publish(&notification(1, 7, "1")));
        assert!(!registry.publish(&notification(1, 7, "1")), "told by NOTIFY and by the stream");
        registry.advance(at("8:8:"), at("8:8:"));
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
        let registry = registry("5:5:");
        let socket = registry.subscribe("1".parse().unwrap(), None);
        registry.advance(at("5:9:5"), at("5:9:5"));
        assert!(registry.publish(&notification(1, 5, "1")));
        assert!(!registry.publish(&notification(2, 6, "1")), "committed before the position");
        assert_eq!(ids(&socket), [1]);
    }

    #[test]
    fn a_full_mailbox_keeps_what_it_has_and_says_from_where_to_catch_up() {
        let registry = registry("5:5:");
        let socket = registry.subscribe("1".parse().unwrap(), None);
        for id in 0..MAX_MAILBOX_FRAMES as i64 + 10 {
            registry.publish(&notification(id, 6, "1"));
        }
        assert!(!socket.is_past(6));
        registry.advance(at("7:7:"), at("7:7:"));
        assert!(!socket.is_past(6), "the lag still lies before it");
        assert_eq!(ids(&socket).len(), MAX_MAILBOX_FRAMES);
        let Taken::Lagged(from) = socket.take(usize::MAX, usize::MAX) else { panic!("no lag") };
        assert_eq!(from.position, at("5:5:"));
        assert!(socket.is_past(6));
        assert!(matches!(socket.take(usize::MAX, usize::MAX), Taken::Nothing));
        registry.publish(&notification(999, 8, "1"));
        assert_eq!(ids(&socket), [999]);
    }
    #[test]
    fn another_epoch_makes_every_socket_catch_up_from_what_surely_holds() {
        let registry = registry("5:5:");
        let socket = registry.subscribe("1".parse().unwrap(), None);
        registry.publish(&notification(1, 6, "1"));
        assert!(registry.advance(at("7:7:"), at("5:5:")), "the database should note it");
        registry.begin("00000000000000aa".parse().unwrap(), at("5:5:"));
        assert!(!registry.publish(&notification(1, 3, "1")), "older than what holds");
        assert_eq!(ids(&socket), [1], "what waited is not lost");
        let Taken::Lagged(from) = socket.take(usize::MAX, usize::MAX) else { panic!("no lag") };
        assert_eq!((from.epoch.to_string().as_str(), &from.position), ("00000000000000aa", &at("5:5:")));
        assert!(registry.publish(&notification(1, 6, "1")), "the same id and transaction, and perhaps another row");
        assert_eq!(ids(&socket), [1]);
    }

    #[test]
    fn epochs_in_quick_succession_make_a_socket_catch_up_from_the_first() {
        let registry = registry("5:5:");
        let socket = registry.subscribe("1".parse().unwrap(), None);
        registry.begin("00000000000000aa".parse().unwrap(), at("7:7:"));
        registry.begin("00000000000000bb".parse().unwrap(), at("9:9:"));
        let Taken::Lagged(from) = socket.take(usize::MAX, usize::MAX) else { panic!("no lag") };
        assert_eq!((from.epoch.to_string().as_str(), &from.position), ("00000000000000bb", &at("7:7:")));
        registry.begin("00000000000000cc".parse().unwrap(), at("9:9:"));
        registry.begin("00000000000000dd".parse().unwrap(), at("4:4:"));
        let Taken::Lagged(from) = socket.take(usize::MAX, usize::MAX) else { panic!("no lag") };
        assert_eq!(from.position, at("4:4:"), "of another cluster nothing holds");
    }

    #[test]
    fn what_waits_in_a_mailbox_is_not_taken() {
        let registry = registry("5:5:");
        let socket = registry.subscribe("1".parse().unwrap(), None);
        registry.publish(&notification(1, 6, "1"));
        registry.advance(at("9:9:"), at("5:5:"));
        let (position, waiting) = socket.taken();
        assert_eq!((&position.position, waiting), (&at("9:9:"), vec![6]));
        assert!(!socket.is_past(6), "a crash may bring it back");
        ids(&socket);
        assert_eq!(socket.taken().1, [0; 0]);
        registry.advance(at("9:9:"), at("9:9:"));
        assert!(socket.is_past(6));
    }

    #[test]
    fn news_reach_the_other_curious_sockets_of_the_user() {
        let registry = registry("5:5:");
        let user: UserId = "1".parse().unwrap();
        let (asked, other, plain) = (
            registry.subscribe(user.clone(), Some(1)),
            registry.subscribe(user.clone(), Some(2)),
            registry.subscribe(user.clone(), None),
        );
        for n in 0..MAX_NEWS + 3 {
            registry.tell(&user, &n.to_string().into(), Some(1));
        }
        assert!(asked.take_news().is_empty() && plain.take_news().is_empty());
        assert_eq!(other.take_news().front().unwrap().as_str(), "3", "of too many the oldest go");
        assert_eq!(registry.curious(), [user]);
    }
}
