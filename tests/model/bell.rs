//! The bell, where it carries more than latency: a relay that stops reading while the bell hangs (rules 3 and 8 of delivery).
//!
//! The service does not do this: it reads each second whether or not the bell hangs, and `reading` shows that the bell may then
//! do what it likes. This says what hanging and taking down would have to observe without that read. A writer that looked
//! before the bell hung commits silently, however much later, so the relay may rest only when all such writers have ended: it
//! takes a transaction id of its own once the bell hangs, and reads on until its snapshot's xmin has come that far.

use super::database::{Database, Move, Set, Snapshot, Xid};
use super::explorer::{Model, Steps, Wrong, breaks, holds};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flaw {
    None,
    /// Rests when all before `pg_snapshot_xmax` have ended: one more than the last that ended, not than the last that began.
    WaitsForXmax,
    /// Rests after one more read.
    DoesNotWait,
    /// When it begins to read again it takes the present position instead of the one it rested at.
    JumpsWhenTakenDown,
}

struct Bell {
    flaw: Flaw,
}

const WRITERS: usize = 3;

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    database: Database,
    hangs: bool,
    relay: Relay,
    position: Snapshot,
    /// How often the relay may still hang the bell.
    turns_left: u8,
    /// One of the transactions is the relay's.
    took_own: bool,
    told: Set,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Relay {
    /// The bell does not hang: it reads on, and tells what it reads.
    Reads,
    /// The bell hangs, and it has to learn which writers may have looked before.
    Hangs,
    /// It reads on until all before this transaction have ended.
    Waits(Xid),
    /// Writers tell by themselves.
    Rests,
    /// The bell is taken down, and it has not read again.
    TookDown,
}

impl Model for Bell {
    type State = State;

    fn start(&self) -> State {
        State {
            database: Database::default(),
            hangs: false,
            relay: Relay::Reads,
            position: Snapshot::default(),
            turns_left: 1,
            took_own: false,
            told: Set::default(),
        }
    }

    fn steps(&self, steps: &mut Steps<'_, State>) {
        let now = steps.from;
        for what in now.database.moves(WRITERS + usize::from(now.took_own)) {
            if matches!(what, Move::Insert { rings, .. } if rings != now.hangs) {
                continue;
            }
            let (words, number) = what.words();
            // Every instance listens all the time here: what is told by NOTIFY has arrived.
            steps.may(words, number, |next| {
                let told = next.database.make(what);
                told.into_iter().for_each(|row| next.told.add(row));
            });
        }

        match now.relay {
            Relay::Reads => {
                steps.must("the relay reads and tells", 0, |next| next.read());
                if now.turns_left > 0 {
                    steps.may("the relay hangs the bell", 0, |next| {
                        (next.hangs, next.turns_left, next.relay) = (true, next.turns_left - 1, Relay::Hangs);
                    });
                }
            }
            Relay::Hangs => match self.flaw {
                Flaw::WaitsForXmax => steps.must("the relay asks for pg_snapshot_xmax", 0, |next| {
                    next.relay = Relay::Waits(next.database.snapshot().xmax());
                }),
                Flaw::DoesNotWait => steps.must("the relay reads and rests", 0, |next| {
                    next.read();
                    next.relay = Relay::Rests;
                }),
                Flaw::None | Flaw::JumpsWhenTakenDown => {
                    steps.must("the relay takes a transaction id of its own", 0, |next| {
                        next.database.make(Move::Begin);
                        let own = next.database.transactions.len() as Xid;
                        next.database.make(Move::RollBack(own));
                        (next.relay, next.took_own) = (Relay::Waits(own), true);
                    });
                }
            },
            Relay::Waits(barrier) => steps.must("the relay reads, and looks whether it may rest", 0, |next| {
                next.read();
                if next.position.xmin() >= barrier {
                    next.relay = Relay::Rests;
                }
            }),
            Relay::Rests => {}
            Relay::TookDown => steps.must("the relay takes the present position", 0, |next| {
                (next.position, next.relay) = (next.database.snapshot(), Relay::Reads);
            }),
        }

        if now.hangs {
            // Whether it decides so or dies and another follows it: the position is in the database.
            steps.may("the bell is taken down, and reading goes on", 0, |next| {
                next.hangs = false;
                next.relay = if self.flaw == Flaw::JumpsWhenTakenDown { Relay::TookDown } else { Relay::Reads };
            });
        }
    }

    fn judge(&self, now: &State, calm: bool) -> Option<Wrong> {
        let committed = now.database.committed();
        if !now.told.is_within(committed) {
            Some(Wrong::NotCommitted)
        } else if calm && now.told != committed {
            Some(Wrong::Lost)
        } else {
            None
        }
    }
}

impl State {
    fn read(&mut self) {
        // What writers told already is dropped by each instance, as `reading` shows.
        self.database.committed_after(self.position).iter().for_each(|row| self.told.add(row));
        self.position = self.database.snapshot();
    }
}

#[test]
fn a_relay_may_rest_when_all_that_began_before_the_bell_hung_have_ended() {
    holds("bell", &Bell { flaw: Flaw::None });
}

#[test]
fn waiting_for_xmax_loses_a_silent_writer_that_began_after_the_last_that_ended() {
    breaks("waits for xmax", &Bell { flaw: Flaw::WaitsForXmax }, Wrong::Lost);
}

#[test]
fn resting_after_one_more_read_loses_every_silent_writer_still_open() {
    breaks("does not wait", &Bell { flaw: Flaw::DoesNotWait }, Wrong::Lost);
}

#[test]
fn jumping_when_the_bell_is_taken_down_loses_what_committed_silently_between() {
    breaks("jumps when taken down", &Bell { flaw: Flaw::JumpsWhenTakenDown }, Wrong::Lost);
}
