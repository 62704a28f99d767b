//! For operators: `/healthz`, `/readyz`, `/metrics`.

use std::sync::Arc;

use warp::http::{StatusCode, header};
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use super::{Context, problem};
use crate::listener::Readiness;

pub(super) fn routes(context: Arc<Context>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    let metrics = context.session.metrics.clone();
    let healthz = warp::path!("healthz").and(warp::get()).map(|| "alive\n".into_response());
    let readyz = warp::path!("readyz").and(warp::get()).map(move || match &*context.readiness.borrow() {
        Readiness::Ready => "listening\n".into_response(),
        Readiness::NotReady(why) => problem(StatusCode::SERVICE_UNAVAILABLE, why),
    });
    let metrics = warp::path!("metrics").and(warp::get()).map(move || {
        let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        warp::reply::with_header(metrics.encode(), header::CONTENT_TYPE, content_type).into_response()
    });
    healthz.or(readyz).unify().or(metrics).unify()
}
