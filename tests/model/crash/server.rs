//! A server that keeps its database as a log, and may lose the end of it.

use crate::model::database::{Id, Set, Snapshot, Xid};

/// When a row was created: what it does not share with a later row that has its id and its transaction id.
pub type Born = u8;

/// How far ids leap when an epoch begins: so that those that were told and lost don't come back for long.
const LEAP: Id = 10;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row {
    pub id: Id,
    pub xid: Xid,
    /// 0 or 1.
    pub user: u8,
    pub born: Born,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Entry {
    Commit(Xid),
    /// `notifier.progress` has a new position.
    Position(Snapshot),
    /// `delivered_at` is set.
    Delivered(Born),
    /// An epoch begins, at the position that is stored.
    Epoch,
}

/// All that commits have made of the database.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Database {
    committed: Set,
    delivered: Set,
    stored: Snapshot,
    /// The position that was stored when each epoch after the first began.
    epochs: Vec<Snapshot>,
}

impl Database {
    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Commit(xid) => self.committed.add(xid),
            Entry::Position(position) => self.stored = position,
            Entry::Delivered(row) => self.delivered.add(row),
            Entry::Epoch => self.epochs.push(self.stored),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Server {
    /// As everybody sees it.
    now: Database,
    /// As it is on disk.
    disk: Database,
    /// What is in between, in order.
    log: Vec<Entry>,
    pub crashes_left: u8,
    /// What each transaction since the first has inserted, committed or not; `None` where it was rolled back.
    rows: Vec<Option<Row>>,
    next_id: Id,
    /// Ids up to here were left out.
    leapt_to: Id,
    /// `notifier.incarnation` names this run of the server: the first that connects sees to it.
    pub is_identified: bool,
    /// How many rows were ever written.
    pub births: u8,
    /// Kept by the judge, who forgets nothing.
    pub ever_committed: Set,
}

impl Server {
    pub fn new(crashes: u8) -> Self {
        Self {
            now: Database::default(),
            disk: Database::default(),
            log: Vec::new(),
            crashes_left: crashes,
            rows: Vec::new(),
            next_id: 1,
            leapt_to: 0,
            is_identified: true,
            births: 0,
            ever_committed: Set::default(),
        }
    }

    pub fn insert(&mut self, user: u8) {
        let xid = 1 + self.rows.len() as Xid;
        self.rows.push(Some(Row { id: self.next_id, xid, user, born: self.births }));
        self.next_id += 1;
        self.births += 1;
    }

    /// Transactions that have not ended.
    pub fn open(&self) -> impl Iterator<Item = Xid> {
        self.rows.iter().flatten().map(|row| row.xid).filter(|xid| !self.now.committed.has(*xid))
    }

    /// Does not wait for the disk.
    pub fn commit(&mut self, xid: Xid) -> Row {
        self.write(Entry::Commit(xid));
        let row = self.rows[usize::from(xid) - 1].expect("it is open");
        self.ever_committed.add(row.born);
        row
    }

    /// By id, as reads give them.
    pub fn committed(&self) -> impl Iterator<Item = Row> {
        self.rows.iter().flatten().filter(|row| self.now.committed.has(row.xid)).copied()
    }

    pub fn snapshot(&self) -> Snapshot {
        let ended = |row: &Option<Row>| row.is_none_or(|row| self.now.committed.has(row.xid));
        Snapshot((1..).zip(&self.rows).filter(|(_, row)| ended(row)).map(|(xid, _)| xid).collect())
    }

    /// `notifier.identify`: begins an epoch if this run of the server belongs to none, and waits for the disk.
    pub fn identify(&mut self) {
        if !self.is_identified {
            self.write(Entry::Epoch);
            self.log.clear();
            self.disk = self.now.clone();
            self.leapt_to = self.next_id + LEAP;
            self.next_id = self.leapt_to + 1;
            self.is_identified = true;
        }
    }

    pub fn epoch(&self) -> u8 {
        self.now.epochs.len() as u8
    }

    /// The position that was stored when an epoch began.
    pub fn began_with(&self, epoch: u8) -> Snapshot {
        self.now.epochs[usize::from(epoch) - 1]
    }

    /// `notifier.note_position`, which does not move back.
    pub fn store(&mut self, position: Snapshot) {
        if position != self.stored() && position.is_after(self.stored()) {
            self.write(Entry::Position(position));
        }
    }

    pub fn stored(&self) -> Snapshot {
        self.now.stored
    }

    /// Sets `delivered_at`, where it is not set.
    pub fn deliver(&mut self, row: Born) {
        if !self.is_delivered(row) {
            self.write(Entry::Delivered(row));
        }
    }

    pub fn is_delivered(&self, row: Born) -> bool {
        self.now.delivered.has(row)
    }

    /// How many entries a crash may take.
    pub fn unflushed(&self) -> u8 {
        self.log.len() as u8
    }

    /// Loses the last entries of the log and all open transactions. Ids and transaction ids go on behind the last that the log
    /// still knows, which is as early as Postgres may do it.
    pub fn crash(&mut self, lost: u8) {
        self.crashes_left -= 1;
        let kept = self.log.len() - usize::from(lost);
        self.log.drain(..).take(kept).for_each(|entry| self.disk.apply(entry));
        self.now = self.disk.clone();
        // A position is stored by a transaction that is later than all it sees.
        let known = Snapshot(self.now.committed).xmax().max(self.stored().xmax()) - 1;
        self.rows.truncate(known.into());
        let open: Vec<_> = self.open().collect();
        open.into_iter().for_each(|xid| self.rows[usize::from(xid) - 1] = None);
        let last_id = self.rows.iter().flatten().map(|row| row.id).max().unwrap_or(0);
        self.next_id = 1 + last_id.max(self.leapt_to);
        self.is_identified = false;
    }

    fn write(&mut self, entry: Entry) {
        self.now.apply(entry);
        if self.crashes_left > 0 {
            self.log.push(entry);
        } else {
            self.disk.apply(entry);
        }
    }
}
