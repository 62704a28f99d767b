//! For operators: `/healthz`, `/readyz`, `/metrics`.

use std::sync::Arc;

use tokio::task::spawn_blocking;
use warp::http::{StatusCode, header};
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use super::{Context, problem};
use crate::listener::Readiness;
use crate::metrics::Pool;

/// What the text of `/metrics` is.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn routes(context: Arc<Context>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    let figures = context.clone();
    // Many monitors ask with HEAD. (hyper leaves the body out.)
    let asked = warp::get().or(warp::head()).unify();
    let healthz = warp::path!("healthz").and(asked).map(|| "alive\n".into_response());
    let readyz = warp::path!("readyz").and(asked).map(move || match &*context.readiness.borrow() {
        Readiness::Ready => "listening\n".into_response(),
        Readiness::NotReady(why) => problem(StatusCode::SERVICE_UNAVAILABLE, why),
    });
    let metrics = warp::path!("metrics").and(asked).then(move || {
        let figures = figures.clone();
        async move {
            // Not on a thread that serves sockets.
            match spawn_blocking(move || scrape(&figures)).await {
                Ok(text) => warp::reply::with_header(text, header::CONTENT_TYPE, OPEN_METRICS).into_response(),
                Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the figures are not to be had"),
            }
        }
    });
    healthz.or(readyz).unify().or(metrics).unify()
}

/// The figures, with those that nobody keeps up to date while nobody asks.
fn scrape(context: &Context) -> String {
    let (metrics, registry) = (&context.session.metrics, &context.session.registry);
    metrics.undelivered_age.set(registry.undelivered_age(|created| metrics.clock.age(created)));
    for (pool, status) in context.inbox.pools() {
        for (family, figure) in [
            (&metrics.pool_limit, status.max_size),
            (&metrics.pool_connections, status.size),
            (&metrics.pool_in_use, status.size.saturating_sub(status.available)),
            (&metrics.pool_waiting, status.waiting),
        ] {
            family.get_or_create(&Pool { pool }).set(figure as i64);
        }
    }
    metrics.encode()
}
