//! The relay: its bell, its two modes, its beats, and what happens when another takes over (rules 1 to 13 of delivery).
//!
//! While the bell hangs, writers NOTIFY and the relay is quiet. While it does not, the relay is busy: it reads on and NOTIFYs
//! what it read, and behind it a beat that says "what is visible in `position` and not in `since` stands before me in this very
//! transaction". An instance that has all that is visible in `since` moves its position by that, without reading. The claim
//! needs nothing from outside, so nothing depends on who sends it: any number of relays may think that they are the one. One
//! that cannot be used yet is kept, with those that go on from it, until a read has come as far as where it begins: under steady
//! load beats overtake each read, and an instance that let them go would never follow again.
//!
//! So the leader's lock and the generation are not here at all. A relay begins at any time, beside another or after it, and
//! one that is fenced or frozen is one that takes no more steps; what it had under way may still commit. No relay's position is
//! stored: each begins at that of its own instance.
//!
//! One instance is looked at closely ("here"). A relay is here, or at the other instance ("there"), of which nothing else is
//! needed: its position is the present one or the first one. One in between is that of a relay that began then and was slow.
//!
//! Each instance also reads for itself now and then. As long as nothing has failed it may never do so, and yet all must be told:
//! that is what the modes and the bell owe. Once LISTEN was lost, or a relay or its bell, it reads sooner or later, and
//! whatever the beats claim, it must find what is missing.

use super::database::{Database, Move, Set, Snapshot, Told, Xid};
use super::explorer::{Model, Steps, Wrong, breaks, holds};

/// What is done differently from the right protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flaw {
    None,
    /// A writer looks at the bell before it has a transaction id.
    LooksBeforeInsert,
    /// Rests when all before `pg_snapshot_xmax` have ended: one more than the last that ended, not than the last that began.
    WaitsForXmax,
    /// Rests after one more read.
    DoesNotWait,
    /// Takes the bell down, and then its instance's position.
    TakesDownFirst,
    /// Gives up waiting for silent writers, and reads on from its instance's position instead of its own.
    JumpsBeforeItRests,
    /// Asks for the position in a statement of its own, after the one that read the rows.
    AsksForPositionLater,
    /// Goes on from where it read to, though the transaction that was to tell it failed.
    MovesThoughNotifyFailed,
    /// Sends the beat before the rows.
    BeatsBeforeRows,
    /// Sends the beat in a transaction of its own.
    BeatsInAnotherTransaction,
    /// Claims what is not visible in its last read, though that was empty and it said nothing of it.
    ClaimsSinceEmptyRead,
    /// Says "read", and claims what it did not send.
    ClaimsWhatIsToBeRead,
    /// Takes the read that is under way for the answer to "read".
    IsReadingAlready,
    /// Does not keep a beat that it cannot use yet.
    LetsBeatsGo,
    /// Keeps beats as one though they leave something out between them.
    KeepsAcrossGaps,
    /// Takes a beat's position, whatever it has heard before.
    TrustsEveryBeat,
    /// Takes a beat of another epoch.
    TrustsOtherEpoch,
    /// Takes the position of a beat that is older than its own.
    TakesOlderBeat,
    /// Takes the position of a read that is older than its own.
    TakesOlderRead,
    /// Forgets what a beat sees, although it does not move its position.
    ForgetsByBeat,
    /// Forgets what its relay sends, without waiting for the beat.
    ForgetsWhatItSends,
}

struct Relays {
    writers: usize,
    /// How often the bell may be hung.
    hangs: u8,
    faults: u8,
    /// Where the first relay is.
    first: Side,
    /// What was before.
    before: fn(&mut State),
    flaw: Flaw,
}

/// Which instance. In words, `#` is 1 for here and 2 for there.
type Side = usize;
const HERE: Side = 0;
const THERE: Side = 1;

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    database: Database,
    /// Of the transactions, the relays'.
    owns: u8,
    /// Where the relay is whose session holds the bell.
    bell: Option<Side>,
    relays: [Option<Relay>; 2],
    here: Instance,
    /// A writer without a transaction id has found no bell.
    has_looked: bool,
    hangs_left: u8,
    faults_left: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Relay {
    mode: Mode,
    /// How far it has read.
    position: Snapshot,
    /// How far its last beat, or its "read", brought an instance that believes it.
    since: Snapshot,
    /// What it has read and will NOTIFY: in a transaction that has not committed.
    telling: Option<Read>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Mode {
    /// It reads on and tells; if the bell still hangs, it takes it down.
    Busy,
    /// The bell hangs, and it has to learn which writers may have looked before.
    Hangs,
    /// It reads on and tells until all before this transaction have ended.
    Waits(Xid),
    /// Writers tell by themselves.
    Quiet,
    /// The bell is taken down, and it has no position.
    TookDown,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Instance {
    /// What LISTEN has brought and nobody has taken; `None` while there is no LISTEN.
    heard: Option<Vec<Payload>>,
    position: Snapshot,
    /// Published, and not forgotten.
    published: Set,
    look: Option<Read>,
    /// Was told to read, and has not begun to since.
    wanted: bool,
    /// From the beats that it could not use: all that is visible in the second and not in the first it was told.
    kept: Option<(Snapshot, Snapshot)>,
    told: Told,
    /// For the judge: whether the last read began when nothing was missing any more.
    is_whole: bool,
    fault: Option<Wrong>,
}

/// A read that the database has answered: it has a snapshot, and the rows are on their way.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Read {
    snapshot: Snapshot,
    rows: Set,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Payload {
    Row(Xid),
    /// In place of rows that are too many, or too large.
    Read,
    Beat {
        epoch: u8,
        since: Snapshot,
        position: Snapshot,
    },
}

const EPOCH: u8 = 1;

impl Model for Relays {
    type State = State;

    fn start(&self) -> State {
        let mut start = State {
            database: Database::default(),
            owns: 0,
            bell: None,
            relays: [None; 2],
            here: Instance {
                heard: Some(Vec::new()),
                position: Snapshot::default(),
                published: Set::default(),
                look: None,
                wanted: false,
                kept: None,
                told: Told::default(),
                is_whole: true,
                fault: None,
            },
            has_looked: false,
            hangs_left: self.hangs,
            faults_left: self.faults,
        };
        start.relays[self.first] = Some(Relay::begin(Snapshot::default()));
        (self.before)(&mut start);
        start
    }

    fn steps(&self, steps: &mut Steps<'_, State>) {
        self.writer_steps(steps);
        for side in [HERE, THERE] {
            if let Some(relay) = steps.from.relays[side] {
                self.reading_steps(steps, side, relay);
                self.mode_steps(steps, side, relay);
            }
        }
        self.instance_steps(steps);
        if steps.from.faults_left > 0 {
            faults(steps);
        }
    }

    fn judge(&self, now: &State, calm: bool) -> Option<Wrong> {
        let (committed, told) = (now.database.committed(), now.here.told);
        if now.here.fault.is_some() {
            now.here.fault
        } else if !told.once.is_within(committed) {
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

impl Relays {
    fn writer_steps(&self, steps: &mut Steps<'_, State>) {
        let now = steps.from;
        let rings = now.bell.is_some();
        for what in now.database.moves(self.writers + usize::from(now.owns)) {
            if what == Move::Begin && self.flaw == Flaw::LooksBeforeInsert {
                if now.has_looked {
                    steps.may("the writer that looked inserts, and will be silent", 0, |next| {
                        next.has_looked = false;
                        next.insert(false);
                    });
                } else if !rings {
                    steps.may("a writer finds no bell, before it inserts", 0, |next| next.has_looked = true);
                }
            } else if what == Move::Begin {
                let words = if rings {
                    "a writer inserts and finds the bell hung"
                } else {
                    "a writer inserts and finds no bell"
                };
                steps.may(words, 0, |next| next.insert(rings));
            } else {
                let (words, number) = what.words();
                steps.may(words, number, |next| {
                    if let Some(row) = next.database.make(what) {
                        next.notify(Payload::Row(row));
                    }
                });
            }
        }
    }

    /// One statement reads and NOTIFYs; between its snapshot and its commit anything may happen.
    fn reading_steps(&self, steps: &mut Steps<'_, State>, side: Side, relay: Relay) {
        let number = side as u8 + 1;
        let Some(Read { snapshot, rows }) = relay.telling else {
            if matches!(relay.mode, Mode::Busy | Mode::Waits(_)) {
                steps.must("relay # reads", number, |next| {
                    let read = next.read(relay.position);
                    if self.flaw == Flaw::ForgetsWhatItSends && side == HERE {
                        next.here.published.keep(|row| !read.rows.has(row));
                    }
                    let relay = next.relay(side);
                    if read.rows.is_empty() {
                        // It has read further and says nothing: `since` stays.
                        if self.flaw == Flaw::ClaimsSinceEmptyRead {
                            relay.since = read.snapshot;
                        }
                        relay.has_read(read.snapshot);
                    } else {
                        relay.telling = Some(read);
                    }
                });
            }
            return;
        };

        steps.must("relay #'s NOTIFY of what it read is committed", number, |next| {
            let later = self.flaw == Flaw::AsksForPositionLater;
            let position = if later { next.database.snapshot() } else { snapshot };
            let beat = Payload::Beat { epoch: EPOCH, since: relay.since, position };
            if self.flaw == Flaw::BeatsBeforeRows {
                next.notify(beat);
            }
            rows.iter().for_each(|row| next.notify(Payload::Row(row)));
            if self.flaw == Flaw::BeatsInAnotherTransaction && !rows.is_empty() {
                next.relay(side).telling = Some(Read { snapshot, rows: Set::default() });
                return;
            }
            if self.flaw != Flaw::BeatsBeforeRows {
                next.notify(beat);
            }
            next.relay(side).has_told(position);
        });
        steps.may("relay #'s read is too large, and its \"read\" is committed", number, |next| {
            next.notify(Payload::Read);
            if self.flaw == Flaw::ClaimsWhatIsToBeRead {
                next.notify(Payload::Beat { epoch: EPOCH, since: relay.since, position: snapshot });
            }
            next.relay(side).has_told(snapshot);
        });
        steps.may("relay #'s transaction fails", number, |next| {
            next.relay(side).telling = None;
            if self.flaw == Flaw::MovesThoughNotifyFailed {
                next.relay(side).has_read(snapshot);
            }
        });
    }

    fn mode_steps(&self, steps: &mut Steps<'_, State>, side: Side, relay: Relay) {
        let (now, number) = (steps.from, side as u8 + 1);
        match relay.mode {
            _ if relay.telling.is_some() => {}
            Mode::Busy if now.bell == Some(side) => {
                steps.must("relay # takes the bell down", number, |next| next.bell = None);
            }
            // Hanging it waits for whoever else holds it.
            Mode::Busy if now.bell.is_none() && now.hangs_left > 0 => {
                steps.may("relay # hangs the bell", number, |next| {
                    (next.bell, next.hangs_left) = (Some(side), next.hangs_left - 1);
                    next.relay(side).mode = Mode::Hangs;
                });
            }
            Mode::Busy => {}
            Mode::Hangs => match self.flaw {
                Flaw::WaitsForXmax => steps.must("relay # asks for pg_snapshot_xmax", number, |next| {
                    next.relay(side).mode = Mode::Waits(now.database.snapshot().xmax());
                }),
                Flaw::DoesNotWait => steps.must("relay # waits for nobody", number, |next| {
                    next.relay(side).mode = Mode::Waits(1);
                }),
                _ => steps.must("relay # takes a transaction id of its own", number, |next| {
                    next.database.make(Move::Begin);
                    let own = next.database.transactions.len() as Xid;
                    next.database.make(Move::RollBack(own));
                    next.owns += 1;
                    next.relay(side).mode = Mode::Waits(own);
                }),
            },
            Mode::Waits(_) => {
                steps.may("relay # does not wait any longer and is busy", number, |next| {
                    next.relay(side).mode = Mode::Busy;
                    if self.flaw == Flaw::JumpsBeforeItRests {
                        next.relays[side] = Some(Relay::begin(now.positions(side)[0]));
                    }
                });
            }
            Mode::Quiet if self.flaw == Flaw::TakesDownFirst => {
                steps.may("relay # takes the bell down", number, |next| {
                    next.bell = None;
                    next.relay(side).mode = Mode::TookDown;
                });
            }
            Mode::Quiet => {
                for position in now.positions(side) {
                    steps.may("relay # is busy, from its instance's position", number, |next| {
                        next.relays[side] = Some(Relay::begin(position));
                    });
                }
            }
            Mode::TookDown => steps.must("relay # is busy, from its instance's position", number, |next| {
                next.relays[side] = Some(Relay::begin(now.positions(side)[0]));
            }),
        }
    }

    fn instance_steps(&self, steps: &mut Steps<'_, State>) {
        let now = &steps.from.here;
        match now.heard.as_ref().map(|heard| heard.first().copied()) {
            Some(Some(Payload::Row(row))) => steps.must("the NOTIFY of row # is taken", row, |next| {
                next.here.take();
                next.here.publish(row);
            }),
            Some(Some(Payload::Read)) => steps.must("\"read\" is taken", 0, |next| {
                next.here.take();
                next.here.wanted = self.flaw != Flaw::IsReadingAlready || next.here.look.is_none();
                next.here.is_whole = false;
            }),
            Some(Some(Payload::Beat { epoch, since, position })) => {
                // The highest transaction that it sees, which is enough to tell beats apart.
                steps.must("a beat is taken that sees up to transaction #", position.xmax() - 1, |next| {
                    next.here.take();
                    self.follow(&mut next.here, epoch, since, position);
                });
            }
            Some(None) => {}
            None => steps.must("LISTEN is there again", 0, |next| next.here.heard = Some(Vec::new())),
        }

        let Some(Read { snapshot, rows }) = now.look else {
            let look = |next: &mut State| {
                next.here.look = Some(next.read(next.here.position));
                next.here.wanted = false;
                next.here.is_whole = next.here.heard.is_some();
            };
            let is_behind = now.position != steps.from.database.snapshot();
            if now.wanted || is_behind && steps.from.faults_left < self.faults {
                steps.must("the instance reads", 0, look);
            } else if is_behind {
                steps.may("the instance reads", 0, look);
            }
            return;
        };
        steps.must("its rows have arrived", 0, |next| {
            let here = &mut next.here;
            here.look = None;
            rows.iter().for_each(|row| here.publish(row));
            // Beats may have brought it further meanwhile.
            if !here.position.is_after(snapshot) || self.flaw == Flaw::TakesOlderRead {
                here.move_position(snapshot);
            }
            here.use_kept();
        });
    }

    /// What an instance makes of a beat.
    fn follow(&self, here: &mut Instance, epoch: u8, since: Snapshot, position: Snapshot) {
        if self.flaw == Flaw::ForgetsByBeat {
            here.published.keep(|row| !position.sees(row));
        }
        if epoch != EPOCH && self.flaw != Flaw::TrustsOtherEpoch {
            return;
        }
        match self.flaw {
            Flaw::TrustsEveryBeat if !here.position.is_after(position) => here.move_position(position),
            Flaw::TakesOlderBeat if here.position.is_after(since) => here.move_position(position),
            _ => {}
        }
        here.kept = match here.kept {
            Some((from, to)) if since.is_after(from) && to.is_after(since) || self.flaw == Flaw::KeepsAcrossGaps => {
                Some((from, if to.is_after(position) { to } else { position }))
            }
            _ => Some((since, position)),
        };
        here.use_kept();
        if self.flaw == Flaw::LetsBeatsGo {
            here.kept = None;
        }
        // Of one relay, and once a read has found what was missing, each beat begins where the one before ended.
        let is_one = self.hangs == 0 && self.faults == 0;
        if is_one && here.is_whole && here.look.is_none() && !here.position.is_after(position) {
            here.fault = Some(Wrong::Stalled);
        }
    }
}

/// What may fail at any time.
fn faults(steps: &mut Steps<'_, State>) {
    let now = steps.from;
    if now.here.heard.is_some() {
        steps.may("LISTEN is lost, and the read that is under way", 0, |next| {
            next.faults_left -= 1;
            (next.here.heard, next.here.look, next.here.is_whole) = (None, None, false);
        });
    }
    for side in [HERE, THERE] {
        let number = side as u8 + 1;
        if now.relays[side].is_none() {
            for position in now.positions(side) {
                steps.may("relay # begins beside the other, which knows nothing of it", number, |next| {
                    next.faults_left -= 1;
                    next.relays[side] = Some(Relay::begin(position));
                });
                steps.may("the other relay is gone, and relay # begins", number, |next| {
                    next.faults_left -= 1;
                    next.end(1 - side);
                    next.relays[side] = Some(Relay::begin(position));
                });
            }
        } else {
            steps.may("relay # is gone", number, |next| {
                next.faults_left -= 1;
                next.end(side);
            });
        }
        if now.bell == Some(side) {
            steps.may("the bell falls, and relay # does not know", number, |next| {
                next.faults_left -= 1;
                next.bell = None;
            });
        }
    }
}

impl State {
    /// Where the instance of a relay may be.
    fn positions(&self, side: Side) -> Vec<Snapshot> {
        if side == HERE { vec![self.here.position] } else { vec![self.database.snapshot(), Snapshot::default()] }
    }

    /// In one step: a writer that has a transaction id and no row yet could only ring where it now is silent.
    fn insert(&mut self, rings: bool) {
        self.database.make(Move::Begin);
        let xid = self.database.transactions.len() as Xid;
        self.database.make(Move::Insert { xid, rings });
    }

    fn relay(&mut self, side: Side) -> &mut Relay {
        self.relays[side].as_mut().expect("it is there")
    }

    /// Its sessions are ended: what it had under way is rolled back.
    fn end(&mut self, side: Side) {
        self.relays[side] = None;
        if self.bell == Some(side) {
            self.bell = None;
        }
    }

    fn read(&self, from: Snapshot) -> Read {
        Read { snapshot: self.database.snapshot(), rows: self.database.committed_after(from) }
    }

    fn notify(&mut self, payload: Payload) {
        if let Some(heard) = &mut self.here.heard {
            heard.push(payload);
            self.here.settle();
        }
    }
}

impl Relay {
    fn begin(position: Snapshot) -> Self {
        Self { mode: Mode::Busy, position, since: position, telling: None }
    }

    fn has_told(&mut self, position: Snapshot) {
        (self.since, self.telling) = (position, None);
        self.has_read(position);
    }

    fn has_read(&mut self, position: Snapshot) {
        self.position = position;
        if matches!(self.mode, Mode::Waits(own) if position.xmin() >= own) {
            // It needs its position no more.
            *self = Self { mode: Mode::Quiet, ..Self::begin(Snapshot::default()) };
        }
    }
}

impl Instance {
    fn take(&mut self) {
        self.heard.as_mut().expect("it listens").remove(0);
    }

    /// What was kept holds for ever, whatever was lost meanwhile: those rows were published.
    fn use_kept(&mut self) {
        if let Some((from, to)) = self.kept
            && self.position.is_after(from)
        {
            self.kept = None;
            if !self.position.is_after(to) {
                self.move_position(to);
            }
        }
    }

    /// Forgets repeats that will change nothing whenever they are taken, so that they do not tell states apart.
    fn settle(&mut self) {
        let (position, published) = (self.position, self.published);
        if let Some(heard) = &mut self.heard {
            heard.retain(|payload| !matches!(payload, Payload::Row(row) if position.sees(*row) || published.has(*row)));
        }
    }

    fn publish(&mut self, row: Xid) {
        if !self.position.sees(row) && !self.published.has(row) {
            self.published.add(row);
            self.told.add(row);
            self.settle();
        }
    }

    fn move_position(&mut self, position: Snapshot) {
        if !position.is_after(self.position) {
            self.fault = Some(Wrong::WentBack);
        }
        self.position = position;
        // What the position sees need not be known any longer, though the service keeps it until the next read.
        self.published.keep(|row| !position.sees(row));
        self.settle();
    }
}

impl Relays {
    /// Nothing fails, so nobody has to read for himself.
    fn calm(flaw: Flaw) -> Self {
        Self { writers: 2, hangs: 1, faults: 0, first: THERE, before: |_| {}, flaw }
    }

    /// The bell is never hung.
    fn busy(flaw: Flaw) -> Self {
        Self { hangs: 0, faults: 1, ..Self::calm(flaw) }
    }
}

/// The first relay has hung the bell, and no writer had looked before.
fn is_quiet(start: &mut State) {
    for side in [HERE, THERE] {
        if let Some(relay) = &mut start.relays[side] {
            (relay.mode, start.bell) = (Mode::Quiet, Some(side));
        }
    }
}

/// A beat of the epoch before is on its way.
fn is_of_another_epoch(start: &mut State) {
    start.notify(Payload::Beat { epoch: 0, since: Snapshot::default(), position: Snapshot([1].into_iter().collect()) });
}

/// One row was committed, and only the instance of the relay has read it.
fn is_ahead(start: &mut State) {
    start.insert(false);
    start.database.make(Move::Commit(1));
    start.relays[THERE] = Some(Relay::begin(start.database.snapshot()));
    (start.here.wanted, start.here.is_whole) = (true, false);
}

#[test]
fn while_nothing_fails_the_relay_alone_tells_all_in_both_modes_and_between() {
    holds("relay here, nothing fails", &Relays { first: HERE, ..Relays::calm(Flaw::None) });
    holds("relay there, nothing fails", &Relays::calm(Flaw::None));
}

#[test]
fn busy_relays_that_follow_each_other_or_do_not_know_of_each_other_lose_nothing() {
    holds("busy, 2 faults", &Relays { faults: 2, ..Relays::busy(Flaw::None) });
}

#[test]
fn a_quiet_relay_may_die_or_lose_its_bell_or_be_followed_without_loss() {
    let quiet = Relays { before: is_quiet, ..Relays::busy(Flaw::None) };
    holds("quiet there, 1 fault", &quiet);
    holds("quiet here, 1 fault", &Relays { first: HERE, ..quiet });
}

#[test]
fn a_relay_may_be_lost_or_followed_while_it_hangs_the_bell_and_waits() {
    let hanging = Relays { writers: 1, faults: 1, ..Relays::calm(Flaw::None) };
    holds("hanging there, 1 fault", &hanging);
    holds("hanging here, 1 fault", &Relays { first: HERE, ..hanging });
}

#[test]
fn a_beat_of_another_epoch_is_ignored() {
    holds("a beat of another epoch", &Relays { before: is_of_another_epoch, writers: 1, ..Relays::busy(Flaw::None) });
}

#[test]
fn looking_at_the_bell_before_inserting_loses_a_silent_writer_with_a_later_transaction_id() {
    breaks("looks before it inserts", &Relays::calm(Flaw::LooksBeforeInsert), Wrong::Lost);
}

#[test]
fn waiting_for_xmax_loses_a_silent_writer_that_began_after_the_last_that_ended() {
    breaks("waits for xmax", &Relays::calm(Flaw::WaitsForXmax), Wrong::Lost);
}

#[test]
fn resting_after_one_more_read_loses_every_silent_writer_still_open() {
    breaks("does not wait", &Relays::calm(Flaw::DoesNotWait), Wrong::Lost);
}

#[test]
fn taking_the_bell_down_before_the_position_loses_what_commits_silently_between() {
    breaks("takes the bell down first", &Relays::calm(Flaw::TakesDownFirst), Wrong::Lost);
}

#[test]
fn jumping_to_the_instances_position_before_resting_loses_silent_writers() {
    breaks("jumps before it rests", &Relays::calm(Flaw::JumpsBeforeItRests), Wrong::Lost);
}

#[test]
fn a_position_of_a_second_statement_claims_what_was_not_told() {
    breaks("asks for the position later", &Relays::busy(Flaw::AsksForPositionLater), Wrong::Lost);
}

#[test]
fn going_on_behind_a_failed_notify_loses_what_it_was_to_tell() {
    breaks("moves though NOTIFY failed", &Relays::busy(Flaw::MovesThoughNotifyFailed), Wrong::Lost);
}

#[test]
fn a_beat_before_its_rows_loses_them() {
    breaks("beats before the rows", &Relays::busy(Flaw::BeatsBeforeRows), Wrong::Lost);
}

#[test]
fn a_beat_in_another_transaction_than_its_rows_loses_them_where_listen_begins_between() {
    breaks("beats in another transaction", &Relays::busy(Flaw::BeatsInAnotherTransaction), Wrong::Lost);
}

#[test]
fn a_claim_over_what_is_only_to_be_read_loses_it() {
    breaks("claims what is to be read", &Relays::busy(Flaw::ClaimsWhatIsToBeRead), Wrong::Lost);
}

#[test]
fn a_read_that_was_under_way_does_not_answer_the_relays_read() {
    breaks("is reading already", &Relays { hangs: 0, ..Relays::calm(Flaw::IsReadingAlready) }, Wrong::Lost);
}

#[test]
fn an_instance_that_has_read_what_it_missed_follows_the_beats_again() {
    let busy = Relays { hangs: 0, writers: 3, ..Relays::calm(Flaw::None) };
    holds("behind the relay, busy", &Relays { before: is_ahead, ..busy });
    holds("beside the relay, busy", &busy);
}

#[test]
fn claiming_since_an_empty_read_makes_a_beat_that_nobody_can_follow() {
    let busy = Relays { hangs: 0, ..Relays::calm(Flaw::ClaimsSinceEmptyRead) };
    breaks("claims since an empty read", &busy, Wrong::Stalled);
}

#[test]
fn letting_beats_go_that_overtake_a_read_never_follows_again() {
    breaks("lets beats go", &Relays { hangs: 0, writers: 3, ..Relays::calm(Flaw::LetsBeatsGo) }, Wrong::Stalled);
}

#[test]
fn keeping_beats_as_one_across_a_gap_loses_what_is_in_it() {
    let ahead = |flaw| Relays { hangs: 0, writers: 4, before: is_ahead, ..Relays::calm(flaw) };
    breaks("keeps across gaps", &ahead(Flaw::KeepsAcrossGaps), Wrong::Lost);
}

#[test]
fn trusting_every_beat_loses_what_the_deaf_instance_missed() {
    breaks("trusts every beat", &Relays::busy(Flaw::TrustsEveryBeat), Wrong::Lost);
}

#[test]
fn trusting_a_beat_of_another_epoch_loses_rows() {
    breaks(
        "trusts another epoch",
        &Relays { before: is_of_another_epoch, ..Relays::busy(Flaw::TrustsOtherEpoch) },
        Wrong::Lost,
    );
}

#[test]
fn a_beat_of_a_slow_relay_takes_a_careless_instance_back() {
    breaks("takes an older beat", &Relays::busy(Flaw::TakesOlderBeat), Wrong::WentBack);
}

#[test]
fn a_read_that_beats_overtook_takes_a_careless_instance_back() {
    breaks("takes an older read", &Relays::busy(Flaw::TakesOlderRead), Wrong::WentBack);
}

#[test]
fn forgetting_by_a_beat_that_did_not_move_the_position_tells_twice() {
    breaks("forgets by every beat", &Relays::busy(Flaw::ForgetsByBeat), Wrong::Twice);
}

#[test]
fn forgetting_what_was_sent_before_its_beat_tells_it_twice() {
    let here = Relays { first: HERE, ..Relays::busy(Flaw::ForgetsWhatItSends) };
    breaks("forgets what it sends", &here, Wrong::Twice);
}
