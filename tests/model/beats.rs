//! One relay reads for all, and instances trust its beats: rules 10, 11 and 12 of delivery.
//!
//! Today each instance reads for itself each second, always from its own position, and then neither a beat nor the moment of
//! LISTEN can lose anything (`reading`). This is the protocol for when reading is left to the relay: a beat says "all that is
//! visible in this position came before me in the queue", and an instance that hears it moves its position without reading.
//! The relay is on another instance; it may die, and the next goes on from the position that is stored in the database.

use super::database::{Database, Move, Set, Snapshot, Told, Xid};
use super::explorer::{Model, Steps, Wrong, breaks, holds};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flaw {
    None,
    /// Stores the position when the rows are read, not in the transaction that tells them.
    StoresBeforeNotify,
    /// Sends the beat before the rows.
    BeatsBeforeRows,
    /// After a lost LISTEN reads first and listens then.
    ReadsThenListens,
    /// After a lost LISTEN reads from the database's position instead of its own.
    ReadsFromStored,
    /// After a lost LISTEN takes beats before it has read.
    TrustsBeatsBeforeRead,
    /// Forgets what its relay has sent, without waiting for the beat (its relay is then on this instance).
    ForgetsWhatItSent,
}

struct Beats {
    flaw: Flaw,
}

const WRITERS: usize = 2;

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    database: Database,
    /// `notifier.progress.position`.
    stored: Snapshot,
    relay: Relay,
    instance: Instance,
    relay_deaths_left: u8,
    lost_listens_left: u8,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Relay {
    position: Snapshot,
    /// What it has read and will NOTIFY: in a transaction that has not committed.
    telling: Option<Read>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Instance {
    /// What LISTEN has brought and nobody has taken; `None` while there is no LISTEN.
    heard: Option<Vec<Payload>>,
    position: Snapshot,
    published: Set,
    /// LISTEN was lost, and it has not read since.
    must_read: bool,
    reading: Option<Read>,
    told: Told,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Read {
    snapshot: Snapshot,
    rows: Set,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Payload {
    Row(Xid),
    Beat(Snapshot),
}

impl Model for Beats {
    type State = State;

    fn start(&self) -> State {
        State {
            database: Database::default(),
            stored: Snapshot::default(),
            relay: Relay { position: Snapshot::default(), telling: None },
            instance: Instance {
                heard: Some(Vec::new()),
                position: Snapshot::default(),
                published: Set::default(),
                must_read: false,
                reading: None,
                told: Told::default(),
            },
            relay_deaths_left: 1,
            lost_listens_left: 1,
        }
    }

    fn steps(&self, steps: &mut Steps<'_, State>) {
        for what in steps.from.database.moves(WRITERS) {
            let (words, number) = what.words();
            steps.may(words, number, |next| write(next, what));
        }
        self.relay_steps(steps);
        self.instance_steps(steps);
    }

    fn judge(&self, now: &State, calm: bool) -> Option<Wrong> {
        let (committed, told) = (now.database.committed(), now.instance.told);
        if !told.once.is_within(committed) {
            Some(Wrong::NotCommitted)
        } else if !told.twice.is_empty() {
            Some(Wrong::Twice)
        } else if calm && told.once != committed {
            Some(Wrong::Lost)
        } else {
            None
        }
    }
}

impl Beats {
    fn relay_steps(&self, steps: &mut Steps<'_, State>) {
        let now = steps.from;
        match now.relay.telling {
            None if now.database.snapshot() != now.relay.position => {
                steps.must("the relay reads", 0, |next| {
                    let read = read(&next.database, next.relay.position);
                    next.relay.telling = Some(read);
                    if self.flaw == Flaw::StoresBeforeNotify {
                        next.stored = read.snapshot;
                    }
                    if self.flaw == Flaw::BeatsBeforeRows {
                        notify(next, Payload::Beat(read.snapshot));
                    }
                    if self.flaw == Flaw::ForgetsWhatItSent {
                        next.instance.published.keep(|row| !read.rows.has(row));
                    }
                });
            }
            None => {}
            // One transaction: the rows, the beat behind them, and the position.
            Some(Read { snapshot, rows }) => steps.must("the relay's NOTIFY of what it read is committed", 0, |next| {
                rows.iter().for_each(|row| notify(next, Payload::Row(row)));
                if self.flaw != Flaw::BeatsBeforeRows {
                    notify(next, Payload::Beat(snapshot));
                }
                next.stored = snapshot;
                next.relay = Relay { position: snapshot, telling: None };
            }),
        }
        if now.relay_deaths_left > 0 {
            steps.may("the relay dies, and another goes on from the stored position", 0, |next| {
                next.relay_deaths_left -= 1;
                next.relay = Relay { position: next.stored, telling: None };
            });
        }
    }

    fn instance_steps(&self, steps: &mut Steps<'_, State>) {
        let now = &steps.from.instance;
        match now.heard.as_ref().map(|heard| heard.first().copied()) {
            Some(Some(Payload::Row(row))) => steps.must("the NOTIFY of row # is taken", row, |next| {
                next.instance.take();
                next.instance.publish(row);
            }),
            Some(Some(Payload::Beat(position))) => {
                // The highest transaction that it sees, which is enough to tell beats apart.
                steps.must("a beat is taken that sees up to transaction #", position.xmax() - 1, |next| {
                    next.instance.take();
                    let trusted = !next.instance.must_read || self.flaw == Flaw::TrustsBeatsBeforeRead;
                    if trusted && position.is_after(next.instance.position) {
                        next.instance.move_position(position);
                    }
                });
            }
            Some(None) => {}
            None if self.flaw == Flaw::ReadsThenListens && now.must_read => {}
            None => steps.must("LISTEN is there again", 0, |next| next.instance.heard = Some(Vec::new())),
        }

        let may_read = now.heard.is_some() || self.flaw == Flaw::ReadsThenListens;
        match now.reading {
            None if now.must_read && may_read => steps.must("the instance reads what it may have missed", 0, |next| {
                let from = if self.flaw == Flaw::ReadsFromStored { next.stored } else { next.instance.position };
                next.instance.reading = Some(read(&next.database, from));
            }),
            None => {}
            Some(Read { snapshot, rows }) => steps.must("its rows have arrived", 0, |next| {
                (next.instance.reading, next.instance.must_read) = (None, false);
                rows.iter().for_each(|row| next.instance.publish(row));
                next.instance.move_position(snapshot);
            }),
        }

        if steps.from.lost_listens_left > 0 && now.heard.is_some() {
            steps.may("LISTEN is lost", 0, |next| {
                next.lost_listens_left -= 1;
                (next.instance.heard, next.instance.reading, next.instance.must_read) = (None, None, true);
            });
        }
    }
}

impl Instance {
    fn take(&mut self) {
        self.heard.as_mut().expect("it listens").remove(0);
    }

    fn publish(&mut self, row: Xid) {
        if !self.position.sees(row) && !self.published.has(row) {
            self.published.add(row);
            self.told.add(row);
        }
    }

    fn move_position(&mut self, position: Snapshot) {
        self.position = position;
        self.published.keep(|row| !position.sees(row));
    }
}

fn write(next: &mut State, what: Move) {
    if let Some(row) = next.database.make(what) {
        notify(next, Payload::Row(row));
    }
}

fn notify(next: &mut State, payload: Payload) {
    if let Some(heard) = &mut next.instance.heard {
        heard.push(payload);
    }
}

fn read(database: &Database, from: Snapshot) -> Read {
    Read { snapshot: database.snapshot(), rows: database.committed_after(from) }
}

#[test]
fn an_instance_may_trust_beats_once_it_has_read_from_its_own_position() {
    holds("beats", &Beats { flaw: Flaw::None });
}

#[test]
fn storing_the_position_before_notify_loses_what_a_dying_relay_had_read() {
    breaks("stores before NOTIFY", &Beats { flaw: Flaw::StoresBeforeNotify }, Wrong::Lost);
}

#[test]
fn a_beat_before_its_rows_loses_them() {
    breaks("beats before the rows", &Beats { flaw: Flaw::BeatsBeforeRows }, Wrong::Lost);
}

#[test]
fn reading_before_listening_loses_what_is_told_between() {
    breaks("reads, then listens", &Beats { flaw: Flaw::ReadsThenListens }, Wrong::Lost);
}

#[test]
fn reading_from_the_databases_position_loses_what_the_deaf_instance_missed() {
    breaks("reads from the stored position", &Beats { flaw: Flaw::ReadsFromStored }, Wrong::Lost);
}

#[test]
fn trusting_a_beat_before_the_read_loses_what_the_deaf_instance_missed() {
    breaks("trusts beats before its read", &Beats { flaw: Flaw::TrustsBeatsBeforeRead }, Wrong::Lost);
}

#[test]
fn forgetting_what_was_sent_before_its_beat_tells_it_twice() {
    breaks("forgets what it sent", &Beats { flaw: Flaw::ForgetsWhatItSent }, Wrong::Twice);
}
