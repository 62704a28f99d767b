//! What was written and what was seen: every row with its outcome, every connection of every socket with its frames.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

/// Keys are amounts of payments; the sample has smaller ones.
const FIRST_KEY: i64 = 1_000;

/// What became of a row, as far as its writer can know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Its writer has not heard yet.
    Open,
    /// Committed.
    Ok,
    /// Surely not committed, and nobody wanted that.
    Failed,
    /// The answer to the commit was lost: it may appear or not.
    Unknown,
    /// Rolled back on purpose.
    RolledBack,
}

/// One row that tells one user.
pub struct Row {
    pub user: i64,
    pub began: Instant,
    pub answered: Option<Instant>,
    pub outcome: Outcome,
    /// When the first socket of its user had it.
    pub seen: Option<Instant>,
    /// The notification's id, as the first socket saw it.
    id: Option<String>,
}

/// One connection of a socket, from its hello to its end.
#[derive(Default)]
struct Connection {
    user: i64,
    opened: Option<Instant>,
    closed: bool,
    ids: HashSet<String>,
    keys: HashSet<i64>,
}

/// Sums of what went wrong at the sockets.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sums {
    /// Frames at a socket of another user.
    pub misrouted: u64,
    /// The same notification twice on one connection.
    pub duplicated: u64,
    /// The same notification on more than one connection of one socket, which is legal: it was not confirmed in time.
    pub repeated: u64,
    /// Frames of rows that nobody wrote, or a second notification of one row.
    pub phantom: u64,
    /// Notifications that were told as a number.
    pub summarized: u64,
    /// Connections that opened.
    pub connections: u64,
}

#[derive(Default)]
struct Inner {
    rows: HashMap<i64, Row>,
    connections: Vec<Connection>,
    by_user: HashMap<i64, Vec<usize>>,
    /// What each socket has had, over all its connections.
    had: HashMap<usize, HashSet<i64>>,
    sums: Sums,
    last_key: i64,
}

/// See the module.
#[derive(Default)]
pub struct Ledger(Mutex<Inner>);

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Notes rows that are about to be written, one for each user given, and returns their keys.
    pub fn begin(&self, users: &[i64]) -> Vec<i64> {
        let inner = &mut *self.lock();
        let began = Instant::now();
        users
            .iter()
            .map(|&user| {
                inner.last_key = inner.last_key.max(FIRST_KEY) + 1;
                let row = Row { user, began, answered: None, outcome: Outcome::Open, seen: None, id: None };
                inner.rows.insert(inner.last_key, row);
                inner.last_key
            })
            .collect()
    }

    /// Notes what became of rows.
    pub fn end(&self, keys: &[i64], outcome: Outcome) {
        let inner = &mut *self.lock();
        for key in keys {
            let row = inner.rows.get_mut(key).unwrap();
            (row.outcome, row.answered) = (outcome, Some(Instant::now()));
        }
    }

    /// A connection of a user's socket has had its hello. Returns its number.
    pub fn opened(&self, user: i64) -> usize {
        let inner = &mut *self.lock();
        inner.sums.connections += 1;
        let number = inner.connections.len();
        inner.connections.push(Connection { user, opened: Some(Instant::now()), ..Connection::default() });
        inner.by_user.entry(user).or_default().push(number);
        number
    }

    /// A connection has ended.
    pub fn closed(&self, connection: usize) {
        self.lock().connections[connection].closed = true;
    }

    /// A frame arrived at a connection of a socket.
    pub fn frame(&self, socket: usize, connection: usize, frame: &Value) {
        let inner = &mut *self.lock();
        let sums = &mut inner.sums;
        let Some(id) = frame["id"].as_str() else {
            sums.summarized += frame["more"].as_u64().unwrap_or(0);
            return;
        };
        let connection = &mut inner.connections[connection];
        if !connection.ids.insert(id.to_owned()) {
            sums.duplicated += 1;
            return;
        }
        // What a fault says itself, with notifier.send, is not a row of ours.
        if frame["event"] == "message" {
            return;
        }
        let key = frame["data"]["amount"].as_f64().map(|key| key as i64);
        let Some((key, row)) = key.and_then(|key| inner.rows.get_mut(&key).map(|row| (key, row))) else {
            eprintln!("phantom: nobody wrote {frame}");
            sums.phantom += 1;
            return;
        };
        if row.user != connection.user {
            eprintln!("misrouted: user {} was told {frame}", connection.user);
            sums.misrouted += 1;
            return;
        }
        if *row.id.get_or_insert_with(|| id.to_owned()) != id {
            eprintln!("phantom: told before as {:?}: {frame}", row.id);
            sums.phantom += 1;
        }
        row.seen.get_or_insert_with(Instant::now);
        connection.keys.insert(key);
        if !inner.had.entry(socket).or_default().insert(key) {
            sums.repeated += 1;
        }
    }

    /// How many connections are open now.
    pub fn open_connections(&self) -> usize {
        self.lock().connections.iter().filter(|connection| !connection.closed).count()
    }

    /// How many rows were committed by writes that began after an instant.
    pub fn ok_since(&self, since: Instant) -> usize {
        self.lock().rows.values().filter(|row| row.outcome == Outcome::Ok && row.began > since).count()
    }

    /// How many rows were seen by their user.
    pub fn seen(&self) -> usize {
        self.lock().rows.values().filter(|row| row.seen.is_some()).count()
    }

    /// Of the committed rows given, those that some socket still has to get: each connection that was open before the write began
    /// and is open now, and at least one of each user who has a socket.
    pub fn missing(&self, keys: Option<Vec<i64>>) -> Vec<i64> {
        let inner = &*self.lock();
        let keys = keys.unwrap_or_else(|| inner.rows.keys().copied().collect());
        let is_missing = |key: &i64| {
            let row = &inner.rows[key];
            let (Outcome::Ok, Some(connections)) = (row.outcome, inner.by_user.get(&row.user)) else { return false };
            row.seen.is_none()
                || connections.iter().map(|&number| &inner.connections[number]).any(|connection| {
                    !connection.closed
                        && connection.opened.is_some_and(|opened| opened < row.began)
                        && !connection.keys.contains(key)
                })
        };
        keys.into_iter().filter(is_missing).collect()
    }

    /// Says what is missing, for whoever has to find out why.
    pub fn tell_of(&self, missing: &[i64]) {
        let inner = &*self.lock();
        for key in missing.iter().take(5) {
            let row = &inner.rows[key];
            let ago = row.answered.map(|answered| answered.elapsed());
            eprintln!("lost: {key} of user {}, committed {ago:?} ago, seen: {}", row.user, row.seen.is_some());
        }
    }

    /// The sums, where rows that were surely not committed and yet seen are phantoms as well.
    pub fn sums(&self) -> Sums {
        let inner = &*self.lock();
        let mut sums = inner.sums;
        for (key, row) in &inner.rows {
            if row.seen.is_some() && matches!(row.outcome, Outcome::Failed | Outcome::RolledBack) {
                eprintln!("phantom: {key} of user {} is {:?} and was told", row.user, row.outcome);
                sums.phantom += 1;
            }
        }
        sums
    }

    /// The longest time from a commit's answer to the first sight of its row, over the rows of some users.
    pub fn slowest(&self, of: impl Fn(i64) -> bool) -> Duration {
        let inner = &*self.lock();
        let rows = inner.rows.values().filter(|row| row.outcome == Outcome::Ok && of(row.user));
        rows.filter_map(|row| Some(row.seen?.saturating_duration_since(row.answered?))).max().unwrap_or_default()
    }

    /// Looks at every row.
    pub fn for_each_row(&self, mut look: impl FnMut(&Row)) {
        self.lock().rows.values().for_each(&mut look);
    }
}

/// A checker that finds nothing proves nothing: each kind of mistake is found.
mod tests {
    use serde_json::json;

    use super::*;

    fn frame(id: &str, key: i64) -> Value {
        json!({"id": id, "event": "booking.renewed", "data": {"amount": key as f64}})
    }

    #[test]
    fn what_a_socket_did_not_get_is_missing_until_it_gets_it() {
        let ledger = Ledger::default();
        let (old, elsewhere) = (ledger.opened(1), ledger.opened(1));
        let keys = ledger.begin(&[1, 1, 2]);
        assert!(ledger.missing(None).is_empty(), "not committed yet");
        ledger.end(&keys, Outcome::Ok);
        let young = ledger.opened(1);
        ledger.frame(0, old, &frame("a", keys[0]));
        ledger.frame(0, old, &frame("b", keys[1]));
        let mut missing = ledger.missing(None);
        missing.sort_unstable();
        assert_eq!(missing, [keys[0], keys[1]], "the other socket was open all the time; user 2 has none");
        ledger.frame(1, elsewhere, &frame("a", keys[0]));
        assert_eq!(ledger.missing(None), [keys[1]]);
        ledger.closed(elsewhere);
        assert!(ledger.missing(None).is_empty(), "the user has seen it, and the youngest opened later");
        assert_eq!(ledger.open_connections(), 2);
        ledger.frame(2, young, &frame("b", keys[1]));
        assert_eq!((ledger.sums().duplicated, ledger.sums().repeated), (0, 0));
    }

    #[test]
    fn strangers_doubles_and_ghosts_are_counted() {
        let ledger = Ledger::default();
        let (first, second) = (ledger.opened(1), ledger.opened(2));
        let keys = ledger.begin(&[1, 1, 1]);
        ledger.end(&keys[..1], Outcome::Ok);
        ledger.end(&keys[1..2], Outcome::RolledBack);
        ledger.end(&keys[2..], Outcome::Unknown);
        ledger.frame(0, first, &frame("a", keys[0]));
        ledger.frame(0, first, &frame("a", keys[0]));
        assert_eq!(ledger.sums().duplicated, 1);
        let again = ledger.opened(1);
        ledger.frame(0, again, &frame("a", keys[0]));
        assert_eq!(ledger.sums().repeated, 1);
        ledger.frame(1, second, &frame("a", keys[0]));
        assert_eq!(ledger.sums().misrouted, 1);
        ledger.frame(0, first, &frame("c", keys[2]));
        assert_eq!(ledger.sums().phantom, 0, "nobody knows whether it was committed: it may be told");
        ledger.frame(0, first, &frame("b", keys[1]));
        assert_eq!(ledger.sums().phantom, 1, "it was rolled back");
        ledger.frame(0, first, &frame("d", 5));
        assert_eq!(ledger.sums().phantom, 2, "nobody wrote it");
        ledger.frame(0, first, &frame("e", keys[0]));
        assert_eq!(ledger.sums().phantom, 3, "one row, two notifications");
        ledger.frame(0, first, &json!({"type": "info", "message": "m", "more": 7}));
        assert_eq!(ledger.sums().summarized, 7);
    }
}
