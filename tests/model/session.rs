//! One user's plain sockets: catch up, mailbox, lag, frames and pings, pongs and `delivered_at` (rules 16, 17 and 19).
//!
//! The registry is taken at its word here: each committed row is published once, in any order, and the position moves when all
//! that it sees has been (`reading`). Rows come with their transaction, so ids are in order of beginning and not of commit. A
//! row that is rolled back never meets a session.
//!
//! Nothing is lost while each committed row was shown by a page, or is not confirmed and so told to the next socket.

use super::database::{Database, Move, Set, Snapshot, Stage, Xid};
use super::explorer::{Model, Steps, Wrong, breaks, holds};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flaw {
    None,
    /// Reads what is undelivered, and subscribes then.
    ReadsThenSubscribes,
    /// Writes mail that waits although the catch-up has seen it.
    WritesWhatWasSeen,
    /// Forgets what the catch-up has seen when nothing waits, though the registry is not past it.
    ForgetsWhatWasSeen,
    /// Writes mail while the catch-up is being read.
    WritesDuringCatchUp,
    /// After a lag catches up from where the registry is when the session comes to it.
    CatchesUpFromNow,
    /// After a lag tells again what was in the mailbox beside what was dropped.
    ForgetsWhatItTold,
    /// A ping carries the id of the frame before it, and its pong confirms that id and smaller ones.
    PongsNameIds,
    /// A pong confirms at once, although the page may be on its way out.
    DoesNotSettle,
}

struct Session {
    rows: usize,
    reconnects: u8,
    flaw: Flaw,
}

/// Of frames; 256 in the service.
const MAILBOX: usize = 1;

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    database: Database,
    delivered: Set,
    /// The registry's.
    position: Snapshot,
    published: Set,
    socket: Option<Socket>,
    reconnects_left: u8,
    /// Rows that a page of the user's has shown.
    shown: Set,
}

#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Socket {
    is_subscribed: bool,
    mailbox: Vec<Xid>,
    /// Set while something was dropped: all that was dropped is invisible in it.
    lag: Option<Snapshot>,
    catch_up: CatchUp,
    /// What the last catch-up has seen. Gone once the registry is past it and nothing waits.
    seen: Option<Snapshot>,
    /// What a catch-up found and is not written.
    backlog: Vec<Xid>,
    /// Frames in order of writing, a ping behind each. The counts say how many of them ...
    written: Vec<Xid>,
    /// ... have arrived at the other side, whose WebSocket library answers their pings,
    arrived: usize,
    /// ... the page has shown,
    shown: usize,
    /// ... the last pong that came back answers for,
    answered: usize,
    /// ... are confirmed.
    confirmed: usize,
}

#[derive(Clone, PartialEq, Eq, Hash, Default)]
enum CatchUp {
    /// There has to be one: the socket opens.
    #[default]
    Opening,
    /// There has to be one: of what is invisible in these.
    Lagged(Vec<Snapshot>),
    Arriving {
        snapshot: Snapshot,
        rows: Set,
    },
    Done,
}

impl Model for Session {
    type State = State;

    fn start(&self) -> State {
        State {
            database: Database::default(),
            delivered: Set::default(),
            position: Snapshot::default(),
            published: Set::default(),
            socket: Some(self.open()),
            reconnects_left: self.reconnects,
            shown: Set::default(),
        }
    }

    fn steps(&self, steps: &mut Steps<'_, State>) {
        let now = steps.from;
        if now.database.transactions.len() < self.rows {
            steps.may("a writer inserts", 0, |next| {
                next.database.make(Move::Begin);
                let xid = next.database.transactions.len() as Xid;
                next.database.make(Move::Insert { xid, rings: true });
            });
        }
        for (xid, transaction) in (1..).zip(&now.database.transactions) {
            if transaction.stage == Stage::Inserted {
                steps.may("writer # commits", xid, |next| {
                    next.database.make(Move::Commit(xid));
                });
            }
        }
        for row in now.database.committed().iter().filter(|row| !now.published.has(*row)) {
            steps.must("row # is published", row, |next| next.publish(row));
        }
        steps.must("the registry's position moves", 0, |next| next.position = Snapshot(next.published));

        match &now.socket {
            None => steps.may("the user connects again", 0, |next| next.socket = Some(self.open())),
            Some(socket) => {
                self.catch_up_steps(socket, steps);
                self.frame_steps(socket, steps);
                if now.reconnects_left > 0 {
                    steps.may("the page is gone, and what was on its way", 0, |next| {
                        (next.socket, next.reconnects_left) = (None, next.reconnects_left - 1);
                    });
                }
            }
        }
    }

    fn judge(&self, now: &State, calm: bool) -> Option<Wrong> {
        let committed = now.database.committed();
        let will_be_told = |row| now.socket.is_none() && !now.delivered.has(row);
        let twice = |socket: &Socket| {
            (1..socket.written.len()).any(|last| socket.written[..last].contains(&socket.written[last]))
        };
        if now.socket.as_ref().is_some_and(twice) {
            Some(Wrong::Twice)
        } else if calm && committed.iter().any(|row| !now.shown.has(row) && !will_be_told(row)) {
            Some(Wrong::Lost)
        } else {
            None
        }
    }
}

impl Session {
    fn open(&self) -> Socket {
        Socket { is_subscribed: self.flaw != Flaw::ReadsThenSubscribes, ..Socket::default() }
    }

    fn catch_up_steps(&self, socket: &Socket, steps: &mut Steps<'_, State>) {
        match &socket.catch_up {
            CatchUp::Opening => steps.must("what is undelivered is read", 0, |next| {
                let rows = next.database.committed().iter().filter(|row| !next.delivered.has(*row)).collect();
                next.socket().catch_up = CatchUp::Arriving { snapshot: next.database.snapshot(), rows };
            }),
            CatchUp::Lagged(after) => steps.must("what was dropped is read", 0, |next| {
                let visible = |row: &Xid| after.iter().any(|position| position.sees(*row));
                let told = |row: &Xid| socket.written.contains(row) && self.flaw != Flaw::ForgetsWhatItTold;
                let rows = next.database.committed().iter().filter(|row| !visible(row) && !told(row)).collect();
                next.socket().catch_up = CatchUp::Arriving { snapshot: next.database.snapshot(), rows };
            }),
            CatchUp::Arriving { snapshot, rows } => steps.must("its rows have arrived", 0, |next| {
                let socket = next.socket();
                socket.catch_up = CatchUp::Done;
                socket.seen = Some(*snapshot);
                socket.backlog.extend(rows.iter());
                socket.is_subscribed = true;
            }),
            CatchUp::Done => {}
        }

        let may_take = socket.catch_up == CatchUp::Done && socket.backlog.is_empty();
        if !may_take && self.flaw != Flaw::WritesDuringCatchUp {
            return;
        }
        if let Some(&row) = socket.mailbox.first() {
            steps.must("the session takes row # from its mailbox", row, |next| {
                let keeps_seen = self.flaw != Flaw::WritesWhatWasSeen;
                let socket = next.socket();
                socket.mailbox.remove(0);
                if !(keeps_seen && socket.seen.is_some_and(|seen| seen.sees(row))) {
                    socket.backlog.push(row);
                }
            });
        } else if let Some(lag) = socket.lag
            && may_take
        {
            steps.must("the session finds that something was dropped", 0, |next| {
                let from = if self.flaw == Flaw::CatchesUpFromNow { next.position } else { lag };
                let socket = next.socket();
                socket.lag = None;
                socket.catch_up = CatchUp::Lagged([Some(from), socket.seen.take()].into_iter().flatten().collect());
            });
        } else if let Some(seen) = socket.seen
            && (steps.from.position.covers(seen) || self.flaw == Flaw::ForgetsWhatWasSeen)
        {
            steps.must("the session forgets what its catch-up saw", 0, |next| next.socket().seen = None);
        }
    }

    fn frame_steps(&self, socket: &Socket, steps: &mut Steps<'_, State>) {
        if let Some(&row) = socket.backlog.first() {
            steps.must("row # is written, and a ping", row, |next| {
                let socket = next.socket();
                socket.backlog.remove(0);
                socket.written.push(row);
                if next.reconnects_left == 0 {
                    // Nothing keeps it from being shown any more.
                    next.shown.add(row);
                }
            });
        }
        if steps.from.reconnects_left == 0 {
            return;
        }
        if let Some(&row) = socket.written.get(socket.arrived) {
            steps.must("row # and its ping arrive", row, |next| next.socket().arrived += 1);
        }
        if let Some(&row) = socket.written.get(socket.shown)
            && socket.shown < socket.arrived
        {
            steps.must("the page shows row #", row, |next| {
                next.socket().shown += 1;
                next.shown.add(row);
            });
        }
        // A page may answer the latest ping alone.
        if socket.answered < socket.arrived {
            let last = socket.written[socket.arrived - 1];
            steps.must("the pong for row # comes back", last, |next| next.socket().answered = socket.arrived);
        }
        // Two seconds after the pong: a page that is still there has shown what it had.
        if socket.confirmed < socket.answered && (socket.shown >= socket.answered || self.flaw == Flaw::DoesNotSettle) {
            steps.must("what that pong answers for is confirmed", 0, |next| {
                next.socket().confirmed = socket.answered;
                let answered = &socket.written[..socket.answered];
                match self.flaw {
                    Flaw::PongsNameIds => {
                        let last = answered[socket.answered - 1];
                        socket.written.iter().filter(|row| **row <= last).for_each(|row| next.delivered.add(*row));
                    }
                    _ => answered.iter().for_each(|row| next.delivered.add(*row)),
                }
            });
        }
    }
}

impl State {
    fn publish(&mut self, row: Xid) {
        self.published.add(row);
        let position = self.position;
        if let Some(socket) = &mut self.socket
            && socket.is_subscribed
            && socket.lag.is_none()
        {
            if socket.mailbox.len() < MAILBOX {
                socket.mailbox.push(row);
            } else {
                socket.lag = Some(position);
            }
        }
    }

    fn socket(&mut self) -> &mut Socket {
        self.socket.as_mut().expect("a session's step")
    }
}

impl Session {
    /// Enough for mail behind a lag.
    fn that_stays(flaw: Flaw) -> Self {
        Self { rows: 3, reconnects: 0, flaw }
    }

    fn that_reconnects(flaw: Flaw) -> Self {
        Self { rows: 2, reconnects: 2, flaw }
    }
}

#[test]
fn a_session_loses_nothing_and_writes_nothing_twice() {
    holds("a session that stays", &Session::that_stays(Flaw::None));
    holds("sessions that reconnect", &Session::that_reconnects(Flaw::None));
}

#[test]
fn reading_before_subscribing_loses_what_is_published_between() {
    breaks("reads, then subscribes", &Session::that_stays(Flaw::ReadsThenSubscribes), Wrong::Lost);
}

#[test]
fn writing_mail_that_the_catch_up_saw_writes_it_twice() {
    breaks("writes what was seen", &Session::that_stays(Flaw::WritesWhatWasSeen), Wrong::Twice);
}

#[test]
fn forgetting_what_the_catch_up_saw_too_soon_writes_it_twice() {
    breaks("forgets what was seen", &Session::that_stays(Flaw::ForgetsWhatWasSeen), Wrong::Twice);
}

#[test]
fn writing_mail_during_a_catch_up_writes_it_twice() {
    breaks("writes during a catch-up", &Session::that_stays(Flaw::WritesDuringCatchUp), Wrong::Twice);
}

#[test]
fn catching_up_from_the_present_position_loses_what_was_dropped() {
    breaks("catches up from now", &Session::that_stays(Flaw::CatchesUpFromNow), Wrong::Lost);
}

#[test]
fn forgetting_what_was_told_beside_a_lag_writes_it_twice() {
    breaks("forgets what it told", &Session::that_stays(Flaw::ForgetsWhatItTold), Wrong::Twice);
}

#[test]
fn a_pong_that_names_an_id_confirms_a_smaller_one_that_never_arrived() {
    breaks("pongs name ids", &Session::that_reconnects(Flaw::PongsNameIds), Wrong::Lost);
}

#[test]
fn a_pong_that_counts_at_once_confirms_what_a_page_on_its_way_out_never_showed() {
    breaks("does not settle", &Session::that_reconnects(Flaw::DoesNotSettle), Wrong::Lost);
}
