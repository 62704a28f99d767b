//! The web side: the routes, and the accept loop they are served by.

mod api;
pub mod demo;
mod ops;
mod upgrade;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use warp::http::{HeaderValue, StatusCode, header};
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use crate::auth::{Auth, Refusal};
use crate::listener::Readiness;
use crate::session;
use crate::store::Store;

/// How long a request's head may take, the pause before it included: silent and half-open connections end here.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// How large a request's head may be, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

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
    let own = upgrade::route(context.clone()).or(ops::routes(context.clone())).unify();
    let own = own.or(api::routes(context)).unify();
    // Chosen at run time, one type either way: without a demo its routes reject everything.
    own.or(demo::routes(demo)).unify().recover(recover).unify()
}

/// Accepts connections until the context's stop comes.
pub async fn serve(listener: TcpListener, context: Arc<Context>, demo: Option<Arc<demo::Demo>>) {
    let service = warp::service(routes(context.clone(), demo));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = context.stop.cancelled() => return context.session.registry.stop(),
        };
        match accepted {
            Ok((stream, _)) => {
                let service = TowerToHyperService::new(service.clone());
                context.tasks.spawn(connection(stream, service, context.stop.clone()));
            }
            // Out of file descriptors, most likely: those that end give some back.
            Err(error) if error.kind() != io::ErrorKind::ConnectionAborted => {
                warn!(%error, "accepting a connection failed");
                sleep(Duration::from_millis(100)).await;
            }
            Err(_) => {}
        }
    }
}

async fn connection<S>(stream: TcpStream, service: S, stop: CancellationToken)
where
    S: hyper::service::Service<hyper::Request<hyper::body::Incoming>, Error = Infallible> + Send,
    S::Future: Send + 'static,
    S::Response: Into<Response>,
{
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |request| {
        let answer = service.call(request);
        async move { answer.await.map(Into::into) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection ended");
    }
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
fn refused(refusal: &Refusal) -> Response {
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
