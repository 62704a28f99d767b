//! Where somebody is in the stream of notifications: epochs, positions, cursors.
//!
//! Ids are taken at insert and visible at commit, so "all up to id 7" loses the 6 that commits later. A position is a snapshot of
//! transactions instead; a cursor is a position, the epoch it belongs to, and what was told beside it.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::UserId;

/// One history of the database, in which ids and transaction ids come once. Sixteen hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Epoch(u64);

impl FromStr for Epoch {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        anyhow::ensure!(text.len() == 16, "{text:?} is no epoch");
        Ok(Self(u64::from_str_radix(text, 16)?))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What has been seen of the database's transactions: a `pg_snapshot`. Positions that the database took in one epoch are totally
/// ordered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Position {
    xmin: u64,
    xmax: u64,
    /// Running when the position was taken; ascending, all of them from `xmin` to below `xmax`.
    running: Box<[u64]>,
}

impl Position {
    /// Sees no transaction of anybody's.
    pub fn nothing() -> Self {
        // 1 and 2 are the server's own; 3 stands for what is older than every position (notifier.begin_epoch).
        Self { xmin: 4, xmax: 4, running: Box::new([]) }
    }

    /// Whether what the transaction wrote is visible here. Invariant: only asked of transactions that committed.
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.running.binary_search(&xid).is_err())
    }

    /// Whether everything visible in the other is visible here, whatever is still running.
    pub fn covers(&self, other: &Self) -> bool {
        self.xmin >= other.xmax
    }

    /// Whether all transactions before this one have ended.
    pub fn is_past(&self, xid: u64) -> bool {
        self.xmin >= xid
    }

    /// Whether the database took this one before the other, or at the same moment of its history.
    pub fn is_older(&self, other: &Self) -> bool {
        let order = |p: &Self| (p.xmax, p.xmin, std::cmp::Reverse(p.running.len()));
        order(self) <= order(other)
    }

    /// The older of two positions of one epoch.
    pub fn older<'a>(&'a self, other: &'a Self) -> &'a Self {
        if self.is_older(other) { self } else { other }
    }

    /// The newer of two positions of one epoch.
    pub fn newer<'a>(&'a self, other: &'a Self) -> &'a Self {
        if self.is_older(other) { other } else { self }
    }

    /// This position as if the transactions had not committed yet.
    pub fn without(&self, xids: impl IntoIterator<Item = u64>) -> Self {
        let mut running = self.running.to_vec();
        running.extend(xids.into_iter().filter(|xid| self.sees(*xid)));
        running.sort_unstable();
        running.dedup();
        Self {
            xmin: running.first().map_or(self.xmin, |first| self.xmin.min(*first)),
            running: running.into(),
            ..*self
        }
    }

    fn checked(xmin: u64, xmax: u64, running: Vec<u64>) -> Option<Self> {
        // What Postgres accepts as a pg_snapshot, and so what may be sent to it: one that it refuses would fail a question that
        // is asked for many. No transaction has an id whose lower half is 0.
        let is_id = |xid: u64| xid & 0xffff_ffff != 0;
        let holds = is_id(xmin)
            && is_id(xmax)
            && xmin <= xmax
            && xmax <= i64::MAX as u64
            && running.iter().all(|xid| (xmin..xmax).contains(xid))
            && running.is_sorted_by(|a, b| a < b);
        holds.then(|| Self { xmin, xmax, running: running.into() })
    }
}

impl FromStr for Position {
    type Err = anyhow::Error;

    /// Parses the text form of `pg_snapshot`: `xmin:xmax:xip,xip`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, ':');
        let mut next = || parts.next().ok_or_else(|| anyhow::anyhow!("{text:?} is no position"));
        let (xmin, xmax, running) = (next()?.parse()?, next()?.parse()?, next()?);
        let running = running.split(',').filter(|xid| !xid.is_empty()).map(str::parse).collect::<Result<_, _>>()?;
        Self::checked(xmin, xmax, running).ok_or_else(|| anyhow::anyhow!("{text:?} is no position"))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (i, xid) in self.running.iter().enumerate() {
            write!(f, "{}{xid}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// The longest cursor a client may send, in bytes: one of a database with a thousand transactions running has three thousand.
const MAX_CURSOR_BYTES: usize = 8 * 1024;
/// The first byte of a cursor: what this release writes and reads.
const CURSOR_VERSION: u8 = 1;

/// All of its user's notifications that are visible in `position` were told, and those in `told` and `pages` as well. Clients hold
/// it as an opaque text: they may keep it, compare nothing, and give it back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// The history that the position belongs to.
    pub epoch: Epoch,
    /// See the type.
    pub position: Position,
    /// Ids that are not visible in `position`; ascending.
    pub told: Vec<i64>,
    /// In the middle of a catch-up: all that is visible in this position up to this id.
    pub pages: Option<Box<(Position, i64)>>,
    /// Which socket of this process gave it out, and how many frames that had sent. Means nothing to anybody else.
    pub sent: Option<(u64, u64)>,
}

impl Cursor {
    /// With nothing told beside the position.
    pub fn new(epoch: Epoch, position: Position) -> Self {
        Self { epoch, position, told: Vec::new(), pages: None, sent: None }
    }

    /// Whether this notification was told.
    pub fn sees(&self, id: i64, xid: u64) -> bool {
        self.position.sees(xid)
            || self.told.binary_search(&id).is_ok()
            || self.pages.as_ref().is_some_and(|pages| id <= pages.1 && pages.0.sees(xid))
    }

    /// Decodes what [`Self::token`] wrote for the same user; `None` for anything else, which a client is answered with `gap`.
    pub fn decode(text: &str, user: &UserId) -> Option<Self> {
        if text.len() > MAX_CURSOR_BYTES {
            return None;
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let (version, rest) = bytes.split_first()?;
        let (owner, rest) = rest.split_first_chunk()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        if u32::from_be_bytes(*owner) != tag(user) {
            return None;
        }
        let mut rest = Numbers(rest);
        let cursor = Self {
            epoch: Epoch(u64::from_be_bytes(*epoch)),
            position: rest.position()?,
            told: rest.ascending(0)?.into_iter().map(|id| id.try_into().ok()).collect::<Option<_>>()?,
            pages: match rest.next()? {
                0 => None,
                _ => Some(Box::new((rest.position()?, rest.next()?.try_into().ok()?))),
            },
            sent: match rest.next()? {
                0 => None,
                _ => Some((rest.next()?, rest.next()?)),
            },
        };
        (*version == CURSOR_VERSION && rest.0.is_empty() && cursor.told.is_sorted_by(|a, b| a < b)).then_some(cursor)
    }

    /// The text that a client of this user keeps. With another user's a browser where somebody else logs in would skip what it
    /// never had.
    ///
    /// Base64 (URL alphabet, no padding) of: a version byte, four bytes that tell the user, the epoch, then numbers of seven bits a
    /// byte: the position; how many were told, and each as the distance from the one before; 1 and the position and id of `pages`,
    /// or 0; 1 and the two of `sent`, or 0.
    pub fn token(&self, user: &UserId) -> String {
        let mut bytes = vec![CURSOR_VERSION];
        bytes.extend(tag(user).to_be_bytes());
        bytes.extend(self.epoch.0.to_be_bytes());
        put_position(&mut bytes, &self.position);
        put_ascending(&mut bytes, self.told.iter().map(|id| id.unsigned_abs()), 0);
        put(&mut bytes, u64::from(self.pages.is_some()));
        if let Some((position, id)) = self.pages.as_deref() {
            put_position(&mut bytes, position);
            put(&mut bytes, id.unsigned_abs());
        }
        put(&mut bytes, u64::from(self.sent.is_some()));
        if let Some((socket, count)) = self.sent {
            put(&mut bytes, socket);
            put(&mut bytes, count);
        }
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }
}

/// Tells users apart, no more: 32-bit FNV-1a of the id.
fn tag(user: &UserId) -> u32 {
    user.as_str().bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn put_ascending(bytes: &mut Vec<u8>, numbers: impl ExactSizeIterator<Item = u64>, mut last: u64) {
    put(bytes, numbers.len() as u64);
    for number in numbers {
        put(bytes, number - last);
        last = number;
    }
}

/// xmin, xmax - xmin, how many run, each as the distance from the one before.
fn put_position(bytes: &mut Vec<u8>, position: &Position) {
    put(bytes, position.xmin);
    put(bytes, position.xmax - position.xmin);
    put_ascending(bytes, position.running.iter().copied(), position.xmin);
}

/// What is left to decode.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn next(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            if bits.leading_zeros() < shift {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn ascending(&mut self, mut last: u64) -> Option<Vec<u64>> {
        let count = self.next()?;
        let mut numbers = Vec::new();
        for _ in 0..count {
            last = last.checked_add(self.next()?)?;
            numbers.push(last);
        }
        Some(numbers)
    }

    fn position(&mut self) -> Option<Position> {
        let xmin = self.next()?;
        let xmax = xmin.checked_add(self.next()?)?;
        Position::checked(xmin, xmax, self.ascending(xmin)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn position(text: &str) -> Position {
        text.parse().unwrap()
    }

    #[test]
    fn a_position_sees_what_had_committed() {
        let position = position("10:20:10,15");
        for (xid, seen) in [(9, true), (10, false), (11, true), (15, false), (19, true), (20, false), (21, false)] {
            assert_eq!(position.sees(xid), seen, "{xid}");
        }
        assert_eq!(position.to_string(), "10:20:10,15");
        assert_eq!("5:5:".parse::<Position>().unwrap().to_string(), "5:5:");
        for garbage in [
            "",
            "1",
            "1:2",
            "a:b:",
            "1:2:x",
            "5:4:",
            "0:1:",
            "5:9:4",
            "5:9:9",
            "5:9:7,6",
            "5:9:6,6",
            "4294967296:4294967297:",
            "1:4294967296:",
        ] {
            assert!(garbage.parse::<Position>().is_err(), "{garbage:?}");
        }
    }

    #[test]
    fn positions_of_one_history_are_ordered() {
        let order = ["5:5:", "5:6:5", "5:9:5,7", "5:9:5", "6:9:7", "9:9:", "9:10:9"];
        for (i, a) in order.iter().enumerate() {
            for (j, b) in order.iter().enumerate() {
                assert_eq!(position(a).is_older(&position(b)), i <= j, "{a} {b}");
                assert_eq!(position(a).older(&position(b)).to_string(), order[i.min(j)]);
                assert_eq!(position(a).newer(&position(b)).to_string(), order[i.max(j)]);
            }
        }
    }

    #[test]
    fn a_position_without_a_transaction_sees_all_others() {
        let without = position("10:20:15").without([12, 12, 9, 25]);
        assert_eq!(without.to_string(), "9:20:9,12,15");
        for xid in 1..30 {
            assert_eq!(without.sees(xid), position("10:20:15").sees(xid) && xid != 12 && xid != 9, "{xid}");
        }
        assert_eq!(position("10:10:").without([]).to_string(), "10:10:");
    }

    fn user() -> UserId {
        "7".parse().unwrap()
    }

    fn cursor(at: &str, told: Vec<i64>) -> Cursor {
        Cursor { told, ..Cursor::new("00c0ffee00c0ffee".parse().unwrap(), position(at)) }
    }

    #[test]
    fn a_cursor_comes_back_as_it_was() {
        let mut paged = cursor("9:10:9", vec![7]);
        paged.pages = Some(Box::new((position("12:20:12,19"), 41)));
        paged.sent = Some((u64::MAX, 3));
        assert!(paged.sees(41, 15) && !paged.sees(42, 15) && !paged.sees(41, 19) && paged.sees(7, 19));
        for cursor in [
            cursor("3:3:", vec![]),
            cursor("700:9999:700,701,5000", vec![1, 2, i64::MAX]),
            cursor("1:9223372036854775807:1", vec![0]),
            paged,
        ] {
            assert_eq!(Cursor::decode(&cursor.token(&"8".parse().unwrap()), &user()), None, "another user's");
            assert_eq!(Cursor::decode(&cursor.token(&user()), &user()), Some(cursor));
        }
    }

    #[test]
    fn what_is_no_cursor_is_none_and_never_panics() {
        let mut good = cursor("10:20:10,15", vec![4, 9]);
        good.pages = Some(Box::new((position("12:20:12,19"), 41)));
        let good = good.token(&user());
        for end in 0..good.len() {
            assert_eq!(Cursor::decode(&good[..end], &user()), None, "cut");
        }
        assert_eq!(Cursor::decode(&format!("{good}AA"), &user()), None, "longer");
        assert_eq!(Cursor::decode(&"A".repeat(MAX_CURSOR_BYTES + 1), &user()), None, "endless");
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(&good).unwrap();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            if let Some(cursor) = Cursor::decode(&BASE64_URL_SAFE_NO_PAD.encode(bytes), &user()) {
                assert!(cursor.position.to_string().parse::<Position>().is_ok(), "the database would refuse it");
            }
        }
    }
}
