//! The web side: the routes, and the accept loop they are served by.

mod accept;
pub mod address;
mod api;
pub mod demo;
pub mod limits;
mod ops;
pub mod tls;
mod upgrade;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

pub use accept::serve;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warp::http::{HeaderValue, StatusCode, header};
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use crate::auth::{Auth, Refusal};
use crate::listener::Readiness;
use crate::session;
use crate::store::Store;

/// What the routes work with.
pub struct Context {
    /// What each socket works with.
    pub session: Arc<session::Context>,
    /// The database, for what is asked over HTTP: connections of its own, so that no reader of an inbox delays a socket.
    pub inbox: Store,
    /// What credentials are worth.
    pub auth: Arc<Auth>,
    /// How large a message of a client may be, in bytes.
    pub max_message_bytes: usize,
    /// How many may come, and how quickly.
    pub limits: limits::Admission,
    /// The proxies before this service.
    pub proxies: address::Proxies,
    /// The certificate, where TLS ends here.
    pub tls: Option<Arc<tls::Tls>>,
    /// How long a request's head may take, the pause before it included, but for a fifth of this that is left to a connection's
    /// first: silent and half-open connections end here.
    pub head_time: Duration,
    /// How large a request's head may be, in bytes.
    pub max_head_bytes: usize,
    /// How long TLS may take to begin, and then the connection from the answer 101 to bytes of its own.
    pub handshake_time: Duration,
    /// Whether the listener listens.
    pub readiness: watch::Receiver<Readiness>,
    /// Who is waited for at the end: connections and sockets are spawned here.
    pub tasks: TaskTracker,
    /// When it comes, connections finish and sockets close.
    pub stop: CancellationToken,
}

/// All routes. An unknown path is 404, a known one with another method 405, both as `application/problem+json`.
pub fn routes(
    context: Arc<Context>,
    demo: Option<Arc<demo::Demo>>,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone {
    // In boxes, all but the first: each connection is given the room of the largest, and what the inbox takes is 22 KiB.
    let own = upgrade::route(context.clone()).or(ops::routes(context.clone()).boxed()).unify();
    let own = own.or(api::routes(context).boxed()).unify();
    // Chosen at run time, one type either way: without a demo its routes reject everything.
    own.or(demo::routes(demo).boxed()).unify().recover(recover).unify()
}

/// An error as RFC 9457 has it.
fn problem(status: StatusCode, detail: &str) -> Response {
    #[derive(Serialize)]
    struct Problem<'a> {
        title: &'a str,
        status: u16,
        detail: &'a str,
    }
    let title = status.canonical_reason().unwrap_or_default();
    let reply = warp::reply::json(&Problem { title, status: status.as_u16(), detail });
    let mut response = warp::reply::with_status(reply, status).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    match status {
        StatusCode::UNAUTHORIZED => {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        _ => {}
    }
    response
}

/// Why somebody may not connect, as an answer.
fn refused(context: &Context, refusal: &Refusal) -> Response {
    context.session.metrics.refused(refusal.reason);
    problem(refusal.status, &refusal.detail)
}

async fn recover(rejection: Rejection) -> Result<Response, Infallible> {
    Ok(if rejection.is_not_found() {
        problem(StatusCode::NOT_FOUND, "there is nothing at this path")
    } else if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        problem(StatusCode::METHOD_NOT_ALLOWED, "this path does not know that method")
    } else {
        problem(StatusCode::BAD_REQUEST, "the request is malformed")
    })
}
