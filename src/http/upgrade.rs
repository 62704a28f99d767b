//! `GET /ws/notifications/{user_id}/` and `/ws/notifications/me/`: from a request to a session.
//!
//! The upgrade is done here and not by `warp::ws()`, which gives each socket a read buffer of 128 KiB.

use std::sync::Arc;
use std::time::Duration;

use headers::{HeaderMapExt, SecWebsocketAccept, SecWebsocketKey};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tracing::debug;
use warp::http::{HeaderMap, HeaderValue, StatusCode, header};
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use super::{Context, problem};
use crate::auth::Refusal;
use crate::protocol::UserId;
use crate::session;

/// How long the connection may take from the answer 101 to bytes of its own.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

pub(super) fn route(context: Arc<Context>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path!("ws" / "notifications" / String)
        .and(warp::get())
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional::<OnUpgrade>())
        .map(move |path: String, headers: HeaderMap, upgrade: Option<OnUpgrade>| {
            answer(&context, &path, &headers, upgrade)
        })
}

fn answer(context: &Arc<Context>, path: &str, headers: &HeaderMap, upgrade: Option<OnUpgrade>) -> Response {
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

    context.tasks.spawn(start(context.clone(), upgrade, user));
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    response.headers_mut().typed_insert(headers::Connection::upgrade());
    response.headers_mut().typed_insert(headers::Upgrade::websocket());
    response.headers_mut().typed_insert(SecWebsocketAccept::from(key));
    response
}

fn decode_user(path: &str) -> Option<UserId> {
    percent_decode_str(path).decode_utf8().ok()?.parse().ok()
}

/// Waits for the connection and starts its session, in a task of its own: this one's memory, the size of a handshake, goes.
async fn start(context: Arc<Context>, upgrade: OnUpgrade, user: UserId) {
    let upgraded = match timeout(HANDSHAKE_LIMIT, upgrade).await {
        Ok(Ok(upgraded)) => upgraded,
        Ok(Err(error)) => return debug!(%error, "upgrade failed"),
        Err(_) => return debug!("upgrade timed out"),
    };
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        return debug!("upgrade of a connection that is not ours");
    };
    let (stream, config) = (session::Metered::new(parts.io.into_inner()), Some(session::web_socket_config()));
    let socket = if parts.read_buf.is_empty() {
        // Even empty it holds on to hyper's buffer of 10 KiB.
        drop(parts.read_buf);
        WebSocketStream::from_raw_socket(stream, Role::Server, config).await
    } else {
        WebSocketStream::from_partially_read(stream, parts.read_buf.into(), Role::Server, config).await
    };
    context.tasks.spawn(session::run(socket, user, context.session.clone(), context.stop.clone()));
}
