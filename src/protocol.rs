//! What travels: payloads inside NOTIFY, frames on the socket, close codes, cursors. Pure; no I/O.

mod cursor;
mod frames;
mod numbers;
mod read;

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde::de::IntoDeserializer;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

pub use cursor::{Cursor, Epoch, Position};
pub use frames::*;
pub use numbers::readable;
pub use read::{Read, parse_id};

/// Who is told: 1 to 255 bytes without control characters, as the event's query gave it in `user_id`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
pub struct UserId(Arc<str>);

impl UserId {
    /// As the database recorded it, which is addressed as it is, even if no path can name it.
    pub fn recorded(text: &str) -> Self {
        Self(text.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > 255 {
            Err("a user id has 1 to 255 bytes")
        } else if text.chars().any(char::is_control) {
            Err("a user id has no control characters")
        } else {
            Ok(Self(text.into()))
        }
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for UserId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for UserId {
    /// Takes any text: see [`Self::recorded`].
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::recorded(&text))
    }
}

/// A credential as it was presented. It is never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Token(Arc<str>);

impl Token {
    /// The longest token that is looked at, in bytes: a request's head has no more.
    pub const MAX_BYTES: usize = 8 * 1024;

    /// `None` when it is empty, longer than [`Self::MAX_BYTES`], or has control characters.
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=Self::MAX_BYTES).contains(&text.len()) && !text.chars().any(char::is_control);
        fits.then(|| Self(text.into()))
    }

    /// As it was presented.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// How a frontend should show a notification; the frame's `type`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something the user wanted has happened.
    Success,
    /// Something failed and the user should act.
    Error,
    /// Something the user should know before it is too late.
    Warning,
    /// Something the user may want to know.
    Info,
}

impl FromStr for Level {
    type Err = serde::de::value::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::deserialize(text.into_deserializer())
    }
}

/// One notification as the database tells it: the JSON of the SQL function `notifier.payload`, or a row of `notifier.read_on`.
#[derive(Clone, Debug, Deserialize)]
pub struct Notification {
    /// Unique in the database; not in order of commit.
    #[serde(deserialize_with = "number")]
    pub id: i64,
    /// The leaf of the table that holds the row; a part of its key.
    pub slot: i16,
    /// The transaction that wrote it.
    #[serde(deserialize_with = "number")]
    pub xid: u64,
    /// Who is told.
    pub user_id: UserId,
    /// The event's dotted name.
    pub event: String,
    /// How to show it.
    pub level: Level,
    /// The text to show.
    pub message: String,
    /// The query's other columns; numbers that a browser would round are texts.
    #[serde(deserialize_with = "data")]
    pub data: Box<RawValue>,
    /// When it was created, by the database's clock. With `id` it tells one row from every other: an id alone may come back after
    /// a crash.
    pub created_at: CreatedAt,
}

/// In microseconds since 1970.
const END_OF_9999: u64 = 253_402_300_800_000_000;

/// An instant as the database wrote it: RFC 3339, UTC, microseconds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreatedAt {
    /// As it was written.
    pub text: String,
    /// Since 1970.
    pub microseconds: i64,
}

impl CreatedAt {
    /// As the database writes it. `None` before 1970 and after 9999, which it writes otherwise.
    pub fn at(microseconds: i64) -> Option<Self> {
        let since = Duration::from_micros(u64::try_from(microseconds).ok().filter(|since| *since < END_OF_9999)?);
        Some(Self { text: humantime::format_rfc3339_micros(UNIX_EPOCH + since).to_string(), microseconds })
    }
}

impl<'de> Deserialize<'de> for CreatedAt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let since = humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)?.duration_since(UNIX_EPOCH);
        let microseconds = since.ok().and_then(|since| i64::try_from(since.as_micros()).ok());
        match microseconds {
            Some(microseconds) => Ok(Self { text, microseconds }),
            None => Err(serde::de::Error::custom("an instant before 1970")),
        }
    }
}

/// What a user marked as read, as a NOTIFY tells it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct ReadBy {
    /// Who.
    pub user_id: UserId,
    /// These; `None` with `before` absent as well stands for too many to tell.
    pub ids: Option<Vec<String>>,
    /// This one and all older ones.
    pub before: Option<String>,
    /// The socket that asked, which was answered already.
    pub origin: Option<String>,
}

/// That a user's credentials of before are worth nothing any more.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct Revocation {
    /// Whose.
    pub user_id: UserId,
    /// When, in seconds since 1970 by the database's clock.
    pub at: f64,
}

impl Revocation {
    /// Whether a revocation, in seconds since 1970, ends what was issued then; `None`: nobody knows when. What is issued in the second
    /// of the revocation was there before: JWTs count in seconds.
    pub fn ends(revoked: f64, issued: Option<f64>) -> bool {
        issued.is_none_or(|issued| issued < revoked)
    }
}

/// A stretch of the stream: what is visible in `position` and not in `since`. Whoever has read up to `since` or further and hears that
/// a stretch was told has heard all up to `position`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// The history that the positions belong to.
    pub epoch: Epoch,
    /// Where it begins.
    pub since: Position,
    /// Where it ends.
    pub position: Position,
}

/// What the relay read, or a part of it.
#[derive(Debug)]
pub struct Relayed {
    /// What it found.
    pub notifications: Vec<Notification>,
    /// How many more there were that this binary cannot decode.
    pub undecodable: usize,
    /// With the last part: all of this stood in it and before it.
    pub stretch: Option<Stretch>,
}

impl Relayed {
    fn new(told: Vec<&RawValue>, stretch: Option<Stretch>) -> Self {
        // One that this binary cannot read must not keep everybody from the others.
        let notifications: Vec<_> = told.iter().filter_map(|one| serde_json::from_str(one.get()).ok()).collect();
        Self { undecodable: told.len() - notifications.len(), notifications, stretch }
    }
}

/// Ids travel as strings, since JSON readers lose integers beyond 2^53.
fn number<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn data<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<RawValue>, D::Error> {
    Box::deserialize(deserializer).map(readable)
}

/// What a NOTIFY on our channel says.
#[derive(Debug)]
pub enum Payload {
    /// A whole notification, from the writer itself.
    Notification(Box<Notification>),
    /// Several, from the relay.
    Relayed(Relayed),
    /// There is something to read: too large or too many to tell.
    Read,
    /// A timer is due in so many seconds (negative: already).
    Due(f64),
    /// Whoever is named is alive, and so is the channel.
    Beat(String),
    /// A user has read something.
    ReadBy(ReadBy),
    /// The credentials that a user has are worth nothing any more.
    Revoked(Revocation),
}

impl Payload {
    /// Decodes the text of a NOTIFY. Unknown keys are ignored, so that a newer database can tell an older binary more.
    ///
    /// # Errors
    /// The text is not JSON or none of the shapes above.
    pub fn decode(text: &str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Signal<'a> {
            read: Option<bool>,
            due: Option<f64>,
            beat: Option<String>,
            read_by: Option<ReadBy>,
            revoked: Option<Revocation>,
            #[serde(borrow)]
            told: Option<Vec<&'a RawValue>>,
            epoch: Option<String>,
            since: Option<String>,
            position: Option<String>,
        }
        if text.starts_with('[') {
            return Ok(Self::Relayed(Relayed::new(serde_json::from_str(text)?, None)));
        }
        let not_a_notification = match serde_json::from_str(text) {
            Ok(notification) => return Ok(Self::Notification(notification)),
            Err(error) => error,
        };
        match serde_json::from_str(text) {
            Ok(Signal { read: Some(true), .. }) => Ok(Self::Read),
            Ok(Signal { due: Some(seconds), .. }) => Ok(Self::Due(seconds)),
            Ok(Signal { told: Some(told), epoch, since, position, .. }) => {
                let stretch = epoch.zip(since).zip(position).and_then(|((epoch, since), position)| {
                    Some(Stretch {
                        epoch: epoch.parse().ok()?,
                        since: since.parse().ok()?,
                        position: position.parse().ok()?,
                    })
                });
                Ok(Self::Relayed(Relayed::new(told, stretch)))
            }
            Ok(Signal { beat: Some(from), .. }) => Ok(Self::Beat(from)),
            Ok(Signal { read_by: Some(read_by), .. }) => Ok(Self::ReadBy(read_by)),
            Ok(Signal { revoked: Some(revocation), .. }) => Ok(Self::Revoked(revocation)),
            _ => Err(not_a_notification),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PAYLOAD: &str = r#"{"id" : "184467440737", "slot" : 3, "xid" : "99", "user_id" : "42", "event" : "payment.verified",
        "level" : "success", "message" : "Cash \"paid\".", "data" : {"booking_id": 7, "big": "9007199254740993"},
        "created_at" : "2026-11-23T01:02:03.123456Z", "new_key": 1}"#;

    #[test]
    fn a_payload_becomes_the_frame_of_the_contract() {
        let Payload::Notification(n) = Payload::decode(PAYLOAD).unwrap() else { panic!("not a notification") };
        assert_eq!(
            notification_frame(&n, false).as_str(),
            r#"{"type":"success","message":"Cash \"paid\".","id":"184467440737","event":"payment.verified","data":{"booking_id": 7, "big": "9007199254740993"},"created_at":"2026-11-23T01:02:03.123456Z","replayed":false}"#
        );
        assert_eq!(n.created_at.microseconds, 1_795_395_723_123_456);
    }

    #[test]
    fn signals_are_told_from_notifications_and_from_garbage() {
        assert!(matches!(Payload::decode(r#"{"read":true}"#), Ok(Payload::Read)));
        assert!(matches!(Payload::decode(r#"{"due":-1.5}"#), Ok(Payload::Due(s)) if s == -1.5));
        assert!(matches!(Payload::decode(r#"{"beat":"a"}"#), Ok(Payload::Beat(from)) if from == "a"));
        let several = format!(r#"[{PAYLOAD},{{"id":"x"}},{PAYLOAD}]"#);
        let told = format!(
            r#"{{"beat":"relay","epoch":"00000000000000ff","since":"5:5:","position":"9:12:9,11","told":{several}}}"#
        );
        let relayed = |text: &str| match Payload::decode(text) {
            Ok(Payload::Relayed(relayed)) => (relayed.notifications.len(), relayed.undecodable, relayed.stretch),
            other => panic!("{other:?}"),
        };
        assert_eq!(relayed(&several), (2, 1, None));
        let (decoded, undecodable, stretch) = relayed(&told);
        let stretch = stretch.map(|stretch| (stretch.since.to_string(), stretch.position.to_string()));
        assert_eq!((decoded, undecodable, stretch), (2, 1, Some(("5:5:".into(), "9:12:9,11".into()))));
        assert_eq!(relayed(&told.replace("9:12:9,11", "9:9:7")), (2, 1, None), "7 does not run between 9 and 9");
        for garbage in ["", "nonsense", "[", "{}", r#"{"read":false}"#, r#"{"id":"x"}"#, "\u{0}", r#"{"due":"soon"}"#] {
            assert!(Payload::decode(garbage).is_err(), "{garbage:?}");
        }
    }

    #[test]
    fn a_user_id_is_a_short_line() {
        assert!("42".parse::<UserId>().is_ok());
        assert!("jörg@example.com".parse::<UserId>().is_ok());
        for refused in ["", "a\nb", &"x".repeat(256)] {
            assert!(refused.parse::<UserId>().is_err(), "{refused:?}");
        }
    }
}
