//! `GET /ws/notifications/{user_id}/` and `/ws/notifications/me/`: from a request to a session.
//!
//! The upgrade is done here and not by `warp::ws()`, which gives each socket a read buffer of 128 KiB.

use std::sync::Arc;

use futures_util::FutureExt;
use headers::{Connection as ConnectionHeader, Cookie, HeaderMapExt, SecWebsocketAccept, SecWebsocketKey};
use hyper::upgrade::{OnUpgrade, Parts};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tracing::debug;
use warp::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use super::address::Visitor;
use super::limits::{self, Full, Seat};
use super::{Context, problem, refused};
use crate::auth::{Identity, Invalid, Query, subprotocols};
use crate::metrics::{Code, Reason};
use crate::protocol::{BEARER_SUBPROTOCOL, CloseCode, Cursor, SUBPROTOCOL, UserId};
use crate::session::{self, After, Client, Connection, Dialect, Wire};

/// The cookie that tells a user's devices apart.
const DEVICE_COOKIE: &str = "notifier_device";
/// How long a browser keeps it, in seconds: as long as browsers keep any.
const DEVICE_COOKIE_AGE: u32 = 400 * 86_400;

pub(super) fn route(context: Arc<Context>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path!("ws" / "notifications" / String)
        .and(warp::get())
        .and(warp::query::<Query>())
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Visitor>())
        .and(warp::ext::optional::<OnUpgrade>())
        .then(move |path: String, query: Query, headers: HeaderMap, visitor, upgrade| {
            let context = context.clone();
            let tasks = context.tasks.clone();
            let mut answering =
                Box::pin(async move { answer(&context, &path, query, &headers, visitor, upgrade).await });
            async move {
                // Most credentials are looked at without asking anybody.
                if let Some(answered) = answering.as_mut().now_or_never() {
                    return answered;
                }
                // In a task of its own: a client that goes away while its credential is looked at has its seat until that is done,
                // and so asks for no more meanwhile than it may.
                let answered = tasks.spawn(answering).await;
                answered.unwrap_or_else(|_| problem(StatusCode::INTERNAL_SERVER_ERROR, "something here does not work"))
            }
        })
}

/// Who comes in, or what they are told instead.
enum Entry {
    Client(Client),
    /// Keeps cursors, and is to say within a moment who it is; the path names somebody or not.
    Stranger {
        named: Option<UserId>,
        after: Option<String>,
    },
    Refused(CloseCode),
}

async fn answer(
    context: &Arc<Context>,
    path: &str,
    query: Query,
    headers: &HeaderMap,
    visitor: Visitor,
    upgrade: Option<OnUpgrade>,
) -> Response {
    let named = match path {
        "me" => None,
        _ => match decode_user(path) {
            Some(user) => Some(user),
            None => return problem(StatusCode::NOT_FOUND, "the path names no user"),
        },
    };
    let wants = headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && headers.typed_get::<ConnectionHeader>().is_some_and(|options| options.contains("upgrade"));
    let version = headers.get(header::SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes);
    let key = headers.typed_get::<SecWebsocketKey>();
    let (Some(upgrade), Some(key), true, Some(b"13")) = (upgrade, key, wants, version) else {
        return upgrade_required();
    };
    // Before the credential is looked at, which costs more than to refuse.
    let mut seat = match context.limits.seat(visitor.address) {
        Ok(seat) => seat,
        Err(full) => return limits::refuse(context, visitor.address, headers, full),
    };
    let keeps_cursors = subprotocols(headers).any(|offer| offer == SUBPROTOCOL);
    let identity = context.auth.identify(&Method::GET, headers, &query, named.as_ref()).await;
    // Whoever speaks the protocol learns by a close code what a page cannot see of an HTTP status.
    let identity = match identity {
        Ok(Some(identity)) => match claim(context, &mut seat, &identity) {
            Ok(()) => Ok(Some(identity)),
            Err(_) if keeps_cursors => Err(CloseCode::TooMany),
            Err(full) => return limits::answer(full),
        },
        Ok(None) if keeps_cursors && !context.auth.trusts_the_path() => Ok(None),
        Ok(None) => return refused(context, &context.auth.nobody()),
        Err(refusal) => match refusal.close_code() {
            Some(code) if keeps_cursors => {
                context.session.metrics.refused(refusal.reason);
                Err(code)
            }
            _ => return refused(context, &refusal),
        },
    };

    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let entry = if keeps_cursors {
        // Without it in the answer a browser ends the connection.
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        match identity {
            Ok(Some(identity)) => Entry::Client(keeping_cursors(identity, query.after)),
            Ok(None) => Entry::Stranger { named, after: query.after },
            Err(code) => Entry::Refused(code),
        }
    } else {
        let Ok(Some(identity)) = identity else { return refused(context, &context.auth.nobody()) };
        // A client that offers nothing else wants its token back, by the same rule.
        let bearer = subprotocols(headers).find(|offer| offer.starts_with(BEARER_SUBPROTOCOL));
        let bearer = bearer.and_then(|offer| HeaderValue::from_str(offer).ok());
        response.headers_mut().extend(bearer.map(|offer| (header::SEC_WEBSOCKET_PROTOCOL, offer)));
        let known = device(headers);
        let returning = known.is_some();
        // Tells apart devices of one user and opens nothing, so it may be guessed.
        let device = known.unwrap_or_else(|| format!("{:032x}", fastrand::u128(..)).into());
        response
            .headers_mut()
            .extend(device_cookie(&device, visitor.secure).map(|cookie| (header::SET_COOKIE, cookie)));
        Entry::Client(Client { identity, dialect: Dialect::Plain { device, returning } })
    };
    context.tasks.spawn(start(context.clone(), upgrade, entry, seat));
    response.headers_mut().typed_insert(headers::Connection::upgrade());
    response.headers_mut().typed_insert(headers::Upgrade::websocket());
    response.headers_mut().typed_insert(SecWebsocketAccept::from(key));
    response
}

/// What a request is told that asks for no WebSocket, or for one of another version.
fn upgrade_required() -> Response {
    let mut response =
        problem(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket: connect with `new WebSocket(...)`, version 13");
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}

fn keeping_cursors(identity: Identity, after: Option<String>) -> Client {
    let after = match after.as_deref() {
        None | Some("") => After::Nothing,
        Some(text) => {
            Cursor::decode(text, &identity.user).map_or(After::Unknown, |cursor| After::Cursor(Box::new(cursor)))
        }
    };
    Client { identity, dialect: Dialect::Cursors(after) }
}

fn decode_user(path: &str) -> Option<UserId> {
    percent_decode_str(path).decode_utf8().ok()?.parse().ok()
}

/// The device that the client's cookie names, in the form we give it.
fn device(headers: &HeaderMap) -> Option<Arc<str>> {
    let cookies = headers.typed_get::<Cookie>()?;
    let device = cookies.get(DEVICE_COOKIE)?;
    let ours = device.len() == 32 && device.bytes().all(|byte| byte.is_ascii_hexdigit());
    ours.then(|| device.into())
}

/// What a browser keeps a device by. Without TLS it has to work as well.
fn device_cookie(device: &str, secure: bool) -> Option<HeaderValue> {
    let secure = if secure { "; Secure" } else { "" };
    let cookie = format!(
        "{DEVICE_COOKIE}={device}; Path=/ws/notifications; Max-Age={DEVICE_COOKIE_AGE}; HttpOnly; SameSite=Lax{secure}"
    );
    cookie.parse().ok()
}

/// Waits for the connection and starts its session, in a task of its own: this one's memory, the size of a handshake, goes.
async fn start(context: Arc<Context>, upgrade: OnUpgrade, entry: Entry, seat: Seat) {
    let upgraded = match timeout(context.handshake_time, upgrade).await {
        Ok(Ok(upgraded)) => upgraded,
        Ok(Err(error)) => return debug!(%error, "upgrade failed"),
        Err(_) => return debug!("upgrade timed out"),
    };
    match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => open(context, parts, entry, seat).await,
        Err(upgraded) => match upgraded.downcast::<TokioIo<TlsStream<TcpStream>>>() {
            Ok(parts) => Box::pin(open(context, parts, entry, seat)).await,
            Err(_) => debug!("upgrade of a connection that is not ours"),
        },
    }
}

async fn open<S>(context: Arc<Context>, parts: Parts<TokioIo<S>>, entry: Entry, mut seat: Seat)
where
    S: Connection + Send + 'static,
{
    // Even empty, hyper's buffer of 10 KiB must not live on.
    let mut wire = Wire::new(parts.io.into_inner(), &parts.read_buf, context.max_message_bytes);
    drop(parts.read_buf);
    let client = match entry {
        Entry::Client(client) => client,
        Entry::Refused(code) => return turn_away(&context, wire, code).await,
        Entry::Stranger { named, after } => match introduce(&context, &mut wire, &mut seat, named).await {
            Ok(identity) => keeping_cursors(identity, after),
            Err(Some(code)) => return turn_away(&context, wire, code).await,
            Err(None) => return,
        },
    };
    // Not in an async block around it, which would keep a second place for the session.
    context.tasks.spawn(session::run(wire, client, context.session.clone()).map(move |()| drop(seat)));
}

/// Hears from a socket that brought no credential whose it is.
async fn introduce<S: Connection>(
    context: &Context,
    wire: &mut Wire<S>,
    seat: &mut Seat,
    named: Option<UserId>,
) -> Result<Identity, Option<CloseCode>> {
    let metrics = &context.session.metrics;
    let said = tokio::select! {
        said = session::first_message(wire, context.session.pace) => said,
        () = context.stop.cancelled() => return Err(Some(CloseCode::Restarting)),
    };
    let token = said.inspect_err(|code| {
        if *code == Some(CloseCode::Unauthorized) {
            metrics.refused(Reason::Unauthorized);
        }
    })?;
    let identity = timeout(context.handshake_time, context.auth.introduce(&token, named.as_ref())).await;
    let identity = identity.unwrap_or_else(|_| Err(Invalid::Unknown.into())).map_err(|refusal| {
        metrics.refused(refusal.reason);
        Some(refusal.close_code().unwrap_or(CloseCode::Internal))
    })?;
    claim(context, seat, &identity).map_err(|_| Some(CloseCode::TooMany))?;
    Ok(identity)
}

/// Takes the seat for whose credential it is: staff who look on take none of the user's.
fn claim(context: &Context, seat: &mut Seat, identity: &Identity) -> Result<(), Full> {
    let claimed = seat.claim_user(identity.staff.as_ref().unwrap_or(&identity.user));
    claimed.inspect_err(|full| context.session.metrics.refused(full.reason()))
}

/// Closes a socket before it has a session.
async fn turn_away<S: Connection>(context: &Context, mut wire: Wire<S>, code: CloseCode) {
    context.session.metrics.closes.get_or_create(&Code { code: code.number() }).inc();
    wire.close(Some(code)).await;
}
