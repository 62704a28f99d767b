//! What is said on a socket: frames, close codes, and what clients may say.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{Cursor, Level, Notification, Token, UserId};

/// The subprotocol of clients that keep cursors.
pub const SUBPROTOCOL: &str = "notifier.v1";
/// A subprotocol that begins like this carries a token: pages can send no header with a socket.
pub const BEARER_SUBPROTOCOL: &str = "notifier.bearer.";

/// So deep may a client's JSON be nested. Nothing that is asked for needs more than two.
const MAX_DEPTH: usize = 16;

/// A notification's frame has so many bytes at most: what is larger than what clients take (1 MiB with some of them) would end their
/// sockets each time it is sent again, and what waits for a socket that reads nothing would have no bound.
const MAX_FRAME_BYTES: usize = 64 * 1024;
/// Of a message that makes it larger so many characters are told. All of it is in the inbox.
const CUT_CHARACTERS: usize = 1_000;

/// What a client's cursor was worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Resume {
    /// It brought none.
    New,
    /// All that it misses follows.
    Ok,
    /// Something it misses may be gone: read the history.
    Gap,
}

/// A notification's frame. Built once and shared by all sockets of the user. One that were larger than 64 KiB has no data and says so,
/// `"cut":true`; its message is cut after 1,000 characters.
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
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        cut: bool,
    }
    let mut frame = Frame {
        r#type: notification.level,
        message: &notification.message,
        id: notification.id.to_string(),
        event: &notification.event,
        data: &notification.data,
        created_at: &notification.created_at.text,
        replayed,
        cut: false,
    };
    let whole = encode(&frame);
    if whole.len() <= MAX_FRAME_BYTES {
        return whole;
    }
    let message = match notification.message.char_indices().nth(CUT_CHARACTERS) {
        Some((end, _)) => format!("{}\u{2026}", &notification.message[..end]),
        None => notification.message.clone(),
    };
    let nothing = serde_json::from_str("{}").unwrap_or(RawValue::NULL);
    (frame.message, frame.data, frame.cut) = (&message, nothing, true);
    encode(&frame)
}

/// A frame with a cursor's token at its end: what a client that has this one gives back to go on after it. A copy of its own.
pub fn with_cursor(frame: &Utf8Bytes, cursor: &str) -> Utf8Bytes {
    let object = frame.strip_suffix('}').unwrap_or(frame);
    format!(r#"{object},"cursor":"{cursor}"}}"#).into()
}

/// What the hello of a client that keeps cursors says beside what everybody's does.
#[derive(Serialize)]
pub struct Resumed {
    protocol: &'static str,
    epoch: String,
    resume: Resume,
    cursor: String,
}

impl Resumed {
    /// From where the user's socket goes on, and what the client's own cursor was worth.
    pub fn new(resume: Resume, cursor: &Cursor, user: &UserId) -> Self {
        Self { protocol: SUBPROTOCOL, epoch: cursor.epoch.to_string(), resume, cursor: cursor.token(user) }
    }
}

/// The first frame of a socket. `unread` stops at 1000, which stands for as many or more.
pub fn hello_frame(user: &UserId, unread: i32, server_time: &str, resumed: Option<Resumed>) -> Utf8Bytes {
    #[derive(Serialize)]
    struct Frame<'a> {
        r#type: Level,
        message: &'static str,
        connected: bool,
        user: &'a UserId,
        unread: i32,
        server_time: &'a str,
        #[serde(flatten)]
        resumed: Option<Resumed>,
    }
    encode(&Frame {
        r#type: Level::Info,
        message: "Connected to real-time notifications",
        connected: true,
        user,
        unread,
        server_time,
        resumed,
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
        ..1000 => format!("{more} more notifications wait in your inbox."),
        _ => "1000 or more notifications wait in your inbox.".to_owned(),
    };
    encode(&Frame { r#type: Level::Info, message, more })
}

/// What clients that keep cursors are told beside notifications. `op` says which.
#[derive(Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Told<'a> {
    /// What was missed is told; from here on it is live.
    Live {
        /// See [`Cursor`].
        cursor: String,
    },
    /// A sign of life, with a fresh cursor.
    Beat {
        /// Ids are unique within it.
        epoch: String,
        /// See [`Cursor`].
        cursor: String,
    },
    /// What was asked is done.
    Ok {
        /// As in the hello.
        unread: i32,
    },
    /// Something was read elsewhere. Without `ids` and `before`: read the history again.
    Read {
        /// These.
        #[serde(skip_serializing_if = "Option::is_none")]
        ids: Option<&'a [String]>,
        /// This one and all older ones.
        #[serde(skip_serializing_if = "Option::is_none")]
        before: Option<&'a str>,
        /// As in the hello.
        unread: i32,
    },
    /// The credential holds, for so many seconds from now; `None`: it does not end by itself.
    Auth {
        /// Seconds.
        expires_in: Option<f64>,
    },
    /// This instance stops: connect again after so many seconds.
    Restarting {
        /// Seconds.
        after: f64,
    },
    /// What was asked is not done.
    Error {
        /// For programs.
        code: &'static str,
        /// For people: what is wrong and what to do.
        message: &'a str,
    },
}

impl Told<'_> {
    /// The frame.
    pub fn frame(&self) -> Utf8Bytes {
        encode(self)
    }
}

fn encode(frame: &impl Serialize) -> Utf8Bytes {
    // Structs with string keys and no custom Serialize cannot fail. What grew as it was written has up to as much again: a frame that
    // waits has what it needs.
    serde_json::to_string(frame).unwrap_or_default().into_boxed_str().into_string().into()
}

/// What a client asks for.
#[derive(Debug)]
pub enum Asked {
    /// It has dealt with everything up to a cursor, whose token this is.
    Ack(String),
    /// To mark as read; what exactly is checked where it is done.
    Read(Box<RawValue>),
    /// To go on with this credential; `None` if it is none.
    Auth(Option<Token>),
    /// Something a newer client knows.
    Unknown,
}

impl Asked {
    /// Reads a client's frame; `None` when it is none at all, which is a JSON object.
    pub fn decode(text: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Frame {
            op: Option<serde_json::Value>,
            cursor: Option<serde_json::Value>,
            token: Option<serde_json::Value>,
        }
        // A struct is also read from an array.
        if !text.trim_start().starts_with('{') || !is_shallow(text) {
            return None;
        }
        let frame: Frame = serde_json::from_str(text).ok()?;
        Some(match frame.op.as_ref().and_then(|op| op.as_str()) {
            Some("ack") => {
                Self::Ack(frame.cursor.as_ref().and_then(|cursor| cursor.as_str()).unwrap_or_default().to_owned())
            }
            Some("read") => Self::Read(serde_json::from_str(text).ok()?),
            Some("auth") => Self::Auth(frame.token.as_ref().and_then(|token| Token::new(token.as_str()?))),
            _ => Self::Unknown,
        })
    }
}

/// Whether JSON is nested no deeper than [`MAX_DEPTH`]; of other text it does not matter.
fn is_shallow(text: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return false;
        }
    }
    true
}

/// Why a socket is closed, for the client to know what to do: 44xx stop, everything else come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseCode {
    /// 1009: a message that is larger than may be.
    TooBig,
    /// 1007: text that is not UTF-8.
    NotUtf8,
    /// 1002: bytes that are no WebSocket frames.
    Malformed,
    /// 1012: this instance stops; connect again.
    Restarting,
    /// 4400: a frame that is not a JSON object.
    BadFrame,
    /// 4401: no credential, or one that ended or was revoked; renew it once.
    Unauthorized,
    /// 4403: the credential is another user's, or a cookie that the page may not use.
    Forbidden,
    /// 4429: too many sockets, or too many messages.
    TooMany,
    /// 4500: something here does not work; connect again.
    Internal,
    /// 4510: the socket takes nothing any more.
    TooSlow,
    /// 4511: a ping was not answered.
    NoPong,
}

impl CloseCode {
    /// The code as RFC 6455 numbers them.
    pub fn number(self) -> u16 {
        self.parts().0
    }

    /// The close frame's payload.
    pub fn payload(self) -> Vec<u8> {
        let (code, reason) = self.parts();
        [&code.to_be_bytes(), reason.as_bytes()].concat()
    }

    fn parts(self) -> (u16, &'static str) {
        match self {
            Self::TooBig => (1009, "the message is too large"),
            Self::NotUtf8 => (1007, "text is UTF-8"),
            Self::Malformed => (1002, "not a WebSocket frame"),
            Self::Restarting => (1012, "restarting, connect again"),
            Self::BadFrame => (4400, "a frame is a JSON object"),
            Self::Unauthorized => (4401, "unauthorized, renew the credential"),
            Self::Forbidden => (4403, "forbidden, the credential is not for this user or page"),
            Self::TooMany => (4429, "too many sockets or messages"),
            Self::Internal => (4500, "unavailable, connect again"),
            Self::TooSlow => (4510, "too slow, connect again"),
            Self::NoPong => (4511, "no pong, connect again"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio_tungstenite::tungstenite::Bytes;

    use super::*;

    #[test]
    fn a_client_frame_is_a_json_object() {
        assert!(matches!(Asked::decode(r#"{"op":"unknown","x":[1]}"#), Some(Asked::Unknown)));
        assert!(matches!(Asked::decode(r#" {"op":7}"#), Some(Asked::Unknown)));
        assert!(matches!(Asked::decode(r#"{"op":"ack","cursor":"?"}"#), Some(Asked::Ack(token)) if token == "?"));
        assert!(matches!(Asked::decode(r#"{"op":"read","ids":[1]}"#), Some(Asked::Read(_))));
        assert!(
            matches!(Asked::decode(r#"{"op":"auth","token":"a.b"}"#), Some(Asked::Auth(Some(token))) if token.as_str() == "a.b")
        );
        assert!(matches!(Asked::decode(r#"{"op":"auth","token":""}"#), Some(Asked::Auth(None))));
        let nested = |depth: usize| format!(r#"{{"op":"x","y":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(Asked::decode(&nested(MAX_DEPTH - 1)).is_some());
        assert!(Asked::decode(&nested(MAX_DEPTH)).is_none());
        assert!(
            Asked::decode(r#"{"op":"x","y":"[[[[[[[[[[[[[[[[[[[[[[[[\"[[[[[["}"#).is_some(),
            "a text may hold anything"
        );
        for broken in ["", "ping", "[]", "1", "{", r#""x""#, r#"["read",null]"#] {
            assert!(Asked::decode(broken).is_none(), "{broken:?}");
        }
    }

    #[test]
    fn a_frame_that_waits_has_no_room_to_spare() {
        for more in [1, 1_000_000] {
            let frame = more_frame(more);
            let bytes = frame.len();
            // Nobody shares it, so what was allocated for it comes back.
            let allocated: Vec<u8> = Bytes::from(frame).into();
            assert_eq!(allocated.capacity(), bytes);
        }
    }

    #[test]
    fn frames_of_cursor_clients_read_as_documented() {
        let cursor = Cursor::new("00000000000000ff".parse().unwrap(), "5:5:".parse().unwrap());
        let user = "7".parse().unwrap();
        let token = cursor.token(&user);
        let hello = hello_frame(&user, 3, "now", Some(Resumed::new(Resume::Gap, &cursor, &user)));
        let hello: serde_json::Value = serde_json::from_str(&hello).unwrap();
        assert_eq!((hello["resume"].as_str(), hello["epoch"].as_str()), (Some("gap"), Some("00000000000000ff")));
        assert_eq!(hello["cursor"], token);
        let plain: serde_json::Value = serde_json::from_str(&hello_frame(&user, 3, "now", None)).unwrap();
        assert!(plain.get("cursor").is_none() && plain.get("resume").is_none());
        let framed = with_cursor(&more_frame(2), &token);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&framed).unwrap()["cursor"], token);
        assert_eq!(Told::Ok { unread: 2 }.frame().as_str(), r#"{"op":"ok","unread":2}"#);
        let read = Told::Read { ids: Some(&["1".to_owned()]), before: None, unread: 0 };
        assert_eq!(read.frame().as_str(), r#"{"op":"read","ids":["1"],"unread":0}"#);
    }
}
