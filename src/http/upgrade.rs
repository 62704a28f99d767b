//! `GET /ws/notifications/{user_id}/` and `/ws/notifications/me/`: from a request to a session.
//!
//! The upgrade is done here and not by `warp::ws()`, which gives each socket a read buffer of 128 KiB.

use std::sync::Arc;
use std::time::Duration;

use headers::{Cookie, HeaderMapExt, SecWebsocketAccept, SecWebsocketKey};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;
use warp::http::{HeaderMap, HeaderValue, StatusCode, header};
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use super::{Context, problem};
use crate::auth::Refusal;
use crate::protocol::{self, Cursor, UserId};
use crate::session::{self, After, Client, Dialect, Wire};

/// How long the connection may take from the answer 101 to bytes of its own.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// The cookie that tells a user's devices apart.
const DEVICE_COOKIE: &str = "notifier_device";
/// How long a browser keeps it, in seconds: as long as browsers keep any.
const DEVICE_COOKIE_AGE: u32 = 400 * 86_400;

pub(super) fn route(context: Arc<Context>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path!("ws" / "notifications" / String)
        .and(warp::get())
        .and(warp::query::<Query>())
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional::<OnUpgrade>())
        .map(move |path: String, query: Query, headers: HeaderMap, upgrade: Option<OnUpgrade>| {
            answer(&context, &path, query, &headers, upgrade)
        })
}

#[derive(serde::Deserialize)]
struct Query {
    /// The cursor of a client that keeps them.
    after: Option<String>,
}

fn answer(
    context: &Arc<Context>,
    path: &str,
    query: Query,
    headers: &HeaderMap,
    upgrade: Option<OnUpgrade>,
) -> Response {
    let named = match path {
        "me" => None,
        _ => match decode_user(path) {
            Some(user) => Some(user),
            None => return problem(StatusCode::NOT_FOUND, "the path names no user"),
        },
    };
    let wants = headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let version = headers.get(header::SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes);
    let key = headers.typed_get::<SecWebsocketKey>();
    let (Some(upgrade), Some(key), true, Some(b"13")) = (upgrade, key, wants, version) else {
        let mut response =
            problem(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket: connect with `new WebSocket(...)`, version 13");
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return response;
    };
    let user = match context.auth.identify(headers, named) {
        Ok(user) => user,
        Err(Refusal { status, detail }) => return problem(status, detail),
    };

    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let dialect = if offers_subprotocol(headers) {
        // Without it in the answer a browser ends the connection.
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol::SUBPROTOCOL));
        Dialect::Cursors(match query.after.as_deref() {
            None | Some("") => After::Nothing,
            Some(text) => Cursor::decode(text, &user).map_or(After::Unknown, |cursor| After::Cursor(Box::new(cursor))),
        })
    } else {
        let known = device(headers);
        let returning = known.is_some();
        // Tells apart devices of one user and opens nothing, so it may be guessed. Not `Secure`, since it has to work without TLS.
        let device = known.unwrap_or_else(|| format!("{:032x}", fastrand::u128(..)).into());
        let cookie = format!(
            "{DEVICE_COOKIE}={device}; Path=/ws/notifications; Max-Age={DEVICE_COOKIE_AGE}; HttpOnly; SameSite=Lax"
        );
        if let Ok(cookie) = cookie.parse() {
            response.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        Dialect::Plain { device, returning }
    };
    context.tasks.spawn(start(context.clone(), upgrade, Client { user, dialect }));
    response.headers_mut().typed_insert(headers::Connection::upgrade());
    response.headers_mut().typed_insert(headers::Upgrade::websocket());
    response.headers_mut().typed_insert(SecWebsocketAccept::from(key));
    response
}

fn decode_user(path: &str) -> Option<UserId> {
    percent_decode_str(path).decode_utf8().ok()?.parse().ok()
}

/// Whether the client asks to speak it; others it may offer as well.
fn offers_subprotocol(headers: &HeaderMap) -> bool {
    let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|value| value.to_str().ok());
    offers.flat_map(|value| value.split(',')).any(|offer| offer.trim() == protocol::SUBPROTOCOL)
}

/// The device that the client's cookie names, in the form we give it.
fn device(headers: &HeaderMap) -> Option<Arc<str>> {
    let cookies = headers.typed_get::<Cookie>()?;
    let device = cookies.get(DEVICE_COOKIE)?;
    let ours = device.len() == 32 && device.bytes().all(|byte| byte.is_ascii_hexdigit());
    ours.then(|| device.into())
}

/// Waits for the connection and starts its session, in a task of its own: this one's memory, the size of a handshake, goes.
async fn start(context: Arc<Context>, upgrade: OnUpgrade, client: Client) {
    let upgraded = match timeout(HANDSHAKE_LIMIT, upgrade).await {
        Ok(Ok(upgraded)) => upgraded,
        Ok(Err(error)) => return debug!(%error, "upgrade failed"),
        Err(_) => return debug!("upgrade timed out"),
    };
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        return debug!("upgrade of a connection that is not ours");
    };
    // Even empty, hyper's buffer of 10 KiB must not live on.
    let wire = Wire::new(parts.io.into_inner(), &parts.read_buf, protocol::MAX_INBOUND_BYTES);
    drop(parts.read_buf);
    context.tasks.spawn(session::run(wire, client, context.session.clone()));
}
