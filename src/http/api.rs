//! The REST inbox under `/api`: what a user was told, page by page, how much of it is unread, and marking it as read. It answers
//! what docs/openapi.json says; `OPERATIONS` and that file name the same.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, TryStreamExt};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::timeout;
use tracing::warn;
use warp::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use warp::path::FullPath;
use warp::reply::Response;
use warp::{Buf, Filter, Rejection, Reply};

use super::address::Visitor;
use super::limits;
use super::{Context, problem};
use crate::auth::{Identity, Query as Credentials, Refusal};
use crate::protocol::{Level, Read, UserId, parse_id};
use crate::store::{Entry, InboxPage};

const DESCRIPTION: &str = include_str!("../../docs/openapi.json");

/// The largest body, in bytes: a thousand ids of 19 digits take a third of it.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(5);
/// How long a request may wait for the database: for a connection, for locks, for its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How many notifications a page may have, and has when nobody says.
const PAGE_LIMIT: i32 = 200;
const PAGE_DEFAULT: i32 = 50;

#[derive(Clone, Copy)]
enum Operation {
    List,
    CountUnread,
    MarkRead,
    Ticket,
    Describe,
}

const OPERATIONS: [(Method, &str, Operation); 5] = [
    (Method::GET, "/api/notifications", Operation::List),
    (Method::GET, "/api/notifications/unread-count", Operation::CountUnread),
    (Method::POST, "/api/notifications/read", Operation::MarkRead),
    (Method::POST, "/api/ws-ticket", Operation::Ticket),
    (Method::GET, "/api/openapi.json", Operation::Describe),
];

/// Why a request has no better answer.
struct Problem {
    status: StatusCode,
    detail: Cow<'static, str>,
}

type Answer = Result<Response, Problem>;

/// Everything under `/api`, with or without a slash at the end.
pub(super) fn routes(context: Arc<Context>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path("api")
        .and(warp::path::full())
        .and(warp::method())
        .and(warp::header::headers_cloned())
        .and(warp::query::<Vec<(String, String)>>())
        .and(warp::ext::get::<Visitor>())
        .and(warp::body::stream())
        .then(
            move |path: FullPath,
                  method: Method,
                  headers: HeaderMap,
                  query: Vec<(String, String)>,
                  visitor: Visitor,
                  body| {
                let context = context.clone();
                async move {
                    let path = path.as_str().strip_suffix('/').unwrap_or(path.as_str());
                    let there = || OPERATIONS.iter().filter(|(_, at, _)| *at == path);
                    let response = match there().find(|(with, _, _)| *with == method) {
                        Some((_, _, operation)) => {
                            finish(operate(&context, *operation, visitor, &method, &headers, &query, body).await)
                        }
                        None if method == Method::OPTIONS && there().next().is_some() => {
                            StatusCode::NO_CONTENT.into_response()
                        }
                        None => nothing_there(there().map(|(with, _, _)| with.as_str()).collect()),
                    };
                    share(response, &context, &headers)
                }
            },
        )
}

/// Lets pages of the origins that the operator named read the answer, and ask with credentials.
fn share(mut response: Response, context: &Context, headers: &HeaderMap) -> Response {
    let to = response.headers_mut();
    to.append(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = headers.get(header::ORIGIN).filter(|origin| context.auth.carriers().allows(origin)) {
        to.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        to.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        to.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        to.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, content-type"));
        to.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
    response
}

/// 405 where the path knows other methods, 404 where it knows none.
fn nothing_there(allowed: Vec<&str>) -> Response {
    if allowed.is_empty() {
        return problem(
            StatusCode::NOT_FOUND,
            "there is nothing at this path; /api/openapi.json describes what there is",
        );
    }
    let allowed = allowed.join(", ");
    let mut response =
        problem(StatusCode::METHOD_NOT_ALLOWED, &format!("this path does not know that method, but {allowed}"));
    response.headers_mut().extend(HeaderValue::from_str(&allowed).ok().map(|allowed| (header::ALLOW, allowed)));
    response
}

async fn operate(
    context: &Context,
    operation: Operation,
    visitor: Visitor,
    method: &Method,
    headers: &HeaderMap,
    query: &[(String, String)],
    body: impl Stream<Item = Result<impl Buf, warp::Error>>,
) -> Answer {
    // What is under way counts as well: however many somebody asks about at once, there is room for others' questions.
    if !matches!(operation, Operation::Describe)
        && let Err(full) = context.limits.knock(visitor.address)
    {
        return Ok(limits::refuse(context, visitor.address, headers, full));
    }
    let identity = async {
        let refused = |Refusal { status, detail, reason }| {
            context.session.metrics.refused(reason);
            Problem { status, detail }
        };
        let identity = context.auth.identify_request(method, headers, &Credentials::of_request(query)).await;
        let identity = identity.map_err(refused)?;
        context.limits.welcome(visitor.address);
        Ok(identity)
    };
    match operation {
        Operation::List => list(context, &identity.await?.user, query).await,
        Operation::CountUnread => count_unread(context, &identity.await?.user).await,
        Operation::MarkRead => mark_read(context, &identity.await?.user, headers, body).await,
        Operation::Ticket => ticket(context, &identity.await?).await,
        Operation::Describe => {
            Ok(warp::reply::with_header(DESCRIPTION, header::CONTENT_TYPE, "application/json").into_response())
        }
    }
}

fn finish(answer: Answer) -> Response {
    let mut response = answer.unwrap_or_else(|Problem { status, detail }| problem(status, &detail));
    // Somebody's own, and old at once.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn list(context: &Context, user: &UserId, query: &[(String, String)]) -> Answer {
    #[derive(Serialize)]
    struct Listing<'a> {
        notifications: Vec<Item<'a>>,
        next: Option<String>,
    }
    let Query { before, limit, unread } =
        Query::parse(query).map_err(|detail| Problem { status: StatusCode::BAD_REQUEST, detail: detail.into() })?;
    let InboxPage { entries, next } = ask(context, context.inbox.inbox(user, before, limit, unread)).await?;
    let listing =
        Listing { notifications: entries.iter().map(Item::new).collect(), next: next.map(|id| id.to_string()) };
    Ok(warp::reply::json(&listing).into_response())
}

async fn count_unread(context: &Context, user: &UserId) -> Answer {
    let counts = ask(context, context.inbox.unread(std::slice::from_ref(user))).await?;
    Ok(unread(counts.first().copied().unwrap_or(0)))
}

async fn mark_read(
    context: &Context,
    user: &UserId,
    headers: &HeaderMap,
    body: impl Stream<Item = Result<impl Buf, warp::Error>>,
) -> Answer {
    let body = read_body(headers, body).await?;
    let read: Read = body
        .parse()
        .map_err(|wrong| Problem { status: StatusCode::BAD_REQUEST, detail: format!("the body: {wrong}").into() })?;
    let marked = ask(context, context.inbox.mark_read(user, &read, None)).await?;
    if marked.held.is_empty() {
        Ok(unread(marked.unread))
    } else {
        // To call it done would be a lie that the next page tells: nobody has marked these, and perhaps nobody will.
        let detail =
            format!("{} of them are locked in the database; the others are marked, send it again", marked.held.len());
        Err(Problem { status: StatusCode::SERVICE_UNAVAILABLE, detail: detail.into() })
    }
}

async fn ticket(context: &Context, identity: &Identity) -> Answer {
    #[derive(Serialize)]
    struct Ticket {
        ticket: String,
        expires_in: f64,
    }
    let (ticket, expires_in) = ask(context, context.auth.issue_ticket(identity)).await?;
    Ok(warp::reply::json(&Ticket { ticket, expires_in }).into_response())
}

fn unread(unread: i32) -> Response {
    #[derive(Serialize)]
    struct Unread {
        unread: i32,
    }
    warp::reply::json(&Unread { unread }).into_response()
}

/// What the database answers, or 503.
async fn ask<T>(context: &Context, question: impl Future<Output = anyhow::Result<T>>) -> Result<T, Problem> {
    let error = match timeout(ANSWER_LIMIT, question).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => "timed out".to_owned(),
    };
    if let Some(times) = context.session.failures.again() {
        warn!(error, times, "requests to the inbox were not answered");
    }
    Err(Problem { status: StatusCode::SERVICE_UNAVAILABLE, detail: "the database does not answer, try again".into() })
}

/// A page that is asked for.
struct Query {
    before: Option<i64>,
    limit: i32,
    unread: bool,
}

impl Query {
    /// Keys that nobody knows are ignored, and a known one without a value is as good as a missing one.
    fn parse(pairs: &[(String, String)]) -> Result<Self, String> {
        let value = |key: &str| {
            let mut values = pairs.iter().filter(|(known, _)| known == key).map(|(_, value)| value.as_str());
            match (values.next(), values.next()) {
                (_, Some(_)) => Err(format!("`{key}` is given twice")),
                (value, None) => Ok(value.filter(|value| !value.is_empty())),
            }
        };
        let before = value("before")?.map(parse_id).transpose().map_err(|wrong| format!("`before`: {wrong}"))?;
        let limit = match value("limit")?.map(str::parse) {
            None => PAGE_DEFAULT,
            Some(Ok(limit)) if (1..=PAGE_LIMIT).contains(&limit) => limit,
            Some(_) => return Err(format!("`limit` is a number from 1 to {PAGE_LIMIT}")),
        };
        let unread = match value("unread")? {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err("`unread` is true or false".to_owned()),
        };
        Ok(Self { before, limit, unread })
    }
}

/// A notification in the inbox: the keys of its frame, and what has become of it.
#[derive(Serialize)]
struct Item<'a> {
    r#type: Level,
    message: &'a str,
    id: String,
    event: &'a str,
    data: &'a RawValue,
    created_at: &'a str,
    until: Option<&'a str>,
    delivered_at: Option<&'a str>,
    read_at: Option<&'a str>,
}

impl<'a> Item<'a> {
    fn new(Entry { notification, until, delivered_at, read_at }: &'a Entry) -> Self {
        Self {
            r#type: notification.level,
            message: &notification.message,
            id: notification.id.to_string(),
            event: &notification.event,
            data: &notification.data,
            created_at: &notification.created_at.text,
            until: until.as_deref(),
            delivered_at: delivered_at.as_deref(),
            read_at: read_at.as_deref(),
        }
    }
}

async fn read_body(
    headers: &HeaderMap,
    body: impl Stream<Item = Result<impl Buf, warp::Error>>,
) -> Result<String, Problem> {
    let refuse = |status, detail: &'static str| Err(Problem { status, detail: detail.into() });
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    // No form of another site can send this type: it would ask first.
    let kind = text(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send JSON, with `Content-Type: application/json`");
    }
    let too_large = || refuse(StatusCode::PAYLOAD_TOO_LARGE, "a body has at most 65536 bytes: send several requests");
    if text(header::CONTENT_LENGTH).parse().is_ok_and(|length: u64| length > MAX_BODY_BYTES as u64) {
        return too_large();
    }
    let mut bytes = Vec::new();
    let mut body = std::pin::pin!(body);
    let whole = timeout(BODY_LIMIT, async {
        while let Some(mut part) = body.try_next().await? {
            while part.has_remaining() && bytes.len() <= MAX_BODY_BYTES {
                let length = part.chunk().len();
                bytes.extend_from_slice(part.chunk());
                part.advance(length);
            }
            if bytes.len() > MAX_BODY_BYTES {
                break;
            }
        }
        Ok::<_, warp::Error>(())
    });
    match whole.await {
        Err(_) => refuse(StatusCode::REQUEST_TIMEOUT, "the body did not arrive within 5 s"),
        Ok(Err(_)) => refuse(StatusCode::BAD_REQUEST, "the body broke off"),
        Ok(Ok(())) if bytes.len() > MAX_BODY_BYTES => too_large(),
        Ok(Ok(())) => match String::from_utf8(bytes) {
            Ok(text) => Ok(text),
            Err(_) => refuse(StatusCode::BAD_REQUEST, "the body is not UTF-8"),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_served_under_api_is_described_and_the_other_way_round() {
        let description: serde_json::Value = serde_json::from_str(DESCRIPTION).unwrap();
        let mut described = BTreeSet::new();
        for (path, operations) in description["paths"].as_object().unwrap() {
            for method in operations.as_object().unwrap().keys().filter(|key| *key != "parameters") {
                described.insert((path.clone(), method.to_uppercase()));
            }
        }
        described.retain(|(path, _)| path.starts_with("/api/"));
        let served = OPERATIONS.iter().map(|(method, path, _)| ((*path).to_owned(), method.to_string()));
        assert_eq!(described, served.collect());
        let limit = &description["paths"]["/api/notifications"]["get"]["parameters"][1]["schema"];
        assert_eq!((&limit["maximum"], &limit["default"]), (&PAGE_LIMIT.into(), &PAGE_DEFAULT.into()));
        let ids = &description["components"]["schemas"]["ReadIds"]["properties"]["ids"];
        assert_eq!(ids["maxItems"], Read::MAX_IDS);
    }
}
