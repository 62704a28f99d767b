//! Who listens here: user -> subscriptions. Each notification reaches each subscription of its user once.
//!
//! NOTIFY and the stream tell the same rows; the registry drops what it published before. It knows two things: the position
//! up to which the stream was read, and the ids published since. An id is forgotten when the position sees its transaction,
//! and not sooner: from then on the position answers for it.
//!
//! Where ids and transaction ids may have come back (another epoch), nothing of that holds: the stream is read on from a position
//! that surely holds, and each socket catches up from there by itself, leaving out the rows that it knows by more than their id.

mod mailbox;
mod rest;
mod revocations;

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::metrics::Frames;
use crate::protocol::{Cursor, Epoch, Notification, Position, Revocation, Stretch, UserId};
use mailbox::Mailbox;
pub use mailbox::{Mail, Room, Taken};
use rest::{Rests, TICK};
use revocations::Revocations;

/// Of what is published and not noted as durable so many ids are kept.
const MAX_UNNOTED: usize = 100_000;
/// So many epochs are remembered.
const MAX_EPOCHS: usize = 16;
/// All subscriptions of this instance. Every method is synchronous and short: the listener calls them between two polls.
pub struct Registry {
    inner: Mutex<Inner>,
    begun: watch::Sender<bool>,
    /// A first socket rests.
    resting: Notify,
    frames: Frames,
    room: Room,
    stopping: AtomicBool,
}

struct Inner {
    users: HashMap<UserId, Vec<Arc<Mailbox>>>,
    /// Sockets that staff have as other users, by who the staff is.
    staff: Vec<(UserId, Arc<Mailbox>)>,
    revocations: Revocations,
    /// How far the stream was read, in which epoch.
    position: Arc<Cursor>,
    /// The last epochs, the present one at the end.
    epochs: Vec<Epoch>,
    /// A stretch that was told whole, and begins further on than this instance has read: when it has read as far, it joins.
    ahead: Option<(Position, Position)>,
    /// How far it was read by what the database has noted: after a crash it is read on from here.
    durable: Position,
    /// Published and not visible in both `position` and `durable`: id -> xid.
    published: HashMap<i64, u64>,
    /// Sockets that were just written to, while very many are.
    rests: Rests<Arc<Mailbox>>,
}

impl Registry {
    /// Has read nothing yet, in no epoch. What subscribes now catches up when one has begun. `frames` counts what is written.
    pub fn new(frames: Frames, room: Room) -> Self {
        let nothing = Position::nothing();
        let inner = Inner {
            users: HashMap::new(),
            staff: Vec::new(),
            revocations: Revocations::new(nothing.clone()),
            position: Arc::new(Cursor::new(Epoch::default(), nothing.clone())),
            epochs: Vec::new(),
            ahead: None,
            durable: nothing,
            published: HashMap::new(),
            rests: Rests::new(),
        };
        Self {
            inner: Mutex::new(inner),
            begun: watch::Sender::new(false),
            resting: Notify::new(),
            frames,
            room,
            stopping: AtomicBool::new(false),
        }
    }

    /// Waits until an epoch has begun. What is read from the table before may be older than what the stream begins with.
    pub async fn begun(&self) {
        // The sender lives as long as this.
        let _ = self.begun.subscribe().wait_for(|begun| *begun).await;
    }

    /// Subscribes to what is published for a user from now on. Dropping the subscription ends it. `origin` is given by a socket
    /// that wants to hear of more than notifications.
    pub fn subscribe(self: &Arc<Self>, user: UserId, origin: Option<u64>) -> Subscription {
        let mailbox = Arc::new(Mailbox::new(origin));
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
            let mail = Arc::new(Mail::new(notification, false, &self.frames));
            let now = Instant::now();
            let rest = inner.rests.count(mailboxes.len(), now);
            for mailbox in mailboxes {
                if let Some(until) = mailbox.push(&mail, &inner.position, self.room, now, rest)
                    && inner.rests.hold(until, mailbox.clone())
                {
                    self.resting.notify_one();
                }
            }
        }
        true
    }

    /// Calls sockets that rest when their time is over; for ever. Without it they would rest for good.
    pub async fn call(&self) -> Infallible {
        loop {
            self.resting.notified().await;
            loop {
                sleep(TICK).await;
                let over = self.lock().rests.over(Instant::now());
                let Some(mailboxes) = over else { break };
                mailboxes.iter().for_each(|mailbox| mailbox.call());
            }
        }
    }

    /// Notes that all of a stretch have been published. If all before it have been, the position moves to its end; if not yet, it is
    /// kept until a read has come as far: under a steady load each read is overtaken by what is told meanwhile. Of another epoch it
    /// says nothing.
    pub fn follow(&self, told: &Stretch) {
        let inner = &mut *self.lock();
        if inner.position.epoch == told.epoch {
            inner.ahead = Some(match inner.ahead.take() {
                Some((from, to)) if from.is_older(&told.since) && told.since.is_older(&to) => {
                    (from, to.newer(&told.position).clone())
                }
                // With a gap between them nothing is known of the gap.
                _ => (told.since.clone(), told.position.clone()),
            });
            // Ids are forgotten with the next read: this comes hundreds of times a second.
            inner.join();
        }
    }

    /// Notes that all notifications visible in the position have been published, and how far the database has noted the same.
    /// Returns whether it should note more.
    pub fn advance(&self, position: Position, durable: Position) -> bool {
        let inner = &mut *self.lock();
        // What was told while the read was under way may have been newer.
        let position = position.newer(&inner.position.position).clone();
        // A database that notes nothing must not fill our memory: what `position` sees it answers for alone.
        let few = inner.published.len() < MAX_UNNOTED;
        inner.published.retain(|_, xid| !position.sees(*xid) || (few && !durable.sees(*xid)));
        let unnoted = inner.published.values().any(|xid| position.sees(*xid));
        if inner.published.capacity() > 4 * inner.published.len().max(1024) {
            inner.published.shrink_to(1024);
        }
        inner.durable = durable;
        inner.position = Arc::new(Cursor::new(inner.position.epoch, position));
        inner.join();
        unnoted
    }

    /// Begins another epoch: the stream is read on from `durable`, and each socket catches up from there.
    pub fn begin(&self, epoch: Epoch, durable: Position) {
        let inner = &mut *self.lock();
        if inner.epochs.len() >= MAX_EPOCHS {
            inner.epochs.remove(0);
        }
        inner.revocations.until = match inner.epochs.last() {
            // Sockets that open later ask for themselves.
            None => durable.clone(),
            Some(_) => inner.revocations.until.older(&durable).clone(),
        };
        inner.epochs.push(epoch);
        inner.position = Arc::new(Cursor::new(epoch, durable.clone()));
        inner.durable = durable;
        inner.ahead = None;
        inner.published.clear();
        for mailbox in inner.users.values().flatten() {
            mailbox.lag_from(&inner.position);
        }
        self.begun.send_replace(true);
    }

    /// A user's credentials of before an instant, in seconds since 1970, are worth nothing any more: sockets that were opened with one
    /// close. Each revocation is told once, however often it is heard of.
    pub fn revoke(&self, user: &UserId, at: f64) {
        let inner = &mut *self.lock();
        if inner.revocations.note(user, at) {
            // Staff who look on have a credential of their own.
            let is_staff = |mailbox: &Arc<Mailbox>| inner.staff.iter().any(|(_, staff)| Arc::ptr_eq(staff, mailbox));
            let own = inner.users.get(user).into_iter().flatten().filter(|mailbox| !is_staff(mailbox));
            let as_staff = inner.staff.iter().filter(|(staff, _)| staff == user).map(|(_, mailbox)| mailbox);
            for mailbox in own.chain(as_staff) {
                mailbox.revoked.store(at.to_bits(), Ordering::Relaxed);
                mailbox.arrived.notify_one();
            }
        }
    }

    /// What was read of revocations, and up to where.
    pub fn revoke_all(&self, until: Position, revocations: &[Revocation]) {
        for revocation in revocations {
            self.revoke(&revocation.user_id, revocation.at);
        }
        self.lock().revocations.until = until;
    }

    /// Up to where the table was read for revocations.
    pub fn revoked_until(&self) -> Position {
        self.lock().revocations.until.clone()
    }

    /// Whether a user's credential of then (in seconds since 1970; `None`: of nobody knows when) is known to be revoked. Not all
    /// are: the table knows.
    pub fn is_revoked(&self, user: &UserId, issued: Option<f64>) -> bool {
        self.lock().revocations.end(user, issued)
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

    /// How long the notification waits, in seconds, that a socket here was handed (it is in its mailbox, or written) and has not
    /// confirmed for longest; for none longer than since it opened. `age` is how old something is that was created at a time.
    pub fn undelivered_age(&self, age: impl Fn(i64) -> f64) -> f64 {
        // Looked at one by one outside of the lock: nobody is kept from publishing.
        let mailboxes: Vec<_> = self.lock().users.values().flatten().cloned().collect();
        let owing = mailboxes.iter().filter_map(|mailbox| Some((mailbox, mailbox.owes()?)));
        owing.map(|(mailbox, created)| age(created).min(mailbox.opened.elapsed().as_secs_f64())).fold(0.0, f64::max)
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

impl Inner {
    /// Moves the position to the end of the stretch that lies ahead, if it has come to its beginning.
    fn join(&mut self) {
        if let Some((_, to)) = self.ahead.take_if(|(from, _)| from.is_older(&self.position.position)) {
            let position = self.position.position.newer(&to).clone();
            self.position = Arc::new(Cursor::new(self.position.epoch, position));
        }
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

    /// When it was opened.
    pub fn opened(&self) -> Instant {
        self.mailbox.opened
    }

    /// The epoch the stream is read in.
    pub fn epoch(&self) -> Epoch {
        self.registry.position().epoch
    }

    /// Whether the stream was read past all that the position could still be told of.
    pub fn has_read_past(&self, position: &Position) -> bool {
        self.registry.position().position.covers(position)
    }

    /// Staff have this socket: it is revoked with them, and not with its user. What was heard of before is heard here.
    pub fn belongs_to_staff(&self, staff: UserId) {
        let inner = &mut *self.registry.lock();
        let revoked = inner.revocations.last(&staff).map_or(0, f64::to_bits);
        self.mailbox.revoked.store(revoked, Ordering::Relaxed);
        self.mailbox.arrived.notify_one();
        inner.staff.push((staff, self.mailbox.clone()));
    }

    /// When its user was revoked last since it opened, in seconds since 1970. [`Self::arrived`] returns once more then.
    pub fn revoked(&self) -> Option<f64> {
        Some(self.mailbox.revoked.load(Ordering::Relaxed)).filter(|bits| *bits != 0).map(f64::from_bits)
    }

    /// A revocation of its user was found by asking for something else.
    pub fn revoke(&self, at: f64) {
        self.registry.revoke(&self.user, at);
    }

    /// Waits until something may have arrived. Cancel safe; may return without mail.
    pub async fn arrived(&self) {
        self.mailbox.arrived.notified().await;
    }

    /// A notification as mail of this socket, which was read for it.
    pub fn mail(&self, notification: &Notification, replayed: bool) -> Arc<Mail> {
        Arc::new(Mail::new(notification, replayed, &self.registry.frames))
    }

    /// Notes when the oldest row was created that was written to the socket and is not confirmed, for operators.
    pub fn owes(&self, created: Option<i64>) {
        self.mailbox.owed.store(created.unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Whether this instance stops. [`Self::arrived`] returns once more when it begins to.
    pub fn is_stopping(&self) -> bool {
        self.registry.stopping.load(Ordering::Relaxed)
    }

    /// Takes what waits beside notifications.
    pub fn take_news(&self) -> VecDeque<Utf8Bytes> {
        self.mailbox.take_news()
    }

    /// Takes what waits, at most `frames` of them and about `bytes`. A lag is told once, when the frames before it are gone.
    pub fn take(&self, frames: usize, bytes: usize) -> Taken {
        self.mailbox.take(frames, bytes)
    }

    /// Whether no catch-up of this socket can meet what the transaction wrote: what was read, what the database has noted, and the
    /// lag, if there is one, all lie behind it.
    pub fn is_past(&self, xid: u64) -> bool {
        let lag = self.mailbox.lag();
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
        let (lag, waiting) = self.mailbox.waiting();
        (lag.unwrap_or(position), waiting)
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
        inner.staff.retain(|(_, mailbox)| !Arc::ptr_eq(mailbox, &self.mailbox));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    const ROOM: Room = Room { frames: 512, bytes: 128 * 1024 };

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
        let registry = Registry::new(Metrics::new().frames, ROOM);
        registry.begin("00000000000000ff".parse().unwrap(), at(text));
        Arc::new(registry)
    }

    fn ids(subscription: &Subscription) -> Vec<i64> {
        // However quickly a test tells, nobody rests.
        subscription.mailbox.call();
        match subscription.take(usize::MAX, usize::MAX) {
            Taken::Mail(mail) => mail.iter().map(|mail| mail.id).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn what_waits_or_is_owed_grows_old_until_it_is_confirmed_or_its_socket_ends() {
        let registry = registry("5:5:");
        let idle = registry.subscribe("2".parse().unwrap(), None);
        let socket = registry.subscribe("1".parse().unwrap(), None);
        let age = |seconds: f64| registry.undelivered_age(|_| seconds);
        assert_eq!(age(1e-9), 0.0);
        registry.publish(&notification(1, 7, "1"));
        assert_eq!(age(1e-9), 1e-9, "it waits in the mailbox");
        assert!(age(1e9) <= socket.mailbox.opened.elapsed().as_secs_f64(), "for no longer than the socket is there");
        let Taken::Mail(mail) = socket.take(1, usize::MAX) else { panic!("no mail") };
        assert_eq!(age(1e-9), 0.0);
        socket.owes(mail.first().map(|mail| mail.created));
        assert_eq!(age(1e-9), 1e-9, "it is written");
        socket.owes(None);
        assert_eq!(age(1e-9), 0.0, "it is confirmed");
        socket.owes(Some(1));
        idle.owes(None);
        drop(socket);
        assert_eq!(age(1e-9), 0.0, "nobody is there");
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

    #[tokio::test]
    async fn a_socket_that_was_just_told_waits_while_very_many_are_told_and_gets_all() {
        let registry = registry("5:5:");
        let sockets: Vec<_> = (0..200).map(|_| registry.subscribe("1".parse().unwrap(), None)).collect();
        let (first, mut id, mut seen) = (&sockets[0], 0, Vec::new());
        let publish = |id: &mut i64| {
            *id += 1;
            registry.publish(&notification(*id, 7, "1"));
        };
        // Each is told and takes it at once, until one comes within the rest of the one before.
        loop {
            publish(&mut id);
            match first.take(usize::MAX, usize::MAX) {
                Taken::Mail(mail) => seen.extend(mail.iter().map(|mail| mail.id)),
                Taken::Later => break,
                _ => panic!("nothing is there"),
            }
        }
        assert!(id > 1, "the first goes at once");
        assert_eq!(first.taken().1.len(), 1, "it waits all the same");
        // Many are worth a write of their own.
        while matches!(first.take(1, 0), Taken::Later) {
            publish(&mut id);
        }
        seen.extend(ids(first));
        publish(&mut id);
        tokio::select! {
            never = registry.call() => match never {},
            () = async {
                while seen.len() < id as usize {
                    first.arrived().await;
                    if let Taken::Mail(mail) = first.take(usize::MAX, usize::MAX) {
                        seen.extend(mail.iter().map(|mail| mail.id));
                    }
                }
            } => {}
        }
        assert_eq!(seen, (1..=id).collect::<Vec<_>>());
    }

    #[test]
    fn what_was_told_moves_the_position_where_it_follows_on() {
        let registry = registry("5:5:");
        let socket = registry.subscribe("1".parse().unwrap(), None);
        let told = |epoch: &str, since, position| {
            registry.follow(&Stretch { epoch: epoch.parse().unwrap(), since: at(since), position: at(position) });
            registry.position().position.to_string()
        };
        let (present, other) = ("00000000000000ff", "00000000000000aa");
        assert_eq!(told(other, "5:5:", "9:9:"), "5:5:", "of another epoch");
        assert_eq!(told(present, "6:6:", "7:7:"), "5:5:", "it has not heard what was between");
        assert_eq!(told(present, "8:8:", "9:9:"), "5:5:", "nor between these");
        registry.publish(&notification(1, 6, "1"));
        assert_eq!(told(present, "4:4:", "7:9:7"), "7:9:7");
        assert_eq!(told(present, "4:4:", "7:8:7"), "7:9:7", "never back");
        registry.advance(at("6:7:6"), at("6:7:6"));
        assert_eq!(registry.position().position, at("7:9:7"), "nor by a read that began before");
        assert!(!registry.publish(&notification(1, 6, "1")));
        assert!(registry.publish(&notification(2, 7, "1")));
        assert_eq!(ids(&socket), [1, 2]);

        // Each read is overtaken by what is told meanwhile, and the two join.
        assert_eq!(told(present, "12:12:", "14:14:"), "7:9:7");
        assert_eq!(told(present, "14:14:", "16:16:"), "7:9:7");
        registry.advance(at("13:13:"), at("6:7:6"));
        assert_eq!(registry.position().position, at("16:16:"));
        assert_eq!(told(present, "16:16:", "18:18:"), "18:18:");
        told(present, "20:20:", "22:22:");
        told(present, "24:24:", "26:26:");
        registry.advance(at("21:21:"), at("6:7:6"));
        assert_eq!(registry.position().position, at("21:21:"), "what lay between 22 and 24 was not heard");
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
        let size = Mail::new(&notification(1_000, 6, "1"), false, &registry.frames).size();
        let fit = ROOM.frames.min(ROOM.bytes / size);
        for id in 1_000..1_000 + fit as i64 + 10 {
            registry.publish(&notification(id, 6, "1"));
        }
        assert!(!socket.is_past(6));
        registry.advance(at("7:7:"), at("7:7:"));
        assert!(!socket.is_past(6), "the lag still lies before it");
        assert_eq!(ids(&socket).len(), fit);
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
        for n in 0..mailbox::MAX_NEWS + 3 {
            registry.tell(&user, &n.to_string().into(), Some(1));
        }
        assert!(asked.take_news().is_empty() && plain.take_news().is_empty());
        assert_eq!(other.take_news().front().unwrap().as_str(), "3", "of too many the oldest go");
        assert_eq!(registry.curious(), [user]);
    }
}
