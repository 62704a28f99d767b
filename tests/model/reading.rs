//! One instance's listener and registry: NOTIFY, reading on from the position, forgetting what was published.
//!
//! The bell is not here: a writer finds it hung or not as chance has it, and that must not matter. Nor is a second instance:
//! nothing that one does changes what another reads. Sockets come later (`session`): "told" is what the registry published, and
//! what was committed before the instance's first position is for the catch-ups of sockets that open.
//!
//! What is told by the thousand lies in arrays first (`notifier.bulk`), and at some time rows are made of it.

use super::database::{Database, Move, Set, Snapshot, Told, Xid};
use super::explorer::{Model, Steps, Wrong, breaks, holds};

/// What this listener does differently from the one in `src/`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flaw {
    None,
    /// Reads `id > the last id`, not what the position does not see.
    ReadsById,
    /// Reads `xid >= xmax of the position` alone, without those that were running then.
    LeavesOutRunning,
    /// Asks for the new position in a statement of its own, after the one that read the rows.
    AsksForPositionLater,
    /// Moves the position though the read failed half-way.
    MovesThoughReadFailed,
    /// After a lost LISTEN goes on from the present position.
    JumpsAfterLostListen,
    /// Forgets at each read all that it has published, whether or not the read saw it.
    ForgetsWhatItSent,
    /// Reads rows, and not what rows are yet to be made of.
    ReadsRowsAlone,
    /// Makes rows in the name of the transaction that makes them, and not of the one that told.
    MakesRowsAsItsOwn,
}

struct Reading {
    writers: usize,
    faults: u8,
    flaw: Flaw,
    /// Whether writers tell by the thousand.
    bulk: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    database: Database,
    /// What LISTEN has brought and nobody has taken; `None` while there is no LISTEN.
    heard: Option<Vec<Xid>>,
    position: Snapshot,
    /// Published and not visible in the position.
    published: Set,
    look: Option<Look>,
    /// What is no row yet.
    folded: Set,
    /// What was made a row by another transaction than the one that told it, and was not read since.
    renewed: Set,
    faults_left: u8,
    /// Where the position was when the instance started.
    started: Snapshot,
    told: Told,
}

/// A read that the database has answered: it has a snapshot, and the rows are on their way.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Look {
    snapshot: Snapshot,
    rows: Set,
}

impl Model for Reading {
    type State = State;

    fn start(&self) -> State {
        State {
            database: Database::default(),
            heard: Some(Vec::new()),
            position: Snapshot::default(),
            published: Set::default(),
            look: None,
            folded: Set::default(),
            renewed: Set::default(),
            faults_left: self.faults,
            started: Snapshot::default(),
            told: Told::default(),
        }
    }

    fn steps(&self, steps: &mut Steps<'_, State>) {
        let now = steps.from;
        for what in now.database.moves(self.writers) {
            let (words, number) = what.words();
            steps.may(words, number, |next| {
                write(next, what);
                if let (true, Move::Insert { xid, .. }) = (self.bulk, what) {
                    next.folded.add(xid);
                }
            });
        }
        for row in now.folded.iter().filter(|row| now.database.committed().has(*row)) {
            steps.must("rows are made of what writer # told", row, |next| {
                next.folded.keep(|folded| folded != row);
                if self.flaw == Flaw::MakesRowsAsItsOwn {
                    next.renewed.add(row);
                }
            });
        }

        match &now.heard {
            Some(heard) => {
                if let Some(&row) = heard.first() {
                    steps.must("the NOTIFY of row # is taken", row, |next| {
                        next.heard.as_mut().expect("it listens").remove(0);
                        self.publish(next, row);
                    });
                }
            }
            None => steps.must("LISTEN is there again", 0, |next| {
                next.heard = Some(Vec::new());
                if self.flaw == Flaw::JumpsAfterLostListen {
                    self.move_position(next, next.database.snapshot());
                }
            }),
        }

        match now.look {
            // The safety read. Where nothing has ended since the position it would change nothing.
            None if now.database.snapshot() != now.position || !now.renewed.is_empty() => {
                steps.must("a read begins", 0, |next| {
                    next.look = Some(Look { snapshot: next.database.snapshot(), rows: self.rows(next) });
                });
            }
            None => {}
            Some(look) => steps.must("its rows have arrived", 0, |next| {
                next.look = None;
                look.rows.iter().for_each(|row| self.publish(next, row));
                next.renewed.keep(|row| !look.rows.has(row));
                let later = self.flaw == Flaw::AsksForPositionLater;
                self.move_position(next, if later { next.database.snapshot() } else { look.snapshot });
            }),
        }

        if now.faults_left > 0 {
            if now.heard.is_some() {
                steps.may("LISTEN is lost, and the read that is under way", 0, |next| {
                    next.faults_left -= 1;
                    (next.heard, next.look) = (None, None);
                });
            }
            if let Some(look) = now.look {
                let first = look.rows.iter().next();
                steps.may("the read breaks off after its first row", 0, |next| {
                    next.faults_left -= 1;
                    next.look = None;
                    first.into_iter().for_each(|row| self.publish(next, row));
                    if self.flaw == Flaw::MovesThoughReadFailed {
                        self.move_position(next, look.snapshot);
                    }
                });
            }
            steps.may("the instance is killed and started again", 0, |next| {
                let here = next.database.snapshot();
                let (faults_left, database, folded) = (next.faults_left - 1, next.database.clone(), next.folded);
                *next =
                    State { database, folded, position: here, started: here, heard: None, faults_left, ..self.start() };
            });
        }
    }

    fn judge(&self, now: &State, calm: bool) -> Option<Wrong> {
        let committed = now.database.committed();
        if !now.told.once.is_within(committed) {
            Some(Wrong::NotCommitted)
        } else if !now.told.twice.is_empty() {
            Some(Wrong::Twice)
        } else if calm && committed.iter().any(|row| !now.told.once.has(row) && !now.started.sees(row)) {
            Some(Wrong::Lost)
        } else {
            None
        }
    }
}

impl Reading {
    fn right() -> Self {
        Self { writers: 3, faults: 1, flaw: Flaw::None, bulk: false }
    }

    fn with(flaw: Flaw) -> Self {
        Self { writers: 2, flaw, ..Self::right() }
    }

    fn bulk_with(flaw: Flaw) -> Self {
        Self { bulk: true, ..Self::with(flaw) }
    }

    /// What `notifier.read_on` answers.
    fn rows(&self, now: &State) -> Set {
        match self.flaw {
            Flaw::ReadsRowsAlone => {
                now.database.committed_after(now.position).iter().filter(|row| !now.folded.has(*row)).collect()
            }
            Flaw::MakesRowsAsItsOwn => {
                now.database.committed_after(now.position).iter().chain(now.renewed.iter()).collect()
            }
            Flaw::ReadsById => {
                let last = now.told.once.iter().map(|row| now.database.id(row)).max();
                now.database.committed().iter().filter(|row| Some(now.database.id(*row)) > last).collect()
            }
            Flaw::LeavesOutRunning => {
                now.database.committed().iter().filter(|row| *row >= now.position.xmax()).collect()
            }
            _ => now.database.committed_after(now.position),
        }
    }

    /// `Registry::publish`: NOTIFY and the stream tell the same rows.
    fn publish(&self, next: &mut State, row: Xid) {
        if next.renewed.has(row) || !next.position.sees(row) && !next.published.has(row) {
            next.published.add(row);
            next.told.add(row);
        }
    }

    /// `Registry::advance`: from now on the position answers for what it sees.
    fn move_position(&self, next: &mut State, position: Snapshot) {
        next.position = position;
        next.published.keep(|row| !position.sees(row) && self.flaw != Flaw::ForgetsWhatItSent);
    }
}

fn write(next: &mut State, what: Move) {
    let told = next.database.make(what);
    if let Some(heard) = &mut next.heard {
        heard.extend(told);
    }
}

#[test]
fn reading_on_from_the_position_loses_nothing_and_tells_nothing_twice() {
    holds("reading, 3 writers, 1 fault", &Reading::right());
    holds("reading, 2 writers, 3 faults", &Reading { writers: 2, faults: 3, ..Reading::right() });
}

#[test]
fn reading_by_id_loses_a_row_that_commits_after_a_larger_id() {
    breaks("reads by id", &Reading::with(Flaw::ReadsById), Wrong::Lost);
}

#[test]
fn leaving_out_what_was_running_loses_it() {
    breaks("leaves out what was running", &Reading::with(Flaw::LeavesOutRunning), Wrong::Lost);
}

#[test]
fn a_position_of_a_second_statement_loses_what_committed_between() {
    breaks("asks for the position later", &Reading::with(Flaw::AsksForPositionLater), Wrong::Lost);
}

#[test]
fn moving_the_position_though_the_read_failed_loses_its_rows() {
    breaks("moves though the read failed", &Reading::with(Flaw::MovesThoughReadFailed), Wrong::Lost);
}

#[test]
fn a_position_that_jumps_loses_what_committed_while_nobody_listened() {
    breaks("jumps after a lost LISTEN", &Reading::with(Flaw::JumpsAfterLostListen), Wrong::Lost);
}

#[test]
fn forgetting_an_id_before_the_position_sees_it_tells_it_twice() {
    breaks("forgets what it sent", &Reading::with(Flaw::ForgetsWhatItSent), Wrong::Twice);
}

#[test]
fn what_is_told_by_the_thousand_is_told_once_wherever_it_lies() {
    holds("reading, 2 writers by the thousand, 2 faults", &Reading { faults: 2, ..Reading::bulk_with(Flaw::None) });
}

#[test]
fn reading_rows_alone_loses_what_the_position_saw_before_there_were_rows_of_it() {
    breaks("reads rows alone", &Reading::bulk_with(Flaw::ReadsRowsAlone), Wrong::Lost);
}

#[test]
fn making_rows_in_another_transactions_name_tells_them_twice() {
    breaks("makes rows as its own", &Reading::bulk_with(Flaw::MakesRowsAsItsOwn), Wrong::Twice);
}
