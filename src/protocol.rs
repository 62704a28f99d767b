//! What travels: payloads inside NOTIFY, frames on the socket, close codes, positions. Pure; no I/O.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

mod read;

pub use read::{Read, parse_id};

/// The largest message a client may send, in bytes. Clients of this protocol hardly say anything.
pub const MAX_INBOUND_BYTES: usize = 4 * 1024;

/// Who is told: 1 to 255 bytes without control characters, as the event's query gave it in `user_id`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
pub struct UserId(Arc<str>);

impl UserId {
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
    /// Takes any text: what the database recorded is addressed as it is, even if no path can name it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
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

/// One notification as the database tells it: the JSON of the SQL function `notifier.payload`.
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
    /// The query's other columns, passed on untouched.
    pub data: Box<RawValue>,
    /// RFC 3339, UTC, by the database's clock.
    pub created_at: String,
}

/// Ids travel as strings, since JSON readers lose integers beyond 2^53.
fn number<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// What a NOTIFY on our channel says.
#[derive(Debug)]
pub enum Payload {
    /// A whole notification.
    Notification(Box<Notification>),
    /// There is something to read: too large or too many to tell.
    Read,
    /// A timer is due in so many seconds (negative: already).
    Due(f64),
    /// Whoever is named is alive, and so is the channel.
    Beat(String),
}

impl Payload {
    /// Decodes the text of a NOTIFY. Unknown keys are ignored, so that a newer database can tell an older binary more.
    ///
    /// # Errors
    /// The text is not JSON or none of the four shapes.
    pub fn decode(text: &str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Signal {
            read: Option<bool>,
            due: Option<f64>,
            beat: Option<String>,
        }
        let not_a_notification = match serde_json::from_str(text) {
            Ok(notification) => return Ok(Self::Notification(notification)),
            Err(error) => error,
        };
        match serde_json::from_str(text) {
            Ok(Signal { read: Some(true), .. }) => Ok(Self::Read),
            Ok(Signal { due: Some(seconds), .. }) => Ok(Self::Due(seconds)),
            Ok(Signal { beat: Some(from), .. }) => Ok(Self::Beat(from)),
            _ => Err(not_a_notification),
        }
    }
}

/// A notification's frame. Built once and shared by all sockets of the user.
pub fn notification_frame(notification: &Notification, replayed: bool) -> Utf8Bytes {
    #[derive(Serialize)]
    struct Frame<'a> {
        r#type: Level,
        message: &'a str,
        id: String,
        event: &'a str,
        data: &'a RawValue,
        created_at: &'a str,
        replayed: bool,
    }
    encode(&Frame {
        r#type: notification.level,
        message: &notification.message,
        id: notification.id.to_string(),
        event: &notification.event,
        data: &notification.data,
        created_at: &notification.created_at,
        replayed,
    })
}

/// The first frame of a plain client's socket. `unread` stops at 1000, which stands for as many or more.
pub fn hello_frame(user: &UserId, unread: i32, server_time: &str) -> Utf8Bytes {
    #[derive(Serialize)]
    struct Frame<'a> {
        r#type: Level,
        message: &'static str,
        connected: bool,
        user: &'a UserId,
        unread: i32,
        server_time: &'a str,
    }
    encode(&Frame {
        r#type: Level::Info,
        message: "Connected to real-time notifications",
        connected: true,
        user,
        unread,
        server_time,
    })
}

/// Told after a replay that was cut: the others are in the inbox and are not sent again.
pub fn more_frame(more: i64) -> Utf8Bytes {
    #[derive(Serialize)]
    struct Frame {
        r#type: Level,
        message: String,
        more: i64,
    }
    let message = match more {
        1 => "1 more notification waits in your inbox.".to_owned(),
        _ => format!("{more} more notifications wait in your inbox."),
    };
    encode(&Frame { r#type: Level::Info, message, more })
}

fn encode(frame: &impl Serialize) -> Utf8Bytes {
    // Structs with string keys and no custom Serialize cannot fail.
    serde_json::to_string(frame).unwrap_or_default().into()
}

/// Whether a client's text is a frame at all: a JSON object. What it says is ignored as long as no operation is known.
pub fn is_client_frame(text: &str) -> bool {
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).is_ok()
}

/// Why a socket is closed, for the client to know what to do: 44xx stop, everything else come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseCode {
    /// 1009: a message over [`MAX_INBOUND_BYTES`].
    TooBig,
    /// 1007: text that is not UTF-8.
    NotUtf8,
    /// 1002: bytes that are no WebSocket frames.
    Malformed,
    /// 1012: this instance stops; connect again.
    Restarting,
    /// 4400: a frame that is not a JSON object.
    BadFrame,
    /// 4510: the socket takes nothing any more.
    TooSlow,
    /// 4511: a ping was not answered.
    NoPong,
}

impl CloseCode {
    /// The close frame as it is sent.
    pub fn frame(self) -> CloseFrame {
        let (code, reason) = match self {
            Self::TooBig => (1009, "a message has at most 4096 bytes"),
            Self::NotUtf8 => (1007, "text is UTF-8"),
            Self::Malformed => (1002, "not a WebSocket frame"),
            Self::Restarting => (1012, "restarting, connect again"),
            Self::BadFrame => (4400, "a frame is a JSON object"),
            Self::TooSlow => (4510, "too slow, connect again"),
            Self::NoPong => (4511, "no pong, connect again"),
        };
        CloseFrame { code: code.into(), reason: reason.into() }
    }
}

/// What has been seen of the database's transactions: a `pg_snapshot`. Positions of one database are totally ordered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Position {
    xmin: u64,
    xmax: u64,
    /// Running when the position was taken; ascending.
    running: Box<[u64]>,
}

impl Position {
    /// Whether what the transaction wrote is visible here. Invariant: only asked of transactions that committed.
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.running.binary_search(&xid).is_err())
    }

    /// Whether everything visible in the other is visible here.
    pub fn covers(&self, other: &Self) -> bool {
        self.xmin >= other.xmax
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
        Ok(Self { xmin, xmax, running })
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
    }

    #[test]
    fn signals_are_told_from_notifications_and_from_garbage() {
        assert!(matches!(Payload::decode(r#"{"read":true}"#), Ok(Payload::Read)));
        assert!(matches!(Payload::decode(r#"{"due":-1.5}"#), Ok(Payload::Due(s)) if s == -1.5));
        assert!(matches!(Payload::decode(r#"{"beat":"a"}"#), Ok(Payload::Beat(from)) if from == "a"));
        for garbage in ["", "nonsense", "[]", "{}", r#"{"read":false}"#, r#"{"id":"x"}"#, "\u{0}", r#"{"due":"soon"}"#]
        {
            assert!(Payload::decode(garbage).is_err(), "{garbage:?}");
        }
    }

    #[test]
    fn a_position_sees_what_had_committed() {
        let position: Position = "10:20:10,15".parse().unwrap();
        for (xid, seen) in [(9, true), (10, false), (11, true), (15, false), (19, true), (20, false), (21, false)] {
            assert_eq!(position.sees(xid), seen, "{xid}");
        }
        assert_eq!(position.to_string(), "10:20:10,15");
        assert_eq!("5:5:".parse::<Position>().unwrap().to_string(), "5:5:");
        for garbage in ["", "1", "1:2", "a:b:", "1:2:x"] {
            assert!(garbage.parse::<Position>().is_err(), "{garbage:?}");
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

    #[test]
    fn a_client_frame_is_a_json_object() {
        assert!(is_client_frame(r#"{"op":"unknown","x":[1]}"#));
        for broken in ["", "ping", "[]", "1", "{", r#""x""#] {
            assert!(!is_client_frame(broken), "{broken:?}");
        }
    }
}
