//! A server that crashes and forgets what it had committed without waiting for the disk, and then gives the same transaction id
//! and the same id to a row of another user: epochs, the stored position, confirmations (rule 14 of delivery).
//!
//! The database is its log. A commit is an entry at its end and may be told at once; a crash cuts the log anywhere behind the
//! part that is known to be on disk. So what survives is always a beginning of what was, and an entry that is a position
//! vouches for all that is visible in it.
//!
//! One instance is looked at closely, with a socket of user 1 that was there from the beginning and one of user 2 that may open.
//! Another instance does what it may do to them: it begins an epoch, and it stores positions. All writers find the bell hung
//! here; what they tell silently `reading` has shown. Restores and promotions look the same as a crash that cuts the log.

mod server;

use self::server::{Born, Row, Server};
use super::database::{Id, Snapshot, Told, Xid};
use super::explorer::{Model, Steps, Wrong, breaks, holds};

/// What is done differently from the right protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flaw {
    None,
    /// Goes on with the ids that it published in the epoch before.
    KeepsPublished,
    /// Goes on from its position of the epoch before.
    KeepsPosition,
    /// Goes on from the epoch's position even where its own is older.
    LeavesOwnPosition,
    /// Takes the position that is stored when it connects for the one that the epoch began with.
    ReadsFromStored,
    /// Of several epochs that it missed it looks at the last.
    ReadsFromLastEpoch,
    /// A position is stored as long as nobody has begun the next epoch, though the server is another run already.
    StoresBeforeEpoch,
    /// A session goes on leaving out what its catch-up of the epoch before has seen.
    KeepsSeen,
    /// Confirms whatever row has the id now.
    ConfirmsById,
}

struct Crash {
    users: u8,
    /// How many rows may be written, with those that are lost.
    rows: u8,
    crashes: u8,
    /// How often the other instance may do something.
    others: u8,
    flaw: Flaw,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    server: Server,
    instance: Instance,
    sockets: [Option<Socket>; 2],
    others_left: u8,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Instance {
    epoch: u8,
    /// What LISTEN has brought and nobody has taken.
    heard: Vec<Row>,
    position: Snapshot,
    /// Published and not visible in the position.
    published: Vec<(Id, Xid)>,
    look: Option<(Snapshot, Vec<Row>)>,
    /// Reached a socket and not noted in the database.
    confirmations: Vec<(Id, Born)>,
}

/// What is published for a socket's user has arrived at once: `session` is about what happens in between.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Socket {
    /// What the catch-up of its opening has seen.
    seen: Option<Snapshot>,
    had: Told,
}

impl Model for Crash {
    type State = State;

    fn start(&self) -> State {
        State {
            server: Server::new(self.crashes),
            instance: Instance {
                epoch: 0,
                heard: Vec::new(),
                position: Snapshot::default(),
                published: Vec::new(),
                look: None,
                confirmations: Vec::new(),
            },
            sockets: [Some(Socket::default()), None],
            others_left: self.others,
        }
    }

    fn steps(&self, steps: &mut Steps<'_, State>) {
        self.server_steps(steps);
        self.instance_steps(steps);
    }

    fn judge(&self, now: &State, calm: bool) -> Option<Wrong> {
        let sockets = now.sockets.iter().flatten();
        if now.server.crashes_left == self.crashes && sockets.clone().any(|socket| !socket.had.twice.is_empty()) {
            return Some(Wrong::Twice);
        }
        if sockets.clone().any(|socket| !socket.had.once.is_within(now.server.ever_committed)) {
            return Some(Wrong::NotCommitted);
        }
        let lost = |row: &Row| match &now.sockets[usize::from(row.user)] {
            Some(socket) => !socket.had.once.has(row.born),
            // It is told to the next socket unless it is confirmed.
            None => now.server.is_delivered(row.born),
        };
        (calm && now.server.committed().any(|row| lost(&row))).then_some(Wrong::Lost)
    }
}

impl Crash {
    fn server_steps(&self, steps: &mut Steps<'_, State>) {
        let now = &steps.from.server;
        if now.births < self.rows {
            for user in 0..self.users {
                steps.may("a writer inserts a row for user #", user + 1, |next| next.server.insert(user));
            }
        }
        for xid in now.open() {
            steps.may("transaction # commits and NOTIFYs", xid, |next| {
                let row = next.server.commit(xid);
                if is_connected(next) {
                    next.instance.heard.push(row);
                }
            });
        }
        if now.crashes_left > 0 {
            for lost in 0..=now.unflushed() {
                steps.may("the server crashes, and # entries of its log were not on disk", lost, |next| {
                    next.server.crash(lost);
                    // Its connections are gone, and it has not noticed: what they had brought waits to be taken.
                    next.instance.look = None;
                });
            }
        }
        if steps.from.others_left > 0 {
            steps.may("another instance connects, reads all there is and stores its position", 0, |next| {
                next.others_left -= 1;
                next.server.identify();
                next.server.store(next.server.snapshot());
            });
        }
    }

    fn instance_steps(&self, steps: &mut Steps<'_, State>) {
        let State { server, instance: now, .. } = steps.from;
        if let Some(&row) = now.heard.first() {
            steps.must("the NOTIFY of the row of transaction # is taken", row.xid, |next| {
                next.instance.heard.remove(0);
                self.publish(next, row);
            });
        }
        // Any time after the crash it notices that its LISTEN is gone.
        if !is_connected(steps.from) {
            steps.must("the instance connects anew", 0, |next| self.connect(next));
        }

        match &now.look {
            None if server.snapshot() != now.position => {
                // On a connection of the pool, which may be new before the listener has noticed that its own is gone.
                steps.must("a read begins", 0, |next| {
                    let rows = next.server.committed().filter(|row| !next.instance.position.sees(row.xid)).collect();
                    next.instance.look = Some((next.server.snapshot(), rows));
                });
            }
            None => {}
            Some((snapshot, rows)) => steps.must("its rows have arrived", 0, |next| {
                next.instance.look = None;
                rows.iter().for_each(|row| self.publish(next, *row));
                next.instance.position = *snapshot;
                next.instance.published.retain(|(_, xid)| !snapshot.sees(*xid));
            }),
        }

        let holds = now.epoch == server.epoch() && now.position.is_after(server.stored());
        if holds && (server.is_identified || self.flaw == Flaw::StoresBeforeEpoch) {
            steps.may("the instance stores its position", 0, |next| next.server.store(next.instance.position));
        }
        if let Some(&(id, born)) = now.confirmations.first() {
            steps.must("row # is confirmed", id, |next| {
                next.instance.confirmations.remove(0);
                let is_it = |row: &Row| row.id == id && (row.born == born || self.flaw == Flaw::ConfirmsById);
                let row = next.server.committed().find(is_it);
                row.into_iter().for_each(|row| next.server.deliver(row.born));
            });
        }
        if self.users > 1 && steps.from.sockets[1].is_none() {
            steps.may("user 2 opens a socket and catches up", 0, |next| {
                next.sockets[1] = Some(Socket { seen: None, had: Told::default() });
                let server = &next.server;
                let rows = server.committed().filter(|row| row.user == 1 && !server.is_delivered(row.born));
                rows.collect::<Vec<_>>().into_iter().for_each(|row| tell(next, row));
                next.sockets[1].as_mut().expect("it is open").seen = Some(next.server.snapshot());
            });
        }
    }

    /// Asks which history of the database this is, then listens.
    fn connect(&self, next: &mut State) {
        next.server.identify();
        let (server, instance) = (&next.server, &mut next.instance);
        instance.heard.clear();
        instance.look = None;
        if instance.epoch == server.epoch() {
            return;
        }
        let began = match self.flaw {
            Flaw::ReadsFromStored => server.stored(),
            Flaw::ReadsFromLastEpoch => server.began_with(server.epoch()),
            // Stored positions never move back, so of the epochs that it missed the first began with the oldest.
            _ => server.began_with(instance.epoch + 1),
        };
        instance.epoch = server.epoch();
        let own_is_older = began.is_after(instance.position) && self.flaw != Flaw::LeavesOwnPosition;
        if !own_is_older && self.flaw != Flaw::KeepsPosition {
            instance.position = began;
        }
        if self.flaw != Flaw::KeepsPublished {
            instance.published.clear();
        }
        if self.flaw != Flaw::KeepsSeen {
            next.sockets.iter_mut().flatten().for_each(|socket| socket.seen = None);
        }
    }

    /// `Registry::publish`, and what the session does with it.
    fn publish(&self, next: &mut State, row: Row) {
        let instance = &mut next.instance;
        if instance.position.sees(row.xid) || instance.published.iter().any(|(id, _)| *id == row.id) {
            return;
        }
        instance.published.push((row.id, row.xid));
        if next.sockets[usize::from(row.user)]
            .as_ref()
            .is_some_and(|socket| !socket.seen.is_some_and(|seen| seen.sees(row.xid)))
        {
            tell(next, row);
        }
    }
}

/// Whether the LISTEN that the instance has made is one of the present run of the server.
fn is_connected(now: &State) -> bool {
    now.server.is_identified && now.instance.epoch == now.server.epoch()
}

/// A row reaches the socket of its user.
fn tell(next: &mut State, row: Row) {
    if let Some(socket) = &mut next.sockets[usize::from(row.user)] {
        socket.had.add(row.born);
        next.instance.confirmations.push((row.id, row.born));
    }
}

impl Crash {
    fn right() -> Self {
        Self { users: 2, rows: 2, crashes: 1, others: 1, flaw: Flaw::None }
    }

    /// Two crashes, and an instance that may miss the epoch between them.
    fn twice(flaw: Flaw) -> Self {
        Self { users: 1, crashes: 2, flaw, ..Self::right() }
    }

    fn alone(flaw: Flaw) -> Self {
        Self { others: 0, ..Self::with(flaw) }
    }

    fn with(flaw: Flaw) -> Self {
        Self { flaw, ..Self::right() }
    }
}

#[test]
fn rows_that_get_the_ids_of_lost_ones_reach_their_own_user() {
    holds("crash", &Crash::right());
}

#[test]
fn an_instance_that_missed_an_epoch_loses_nothing() {
    holds("two crashes", &Crash::twice(Flaw::None));
}

#[test]
fn keeping_the_published_ids_across_a_crash_loses_a_row_that_gets_one_of_them() {
    breaks("keeps the published ids", &Crash::alone(Flaw::KeepsPublished), Wrong::Lost);
}

#[test]
fn keeping_the_position_across_a_crash_loses_a_row_that_gets_a_transaction_id_it_sees() {
    breaks("keeps its position", &Crash::alone(Flaw::KeepsPosition), Wrong::Lost);
}

#[test]
fn leaving_an_older_position_of_its_own_loses_what_others_had_read_further() {
    breaks("leaves its own position", &Crash::with(Flaw::LeavesOwnPosition), Wrong::Lost);
}

#[test]
fn reading_on_from_what_another_instance_has_stored_in_the_new_epoch_loses_rows() {
    breaks("reads from the stored position", &Crash::with(Flaw::ReadsFromStored), Wrong::Lost);
}

#[test]
fn looking_at_the_last_of_two_missed_epochs_loses_rows() {
    breaks("reads from the last epoch", &Crash::twice(Flaw::ReadsFromLastEpoch), Wrong::Lost);
}

#[test]
fn storing_a_position_before_the_new_epoch_has_begun_loses_rows() {
    breaks("stores before the epoch", &Crash::alone(Flaw::StoresBeforeEpoch), Wrong::Lost);
}

#[test]
fn keeping_what_a_catch_up_saw_across_a_crash_loses_a_row_that_gets_a_transaction_id_it_saw() {
    breaks("keeps what was seen", &Crash::alone(Flaw::KeepsSeen), Wrong::Lost);
}

#[test]
fn confirming_by_id_alone_loses_a_row_that_got_the_id_of_a_lost_one() {
    breaks("confirms by id", &Crash::alone(Flaw::ConfirmsById), Wrong::Lost);
}
