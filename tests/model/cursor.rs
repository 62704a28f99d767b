//! A protocol client that comes back with a cursor: rule 22 of delivery, and the client's half of rule 14.
//!
//! A cursor vouches: "all that it sees, this client has had". It is a position, and where rows still wait for the socket, one
//! that sees none of them. The client keeps the last one it was sent, and drops what it has had by epoch and id. Confirmations
//! play no part. The registry is taken at its word, as in `session`; catch-ups are read in one statement.
//!
//! A crash here loses the last commit, closes the sockets, and lets the next row have the lost one's id and transaction id.

use super::database::{Database, Id, Move, Set, Snapshot, Stage, Told, Xid};
use super::explorer::{Model, Steps, Wrong, breaks, holds};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flaw {
    None,
    /// The cursor is the last id, and what has a larger one is read.
    CursorIsId,
    /// The cursor is the last id, and what its row did not see when it was inserted is read.
    CursorIsIdAndHorizon,
    /// The cursor is the instance's position, whatever still waits for this socket.
    IgnoresWhatWaits,
    /// The cursor does not name its epoch.
    HasNoEpoch,
    /// The client drops what has an id that it had, in whatever epoch.
    DropsById,
}

struct Client {
    rows: u8,
    disconnects: u8,
    crashes: u8,
    flaw: Flaw,
}

/// Of frames.
const MAILBOX: usize = 2;

/// When a row was written: what it does not share with one that has its id later.
type Born = u8;

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    database: Database,
    /// Of each transaction: when its row was written, and what it saw.
    rows: Vec<(Born, Snapshot)>,
    births: u8,
    last_commit: Option<Xid>,
    epoch: u8,
    /// The registry's.
    position: Snapshot,
    published: Set,
    socket: Option<Socket>,
    cursor: Cursor,
    /// The ids that the client has had in its cursor's epoch.
    had_ids: Set,
    /// Rows that its handler was given.
    handled: Set,
    disconnects_left: u8,
    crashes_left: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Cursor {
    epoch: u8,
    position: Snapshot,
    /// The last row's, for clients that go by it.
    last: Id,
}

#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Socket {
    /// Each with the registry's position when it was published, which does not see it.
    mailbox: Vec<(Xid, Snapshot)>,
    /// Set while something was dropped: all that was dropped is invisible in it.
    lag: Option<Snapshot>,
    /// What the next catch-up begins from; `None` when none is owed.
    catch_up: Option<Snapshot>,
    seen: Option<Snapshot>,
    /// On the way to the client: rows and the cursor behind each; no row: `live`.
    wire: Vec<(Option<Xid>, Cursor)>,
    written: Told,
}

impl Model for Client {
    type State = State;

    fn start(&self) -> State {
        State {
            database: Database::default(),
            rows: Vec::new(),
            births: 0,
            last_commit: None,
            epoch: 0,
            position: Snapshot::default(),
            published: Set::default(),
            socket: None,
            cursor: Cursor { epoch: 0, position: Snapshot::default(), last: 0 },
            had_ids: Set::default(),
            handled: Set::default(),
            disconnects_left: self.disconnects,
            crashes_left: self.crashes,
        }
    }

    fn steps(&self, steps: &mut Steps<'_, State>) {
        self.database_steps(steps);
        let now = steps.from;
        let Some(socket) = &now.socket else {
            return steps.must("the client connects with its cursor", 0, |next| self.connect(next));
        };

        if socket.catch_up.is_some() {
            steps.must("what the cursor does not see is read and written, then live", 0, |next| self.catch_up(next));
        } else if let Some(&(row, _)) = socket.mailbox.first() {
            steps.must("row # is taken from the mailbox and written", row, |next| self.write_mail(next));
        } else if let Some(lag) = socket.lag {
            steps.must("the session finds that something was dropped", 0, |next| {
                let socket = next.socket.as_mut().expect("it is open");
                (socket.lag, socket.catch_up) = (None, Some(lag));
            });
        }
        if now.disconnects_left > 0 {
            for handled in 0..=socket.wire.len() {
                steps.may("the connection breaks, # of its frames were handled", handled as u8, |next| {
                    next.disconnects_left -= 1;
                    next.close(handled);
                });
            }
        }
    }

    fn judge(&self, now: &State, calm: bool) -> Option<Wrong> {
        if now.socket.as_ref().is_some_and(|socket| !socket.written.twice.is_empty()) {
            return Some(Wrong::Twice);
        }
        // What is on the way arrives, if nothing happens any more.
        let mut end = now.clone();
        end.close(usize::MAX);
        let committed: Set = end.database.committed().iter().map(|row| end.born(row)).collect();
        (calm && !committed.is_within(end.handled)).then_some(Wrong::Lost)
    }
}

impl Client {
    fn database_steps(&self, steps: &mut Steps<'_, State>) {
        let now = steps.from;
        if now.births < self.rows {
            steps.may("a writer inserts", 0, |next| {
                next.rows.push((next.births, next.database.snapshot()));
                next.births += 1;
                next.database.make(Move::Begin);
                let xid = next.database.transactions.len() as Xid;
                next.database.make(Move::Insert { xid, rings: true });
            });
        }
        for (xid, transaction) in (1..).zip(&now.database.transactions) {
            if transaction.stage == Stage::Inserted {
                steps.may("writer # commits", xid, |next| {
                    next.database.make(Move::Commit(xid));
                    next.last_commit = (next.crashes_left > 0).then_some(xid);
                });
            }
        }
        for row in now.database.committed().iter().filter(|row| !now.published.has(*row)) {
            steps.must("row # is published", row, |next| next.publish(row));
        }
        steps.must("the registry's position moves", 0, |next| {
            next.position = Snapshot(next.published);
        });
        if let Some(lost) = now.last_commit {
            for handled in 0..=now.socket.as_ref().map_or(0, |socket| socket.wire.len()) {
                steps.may(
                    "# frames are handled, then the server crashes and forgets its last commit",
                    handled as u8,
                    |next| {
                        next.close(handled);
                        next.crash(lost);
                    },
                );
            }
        }
    }

    fn connect(&self, next: &mut State) {
        if next.cursor.epoch != next.epoch {
            if self.flaw != Flaw::DropsById {
                next.had_ids = Set::default();
            }
            if self.flaw != Flaw::HasNoEpoch {
                // The answer is `gap`: the client reads the history, and goes on from there.
                next.cursor = Cursor { epoch: next.epoch, position: next.database.snapshot(), last: 0 };
                next.database.committed().iter().for_each(|row| next.handle(row));
            }
        }
        next.socket = Some(Socket { catch_up: Some(next.cursor.position), ..Socket::default() });
    }

    /// A catch-up's rows carry the cursor that it began from, since they are by id; `live` carries the one it has reached.
    fn catch_up(&self, next: &mut State) {
        let socket = next.socket.as_mut().expect("it is open");
        let from = socket.catch_up.take().expect("it is owed");
        let (rows, here, opens) = (&next.rows, next.database.snapshot(), socket.seen.is_none());
        let misses = |row: &Xid| match self.flaw {
            Flaw::CursorIsId if opens => *row > next.cursor.last,
            Flaw::CursorIsIdAndHorizon if opens && next.cursor.last > 0 => {
                *row != next.cursor.last && !rows[usize::from(next.cursor.last) - 1].1.sees(*row)
            }
            _ => !from.sees(*row) && !socket.seen.is_some_and(|seen| seen.sees(*row)),
        };
        let missed: Vec<_> = next.database.committed().iter().filter(misses).collect();
        let mut last = next.cursor.last;
        for row in missed.into_iter().filter(|row| !socket.written.once.has(*row)).collect::<Vec<_>>() {
            last = row;
            socket.written.add(row);
            socket.wire.push((Some(row), Cursor { epoch: next.epoch, position: from, last }));
        }
        socket.seen = Some(here);
        socket.wire.push((None, Cursor { epoch: next.epoch, position: here, last }));
    }

    fn write_mail(&self, next: &mut State) {
        let socket = next.socket.as_mut().expect("it is open");
        let (row, _) = socket.mailbox.remove(0);
        if socket.seen.is_some_and(|seen| seen.sees(row)) {
            return;
        }
        let waits = socket.mailbox.first().map(|(_, before)| *before).or(socket.lag);
        let position = match waits {
            Some(before) if self.flaw != Flaw::IgnoresWhatWaits => before,
            _ => next.position,
        };
        socket.written.add(row);
        socket.wire.push((Some(row), Cursor { epoch: next.epoch, position, last: row }));
    }
}

impl State {
    fn born(&self, row: Xid) -> Born {
        self.rows[usize::from(row) - 1].0
    }

    fn publish(&mut self, row: Xid) {
        self.published.add(row);
        let position = self.position;
        if let Some(socket) = &mut self.socket
            && socket.lag.is_none()
        {
            if socket.mailbox.len() < MAILBOX {
                socket.mailbox.push((row, position));
            } else {
                socket.lag = Some(position);
            }
        }
    }

    /// The connection ends when so many of its frames have been handled.
    fn close(&mut self, handled: usize) {
        for (row, cursor) in self.socket.take().into_iter().flat_map(|socket| socket.wire).take(handled) {
            self.cursor = cursor;
            row.into_iter().for_each(|row| self.handle(row));
        }
    }

    fn handle(&mut self, row: Xid) {
        if !self.had_ids.has(row) {
            self.had_ids.add(row);
            self.handled.add(self.born(row));
        }
    }

    /// Afterwards a transaction that survived is behind all that did not, or those would not have come again.
    fn crash(&mut self, lost: Xid) {
        self.crashes_left -= 1;
        self.last_commit = None;
        self.epoch += 1;
        let survived = |xid: Xid, database: &Database| xid != lost && database.committed().has(xid);
        let last = (1..).take(self.rows.len()).filter(|xid| survived(*xid, &self.database)).last().unwrap_or(0);
        self.rows.truncate(last.into());
        self.database.transactions.truncate(last.into());
        for (xid, transaction) in (1..).zip(&mut self.database.transactions) {
            if xid == lost || transaction.stage != Stage::Committed {
                transaction.stage = Stage::RolledBack;
            }
        }
        self.position = self.database.snapshot();
        self.published = self.position.0;
    }
}

impl Client {
    fn right() -> Self {
        Self { rows: 3, disconnects: 1, crashes: 0, flaw: Flaw::None }
    }

    fn with(flaw: Flaw) -> Self {
        Self { rows: 2, flaw, ..Self::right() }
    }

    fn that_crashes(flaw: Flaw) -> Self {
        Self { rows: 2, disconnects: 0, crashes: 1, flaw }
    }
}

#[test]
fn a_cursor_that_is_a_position_misses_nothing() {
    holds("cursor", &Client::right());
    holds("cursor across a crash", &Client::that_crashes(Flaw::None));
}

#[test]
fn a_cursor_that_is_an_id_misses_a_smaller_one_that_commits_later() {
    breaks("an id as cursor", &Client::with(Flaw::CursorIsId), Wrong::Lost);
}

#[test]
fn an_id_with_what_its_row_saw_misses_rows_that_are_told_in_another_order() {
    breaks("an id and its horizon as cursor", &Client::with(Flaw::CursorIsIdAndHorizon), Wrong::Lost);
}

#[test]
fn a_cursor_that_ignores_what_waits_misses_it() {
    breaks("ignores what waits", &Client::with(Flaw::IgnoresWhatWaits), Wrong::Lost);
}

#[test]
fn a_cursor_without_its_epoch_misses_a_row_that_got_the_transaction_id_of_a_lost_one() {
    breaks("has no epoch", &Client::that_crashes(Flaw::HasNoEpoch), Wrong::Lost);
}

#[test]
fn a_client_that_drops_by_id_alone_drops_a_row_that_got_the_id_of_a_lost_one() {
    breaks("drops by id", &Client::that_crashes(Flaw::DropsById), Wrong::Lost);
}
