//! Random input to everything that reads bytes from outside, most of it nearly right: nothing panics, and what is taken is what was
//! meant. Each target runs for a second, and for FUZZ_SECONDS where that is set (`make fuzz`); a failure prints the smallest input.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use parkmate_notifier::auth::Token;
use parkmate_notifier::protocol::{Asked, Cursor, Payload, Position, Read, UserId, notification_frame, parse_id};
use parkmate_notifier::session::{Inbound, Incoming};
use percent_encoding::percent_decode_str;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use crate::jwt::{claims, load_file};
use crate::support::signer::{ALGORITHMS, RSA, encode};
use crate::support::{Database, LIMIT, Service, Signer};

/// How large a message may be here, in bytes.
const MAX_INBOUND_BYTES: usize = 4096;

/// Tries a strategy's values until the time is up. Counts what `test` says of them, so that a target that only ever meets one
/// answer is seen.
fn fuzz<S: Strategy>(target: &str, strategy: S, expected: &[&str], test: impl Fn(S::Value) -> &'static str) {
    let seconds = std::env::var("FUZZ_SECONDS").map_or(1, |seconds| seconds.parse().expect("FUZZ_SECONDS is a number"));
    let started = Instant::now();
    let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
    let answers = std::cell::RefCell::new(BTreeMap::<_, usize>::new());
    // A slow machine may take longer to have met every answer once.
    let met = || expected.iter().all(|answer| answers.borrow().contains_key(answer));
    while started.elapsed() < Duration::from_secs(seconds) || (!met() && started.elapsed() < LIMIT) {
        // Each round with a runner of its own: one stops at its number of cases.
        let ran = TestRunner::new(config.clone()).run(&strategy, |value| {
            *answers.borrow_mut().entry(test(value)).or_default() += 1;
            Ok(())
        });
        if let Err(failure) = ran {
            panic!("{target}: {failure}");
        }
    }
    println!("fuzz {target}: {:?} in {:.1?}", answers.borrow(), started.elapsed());
    assert!(met(), "{target} never met one of {expected:?}: {:?}", answers.borrow());
}

/// A change of a text that is right.
#[derive(Clone, Debug)]
enum Edit {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
    Cut(Index),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let byte = prop_oneof![any::<u8>(), select(b"{}[]\",:.0123456789-+eE\\/=AaZz_ %&?;".as_slice())];
    let edit = prop_oneof![
        (any::<Index>(), byte.clone()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        (any::<Index>(), vec(byte, 1..8)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (any::<Index>(), 1..8_usize).prop_map(|(at, length)| Edit::Remove(at, length)),
        (any::<Index>(), 1..64_usize).prop_map(|(at, length)| Edit::Repeat(at, length)),
        any::<Index>().prop_map(Edit::Cut),
    ];
    vec(edit, 0..4)
}

fn edited(bytes: &[u8], edits: Vec<Edit>) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for edit in edits {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        match edit {
            Edit::Set(at, byte) => bytes[at.index(length)] = byte,
            Edit::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Edit::Insert(at, new) => {
                let at = at.index(length);
                bytes.splice(at..at, new);
            }
            Edit::Remove(at, many) => {
                let at = at.index(length);
                bytes.drain(at..(at + many).min(length));
            }
            Edit::Repeat(at, many) => {
                let at = at.index(length);
                let again = bytes[at..(at + many).min(length)].to_vec();
                bytes.splice(at..at, again);
            }
            Edit::Cut(at) => bytes.truncate(at.index(length)),
        }
    }
    bytes
}

/// One of these texts with a few changes.
fn nearly(texts: Vec<String>) -> impl Strategy<Value = String> {
    (select(texts), edits())
        .prop_map(|(text, edits)| String::from_utf8_lossy(&edited(text.as_bytes(), edits)).into_owned())
}

/// Any JSON, in which these keys are frequent.
fn some_json(keys: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0..3000_i64).prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "[0-9]{1,20}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        let key = prop_oneof![4 => select(keys).prop_map(str::to_owned), 1 => any::<String>()];
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Value::from),
            vec((key, inner), 0..8).prop_map(|pairs| Value::Object(Map::from_iter(pairs))),
        ]
    })
}

#[test]
fn payloads_of_notify() {
    let one = json!({"id": "184467440737", "slot": 3, "xid": "99", "user_id": "42", "event": "payment.verified",
        "level": "success", "message": "Cash \"paid\" <img onerror>.", "data": {"booking_id": 7},
        "created_at": "2026-11-23T01:02:03.123456Z"});
    let stretch = json!({"told": [one, 7, one], "epoch": "00000000000000ff", "since": "5:5:", "position": "9:12:9,11"});
    let right = [
        one.to_string(),
        stretch.to_string(),
        json!([one, one]).to_string(),
        json!({"read": true}).to_string(),
        json!({"due": -1.5}).to_string(),
        json!({"beat": "relay"}).to_string(),
        json!({"read_by": {"user_id": "7", "ids": ["1"], "before": null, "origin": "x"}}).to_string(),
    ];
    let keys: &[&str] = &[
        "id",
        "slot",
        "xid",
        "user_id",
        "event",
        "level",
        "message",
        "data",
        "created_at",
        "read",
        "due",
        "beat",
        "read_by",
        "told",
        "epoch",
        "since",
        "position",
        "ids",
        "before",
        "origin",
    ];
    let text = prop_oneof![
        4 => nearly(right.to_vec()),
        2 => some_json(keys).prop_map(|value| value.to_string()),
        1 => any::<String>(),
    ];
    fuzz("payload", text, &["notification", "relayed", "signal", "refused"], |text| match Payload::decode(&text) {
        Ok(Payload::Notification(told)) => {
            let frame: Value = serde_json::from_str(&notification_frame(&told, false)).unwrap();
            assert_eq!(frame["message"], told.message);
            assert_eq!(frame["id"], told.id.to_string());
            "notification"
        }
        Ok(Payload::Relayed(relayed)) => {
            if let Some(stretch) = relayed.stretch {
                assert_eq!(stretch.position.to_string().parse::<Position>().unwrap(), stretch.position);
            }
            "relayed"
        }
        Ok(_) => "signal",
        Err(_) => "refused",
    });
}

/// A frame as bytes; hostile ones say other lengths than they have, are not masked, or have reserved bits.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        6 => select(&[0x81_u8, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8a][..]),
        1 => Just(0x88),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        3 => "\\PC{0,40}".prop_map(String::into_bytes),
        2 => vec(any::<u8>(), 0..140),
        1 => vec(any::<u8>(), MAX_INBOUND_BYTES - 2..MAX_INBOUND_BYTES + 3),
    ];
    let lie = prop_oneof![12 => Just(None), 1 => any::<u64>().prop_map(Some), 1 => (0..300_u64).prop_map(Some)];
    let mask = prop_oneof![12 => any::<[u8; 4]>().prop_map(Some), 1 => Just(None)];
    (first, payload, lie, mask, 0..3_u8).prop_map(|(first, payload, lie, mask, form)| {
        let (length, masked) = (lie.unwrap_or(payload.len() as u64), if mask.is_some() { 0x80 } else { 0 });
        let mut bytes = vec![first];
        match (length, form) {
            (0..126, 0) => bytes.push(masked | length as u8),
            (0..0x1_0000, 0 | 1) => {
                bytes.push(masked | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(masked | 127);
                bytes.extend(length.to_be_bytes());
            }
        }
        bytes.extend(mask.unwrap_or_default().iter().take(if mask.is_some() { 4 } else { 0 }));
        let mask = mask.unwrap_or_default();
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    })
}

/// What a reader makes of bytes that come in pieces of a size: messages, then perhaps the code that it refuses the rest with.
fn heard(bytes: &[u8], size: usize) -> (Vec<Incoming>, Option<u16>) {
    let (mut inbound, mut came) = (Inbound::default(), Vec::new());
    for piece in bytes.chunks(size) {
        inbound.extend(piece);
        loop {
            match inbound.next(MAX_INBOUND_BYTES) {
                Ok(Some(incoming)) => came.push(incoming),
                Ok(None) => break,
                Err(code) => return (came, Some(code.number())),
            }
        }
    }
    (came, None)
}

#[test]
fn frames_of_a_web_socket() {
    let bytes = (vec(frame(), 1..6), edits()).prop_map(|(frames, edits)| edited(&frames.concat(), edits));
    let bytes = prop_oneof![4 => vec(frame(), 1..6).prop_map(|frames| frames.concat()), 4 => bytes, 1 => vec(any::<u8>(), 0..200)];
    let answers = ["taken", "1002", "1007", "1009"];
    fuzz("frame", (bytes, 1..50_usize), &answers, |(bytes, size)| {
        let whole = heard(&bytes, bytes.len().max(1));
        assert_eq!(heard(&bytes, size), whole, "the same, in whatever pieces it comes");
        for incoming in &whole.0 {
            match incoming {
                Incoming::Text(text) => assert!(text.len() <= MAX_INBOUND_BYTES),
                Incoming::Binary(bytes) => assert!(bytes.len() <= MAX_INBOUND_BYTES),
                Incoming::Ping(bytes) | Incoming::Pong(bytes) | Incoming::Close(bytes) => assert!(bytes.len() <= 125),
            }
        }
        match whole.1 {
            None => "taken",
            Some(1002) => "1002",
            Some(1007) => "1007",
            Some(1009) => "1009",
            Some(other) => panic!("{other} is for something else"),
        }
    });
}

#[test]
fn what_clients_ask() {
    let right = [
        r#"{"op":"ack","cursor":"AQAB"}"#,
        r#"{"op":"read","ids":["1",2]}"#,
        r#"{"op":"read","before":"9223372036854775807"}"#,
        r#"{"op":"auth","token":"abc"}"#,
        r#" {"op":7,"x":[1]}"#,
    ];
    let keys: &[&str] = &["op", "cursor", "ids", "before", "token"];
    let text = prop_oneof![
        4 => nearly(right.map(str::to_owned).to_vec()),
        2 => some_json(keys).prop_map(|value| value.to_string()),
        1 => (1..200_usize, select(&["[", "{\"op\":", "[{\"a\":"][..])).prop_map(|(depth, open)| open.repeat(depth * 20)),
        1 => any::<String>(),
    ];
    fuzz("asked", text, &["ids", "before", "ack", "auth", "unknown", "refused", "wrong"], |text| {
        let is_object = serde_json::from_str::<Value>(&text).is_ok_and(|value| value.is_object());
        match Asked::decode(&text) {
            None => "refused",
            Some(asked) => {
                assert!(is_object, "a frame is a JSON object");
                match asked {
                    Asked::Read(read) => match read.get().parse::<Read>() {
                        Ok(Read::Ids(ids)) => {
                            assert!((1..=Read::MAX_IDS).contains(&ids.len()) && ids.iter().all(|id| *id >= 0));
                            "ids"
                        }
                        Ok(Read::Before(id)) => {
                            assert_eq!(parse_id(&id.to_string()), Ok(id));
                            "before"
                        }
                        Err(_) => "wrong",
                    },
                    Asked::Ack(_) => "ack",
                    Asked::Auth(_) => "auth",
                    Asked::Unknown => "unknown",
                }
            }
        }
    });
}

#[test]
fn cursors_of_clients() {
    let user: UserId = "7".parse().unwrap();
    let at = |text: &str| Cursor::new("00c0ffee00c0ffee".parse().unwrap(), text.parse().unwrap());
    let mut rich = at("700:9999:700,701,5000");
    (rich.told, rich.sent) = (vec![1, 2, i64::MAX], Some((u64::MAX, 3)));
    rich.pages = Some(Box::new(("12:20:12,19".parse().unwrap(), 41)));
    let right = [at("3:3:").token(&user), at("1:9223372036854775807:1").token(&user), rich.token(&user)];
    let bytes =
        right.clone().map(|token| base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, token).unwrap());
    let text = prop_oneof![
        4 => (select(bytes.to_vec()), edits()).prop_map(|(bytes, edits)| encode(edited(&bytes, edits))),
        2 => nearly(right.to_vec()),
        1 => (vec(any::<u8>(), 0..80), select(bytes.to_vec())).prop_map(|(rest, head)| encode([&head[..13], &rest].concat())),
        1 => any::<String>(),
    ];
    fuzz("cursor", text, &["taken", "refused"], |text| {
        let Some(cursor) = Cursor::decode(&text, &user) else { return "refused" };
        assert_eq!(Cursor::decode(&cursor.token(&user), &user).as_ref(), Some(&cursor), "it comes back as it was");
        assert_eq!(Cursor::decode(&text, &"8".parse().unwrap()), None, "another user's");
        // What Postgres would refuse must not get there: the text of each position is one that we accept from Postgres.
        for position in std::iter::once(&cursor.position).chain(cursor.pages.as_deref().map(|pages| &pages.0)) {
            assert_eq!(&position.to_string().parse::<Position>().unwrap(), position);
        }
        "taken"
    });
}

/// Tokens that are nearly right: only those are taken that are just what was signed.
#[tokio::test]
async fn json_web_tokens() {
    const SECRET: &[u8] = b"a-secret-of-a-test-and-of-nothing-else-0123456789";
    let signers = [Signer::secret(SECRET), Signer::p256(), Signer::p384(), Signer::ed25519()];
    let keys = signers.iter().enumerate().map(|(n, signer)| signer.jwk(&n.to_string())).chain([RSA.jwk("rsa")]);
    let jwt = load_file("--jwks", json!({"keys": keys.collect::<Vec<_>>()}).to_string().as_bytes()).await;
    let good: Vec<Token> = signers
        .iter()
        .enumerate()
        .flat_map(|(n, signer)| [signer.sign(Some(&n.to_string()), &claims()), signer.sign(None, &claims())])
        .chain([RSA.sign(Some("rsa"), &claims())])
        .collect();
    for token in &good {
        assert!(jwt.verify(token).await.is_ok());
    }
    let texts: Vec<String> = good.iter().map(|token| token.as_str().to_owned()).collect();
    let parts: Vec<[String; 3]> =
        texts.iter().map(|text| text.split('.').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap()).collect();
    let keys: &[&str] =
        &["alg", "typ", "kid", "jwk", "jku", "crit", "x5c", "enc", "zip", "sub", "exp", "nbf", "iat", "aud", "iss"];
    let header = (select(ALGORITHMS.to_vec()), some_json(keys), any::<bool>()).prop_map(|(algorithm, other, keeps)| {
        let mut header = other;
        if let (Some(header), true) = (header.as_object_mut(), keeps) {
            header.insert("alg".to_owned(), algorithm.into());
        }
        encode(header.to_string())
    });
    let part = |n: usize| select(parts.iter().map(|parts| parts[n].clone()).collect::<Vec<_>>());
    let text = prop_oneof![
        4 => nearly(texts.clone()),
        // Parts of one with parts of another.
        2 => (part(0), part(1), part(2)).prop_map(|(a, b, c)| format!("{a}.{b}.{c}")),
        2 => (header, part(1), part(2)).prop_map(|(a, b, c)| format!("{a}.{b}.{c}")),
        2 => (part(0), some_json(keys), part(2)).prop_map(|(a, b, c)| format!("{a}.{}.{c}", encode(b.to_string()))),
        1 => "[A-Za-z0-9_.-]{0,200}",
    ];
    fuzz("jwt", text, &["taken", "refused"], |text| {
        let Some(token) = Token::new(&text) else { return "refused" };
        // A file's set of keys is read in another task, which does not run here: what would wait is not taken.
        match jwt.verify(&token).now_or_never() {
            Some(Ok(_)) => {
                assert!(texts.contains(&text), "not what was signed");
                "taken"
            }
            _ => "refused",
        }
    });
    // Whatever it says, once it is signed.
    let secret = Signer::secret(SECRET);
    let jwt = load_file("--jwt-secret-file", SECRET).await;
    let keys: &[&str] = &["sub", "user_id", "exp", "nbf", "iat", "aud", "iss", "token_type"];
    let soon = claims()["exp"].clone();
    let said = (some_json(keys), any::<bool>(), prop_oneof![Just(json!("7")), some_json(keys)]);
    fuzz("jwt claims", said, &["taken", "refused"], |(mut said, lasts, user)| {
        if let (Some(said), true) = (said.as_object_mut(), lasts) {
            said.insert("exp".to_owned(), soon.clone());
            said.insert("sub".to_owned(), user);
        }
        let token = secret.sign(None, &said);
        match jwt.verify(&token).now_or_never().expect("a fixed key is there") {
            Ok(grant) => {
                let id = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let named = ["sub", "user_id"].into_iter().map(|name| &said[name]).find(|value| !value.is_null());
                assert_eq!(grant.user.as_str(), id(named.expect("it says whose it is")));
                assert!(said["exp"].is_number() && said["aud"].is_null());
                "taken"
            }
            Err(_) => "refused",
        }
    });
}

/// A connection that asks again and again, and one more when it was closed.
struct Asker {
    service: std::net::SocketAddr,
    stream: Option<TcpStream>,
}

impl Asker {
    /// The status of the answer, and of a socket that opened the user that it was told to be.
    async fn ask(&mut self, request: &[u8]) -> (u16, Option<String>) {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => TcpStream::connect(self.service).await.unwrap(),
        };
        stream.write_all(request).await.unwrap();
        let mut bytes = Vec::new();
        let head = loop {
            if let Some(end) = bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            assert_ne!(stream.read_buf(&mut bytes).await.unwrap_or(0), 0, "no answer: whoever was to give it is gone");
        };
        let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
        let status: u16 = text.split(' ').nth(1).unwrap().parse().unwrap();
        let header =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
        if status == 101 {
            // The hello, or a close: one frame of the server's, which is not masked.
            let mut frame = bytes.split_off(head);
            let length = loop {
                match frame.as_slice() {
                    [_, 126, high, low, rest @ ..] if rest.len() >= usize::from(u16::from_be_bytes([*high, *low])) => {
                        break usize::from(u16::from_be_bytes([*high, *low]));
                    }
                    [0x88, _, ..] => return (400, None),
                    _ => assert_ne!(stream.read_buf(&mut frame).await.unwrap(), 0, "no hello"),
                }
            };
            let hello: Value = serde_json::from_slice(&frame[4..4 + length]).unwrap();
            // A reset: thousands of connections leave no port waiting.
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            return (status, Some(hello["user"].as_str().unwrap().to_owned()));
        }
        let length: usize = header("content-length:").map_or(0, |length| length.parse().unwrap());
        while bytes.len() < head + length {
            assert_ne!(stream.read_buf(&mut bytes).await.unwrap_or(0), 0, "half an answer");
        }
        if status != 400 && header("connection:").is_none_or(|value| value != "close") {
            self.stream = Some(stream);
        }
        (status, None)
    }
}

/// Asks a service for a socket with what a strategy makes of the request. `meant` is who it must then be for.
async fn ask_for_sockets<S>(
    target: &'static str,
    strategy: S,
    meant: impl Fn(&S::Value) -> Option<String> + Send + 'static,
) where
    S: Strategy<Value = (String, Vec<u8>)> + Send + 'static,
    S::Value: Debug,
{
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let asker = tokio::sync::Mutex::new(Asker { service: service.address, stream: None });
    let here = Handle::current();
    let done = tokio::task::spawn_blocking(move || {
        fuzz(target, strategy, &["socket", "refused"], |(target, headers)| {
            let mut request = format!(
                "GET {target} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            )
            .into_bytes();
            request.extend_from_slice(&headers);
            request.extend_from_slice(b"\r\n");
            let (status, user) = here.block_on(async {
                tokio::time::timeout(LIMIT, async { asker.lock().await.ask(&request).await }).await.expect("an answer")
            });
            if let Some(user) = user {
                assert_eq!(Some(user), meant(&(target, headers)), "whose socket it is");
                return "socket";
            }
            assert!((400..500).contains(&status), "{status}");
            "refused"
        });
    });
    done.await.unwrap();
    assert!(service.is_ready().await);
    service.stop().await;
}

/// Who a path names: one segment, percent-decoded.
fn named(target: &str) -> Option<String> {
    let path = target.split(['?', '#']).next()?.strip_prefix("/ws/notifications/")?;
    let segment = path.strip_suffix('/').unwrap_or(path);
    percent_decode_str(segment).decode_utf8().ok().map(|user| user.into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_and_queries() {
    let safe = |text: String| text.bytes().all(|byte| byte.is_ascii_graphic()).then_some(text);
    let right = [
        "/ws/notifications/7/",
        "/ws/notifications/j%C3%B6rg%40example.com",
        "/ws/notifications/me/?after=",
        "/ws/notifications/7/?after=AQAB&after=x&device=%ff",
        "/api/notifications?limit=5&before=7&unread=true",
    ];
    let segment = "(%[0-9a-fA-F]{2}|[a-zA-Z0-9.~!$&'()*+,;=:@_-]|%|\"|<|\\{){0,40}";
    let target = prop_oneof![
        4 => nearly(right.map(str::to_owned).to_vec()),
        3 => (segment, segment).prop_map(|(path, query)| format!("/ws/notifications/{path}/?{query}")),
        1 => (segment, segment).prop_map(|(path, query)| format!("/ws/notifications/{path}?after={query}")),
        1 => (segment, segment).prop_map(|(path, query)| format!("/{path}?{query}")),
    ];
    let target = target.prop_filter_map("a request line has other characters", safe);
    let strategy =
        target.prop_filter("whoever begins otherwise asks for something else", |target| target.starts_with('/'));
    let strategy = strategy.prop_map(|target| (target, Vec::new()));
    ask_for_sockets("url", strategy, |(target, _)| named(target)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_a_request() {
    let name = select(
        &[
            "Cookie",
            "Authorization",
            "Sec-WebSocket-Protocol",
            "Origin",
            "X-Forwarded-For",
            "Forwarded",
            "X-Real-IP",
            "Sec-WebSocket-Extensions",
            "Accept-Language",
            "Content-Type",
        ][..],
    );
    let right = [
        "notifier_device=0123456789abcdef0123456789abcdef; a=b",
        "Bearer 7",
        "Bearer 8",
        "notifier.v1, notifier.bearer.Nw",
        "https://example.com",
        "127.0.0.1, ::1",
        "for=\"[::1]:80\";proto=https, for=_x",
        "null",
        "permessage-deflate",
    ];
    // What HTTP allows in a value: no control characters but the tab.
    let value = (select(right.to_vec()), edits(), prop::option::of(vec(any::<u8>(), 0..60))).prop_map(
        |(right, edits, random)| {
            let mut value = random.unwrap_or_else(|| edited(right.as_bytes(), edits));
            value.retain(|byte| *byte == b'\t' || (0x20..0x7f).contains(byte) || *byte >= 0x80);
            value
        },
    );
    let headers = vec((name, value), 0..6).prop_map(|headers| {
        let lines = headers.into_iter().map(|(name, value)| [name.as_bytes(), b": ", &value, b"\r\n"].concat());
        ("/ws/notifications/7/".to_owned(), lines.collect::<Vec<_>>().concat())
    });
    ask_for_sockets("headers", headers, |_| Some("7".to_owned())).await;
}
