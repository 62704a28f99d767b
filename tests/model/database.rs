//! The database as all models see it: transactions that take a transaction id and an id and end in any order, and snapshots
//! of which of them have ended.

use std::fmt;

use parkmate_notifier::protocol::Position;

/// A transaction id, from 1 on. Each transaction of a model writes one row, so it names the row as well.
pub type Xid = u8;
/// A notification's id, from 1 on.
pub type Id = u8;

/// A set of small numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Set(u32);

impl Set {
    pub fn has(self, n: u8) -> bool {
        self.0 >> n & 1 == 1
    }

    pub fn add(&mut self, n: u8) {
        self.0 |= 1 << n;
    }

    pub fn keep(&mut self, keep: impl Fn(u8) -> bool) {
        *self = self.iter().filter(|n| keep(*n)).collect();
    }

    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..32).filter(move |n| self.has(*n))
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the other has all of this.
    pub fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }
}

impl FromIterator<u8> for Set {
    fn from_iter<I: IntoIterator<Item = u8>>(numbers: I) -> Self {
        let mut set = Self::default();
        numbers.into_iter().for_each(|n| set.add(n));
        set
    }
}

/// A `pg_snapshot`, which is a position: the transactions that had ended. Its text says the same in another way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Snapshot(pub Set);

impl Snapshot {
    pub fn sees(self, xid: Xid) -> bool {
        self.0.has(xid)
    }

    /// The oldest transaction that had not ended.
    pub fn xmin(self) -> Xid {
        (1..).find(|xid| !self.sees(*xid)).expect("no set has all numbers")
    }

    /// One more than the last that had ended: not one more than the last that had begun.
    pub fn xmax(self) -> Xid {
        self.0.iter().last().unwrap_or(0) + 1
    }

    /// Whether nothing that is visible in the other is still to come for somebody who has read up to this one.
    pub fn covers(self, other: Self) -> bool {
        self.xmin() >= other.xmax()
    }

    /// Whether this is as late as the other, or later. Of one history of a database any two can be compared.
    pub fn is_after(self, other: Self) -> bool {
        other.0.is_within(self.0)
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let running: Vec<_> =
            (self.xmin()..self.xmax()).filter(|xid| !self.sees(*xid)).map(|xid| xid.to_string()).collect();
        write!(f, "{}:{}:{}", self.xmin(), self.xmax(), running.join(","))
    }
}

/// How far a transaction has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    /// It has its transaction id.
    Begun,
    /// The trigger has run: there is a row, which nobody sees.
    Inserted,
    Committed,
    RolledBack,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Transaction {
    pub stage: Stage,
    /// Of its row; 0 before there is one.
    pub id: Id,
    /// Whether the bell hung when the trigger looked, so that the commit carries a NOTIFY.
    pub rings: bool,
}

/// What a writer does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    Begin,
    Insert { xid: Xid, rings: bool },
    Commit(Xid),
    RollBack(Xid),
}

impl Move {
    /// For [`super::explorer::Steps`].
    pub fn words(self) -> (&'static str, u8) {
        match self {
            Self::Begin => ("a writer begins", 0),
            Self::Insert { xid, rings: true } => ("writer # inserts and finds the bell hung", xid),
            Self::Insert { xid, rings: false } => ("writer # inserts and finds no bell", xid),
            Self::Commit(xid) => ("writer # commits", xid),
            Self::RollBack(xid) => ("writer # rolls back", xid),
        }
    }
}

/// All transactions there ever were; the first has transaction id 1.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Database {
    pub transactions: Vec<Transaction>,
}

impl Database {
    /// What writers may do next if there are at most so many. Writers are alike, so they begin in one order.
    pub fn moves(&self, writers: usize) -> Vec<Move> {
        let mut moves = Vec::new();
        if self.transactions.len() < writers {
            moves.push(Move::Begin);
        }
        for (xid, transaction) in (1..).zip(&self.transactions) {
            match transaction.stage {
                Stage::Begun => {
                    moves.extend([Move::Insert { xid, rings: true }, Move::Insert { xid, rings: false }]);
                }
                Stage::Inserted => moves.extend([Move::Commit(xid), Move::RollBack(xid)]),
                Stage::Committed | Stage::RolledBack => {}
            }
        }
        moves
    }

    /// Makes a move. Returns the row if it is now committed and told by NOTIFY.
    pub fn make(&mut self, what: Move) -> Option<Xid> {
        match what {
            Move::Begin => self.transactions.push(Transaction { stage: Stage::Begun, id: 0, rings: false }),
            Move::Insert { xid, rings } => {
                let id = 1 + self.transactions.iter().map(|transaction| transaction.id).max().unwrap_or(0);
                *self.at(xid) = Transaction { stage: Stage::Inserted, id, rings };
            }
            Move::Commit(xid) => {
                self.at(xid).stage = Stage::Committed;
                // Whether it rang tells nothing any more, and would tell states apart that are alike.
                return std::mem::take(&mut self.at(xid).rings).then_some(xid);
            }
            Move::RollBack(xid) => {
                (self.at(xid).stage, self.at(xid).rings) = (Stage::RolledBack, false);
            }
        }
        None
    }

    /// What a statement that begins now sees.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.having(|stage| matches!(stage, Stage::Committed | Stage::RolledBack)))
    }

    pub fn committed(&self) -> Set {
        self.having(|stage| stage == Stage::Committed)
    }

    /// What `notifier.read_on` reads: the committed rows that a position does not see.
    pub fn committed_after(&self, position: Snapshot) -> Set {
        self.committed().iter().filter(|row| !position.sees(*row)).collect()
    }

    pub fn id(&self, row: Xid) -> Id {
        self.transactions[usize::from(row) - 1].id
    }

    fn having(&self, is: impl Fn(Stage) -> bool) -> Set {
        (1..).zip(&self.transactions).filter(|(_, transaction)| is(transaction.stage)).map(|(xid, _)| xid).collect()
    }

    fn at(&mut self, xid: Xid) -> &mut Transaction {
        &mut self.transactions[usize::from(xid) - 1]
    }
}

#[test]
fn the_service_reads_positions_as_the_models_do() {
    let snapshots: Vec<_> =
        (0..64).map(|ended| Snapshot((1..=6).filter(|xid| ended >> (xid - 1) & 1 == 1).collect())).collect();
    let position = |snapshot: &Snapshot| snapshot.to_string().parse::<Position>().expect("a snapshot's text");
    for here in &snapshots {
        assert!((1..=7).all(|xid| position(here).sees(xid.into()) == here.sees(xid)), "{here}");
        assert!(snapshots.iter().all(|other| position(here).covers(&position(other)) == here.covers(*other)), "{here}");
    }
}

/// What one socket, or all sockets of one instance, have been told: the judge's notes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Told {
    pub once: Set,
    pub twice: Set,
}

impl Told {
    pub fn add(&mut self, row: u8) {
        if self.once.has(row) {
            self.twice.add(row);
        }
        self.once.add(row);
    }
}
