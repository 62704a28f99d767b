//! The demo's page and what its buttons do: they run the SQL that a parking application would run.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use warp::http::StatusCode;
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use super::problem;
use crate::protocol::Level;
use crate::store::{Store, Timer};

const PAGE: &str = include_str!("demo.html");
const ACTIONS: &str = include_str!("../../sql/parkmate/actions.sql");

/// A countdown is shown for timers that are due within so many seconds.
const COUNTDOWN_SECONDS: f64 = 120.0;

/// What the demo works with.
pub struct Demo {
    /// Connected as the parking application, which has no right in the schema `notifier`.
    application: Store,
    /// Connected as the service.
    service: Store,
    overview: Overview,
    actions: Vec<Action>,
}

#[derive(Serialize)]
struct Overview {
    people: [Person; 2],
    actions: Vec<Action>,
    psql: String,
}

#[derive(Serialize)]
struct Person {
    role: &'static str,
    user_id: &'static str,
    name: &'static str,
}

/// One button, as `sql/parkmate/actions.sql` has it.
#[derive(Clone, Serialize)]
struct Action {
    event: String,
    title: String,
    told: String,
    level: Level,
    timed: bool,
    sql: String,
    /// Puts the rows back to how they were before, so that the button works again; not shown.
    #[serde(skip)]
    before: String,
}

#[derive(Serialize)]
struct Done<'a> {
    event: &'a str,
    sql: &'a str,
    rows: u64,
    milliseconds: f64,
    due: Vec<Due>,
}

/// A timer for the page to count down; its frame names the same booking.
#[derive(Serialize)]
struct Due {
    event: String,
    booking_id: i64,
    in_seconds: f64,
}

impl Demo {
    /// Reads the actions. `psql` is the command that opens a prompt on the demo's database.
    ///
    /// # Errors
    /// `sql/parkmate/actions.sql` is not in the form its banner describes.
    pub fn new(application: Store, service: Store, psql: String) -> Result<Self> {
        let actions = parse_actions(ACTIONS)?;
        let people = [
            Person { role: "driver", user_id: "7", name: "Dora" },
            Person { role: "owner", user_id: "3", name: "Otto" },
        ];
        let overview = Overview { people, actions: actions.clone(), psql };
        Ok(Self { application, service, overview, actions })
    }

    async fn act(&self, event: &str) -> Response {
        let Some(action) = self.actions.iter().find(|action| action.event == event) else {
            return problem(StatusCode::NOT_FOUND, "there is no such action");
        };
        match self.run(action).await {
            Ok(done) => warp::reply::json(&done).into_response(),
            Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:#}")),
        }
    }

    async fn run<'a>(&self, action: &'a Action) -> Result<Done<'a>> {
        if !action.before.is_empty() {
            self.application.run_script(&action.before).await?;
        }
        let (last, _) = self.service.timers_after(None).await?;
        let started = Instant::now();
        let rows = self.application.run_script(&action.sql).await?;
        let milliseconds = (started.elapsed().as_secs_f64() * 1e4).round() / 10.0;
        let (_, armed) = self.service.timers_after(Some(last)).await?;
        let due = armed
            .into_iter()
            .filter(|timer| action.timed && (0.0..COUNTDOWN_SECONDS).contains(&timer.in_seconds))
            .map(|Timer { event, booking_id, in_seconds }| Due { event, booking_id, in_seconds })
            .collect();
        Ok(Done { event: &action.event, sql: &action.sql, rows, milliseconds, due })
    }
}

/// The demo's routes; without a demo they reject everything.
pub(super) fn routes(demo: Option<Arc<Demo>>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    let demo = warp::any().and_then(move || {
        let demo = demo.clone();
        async move { demo.ok_or_else(warp::reject::not_found) }
    });
    let page = warp::path::end().and(warp::get()).and(demo.clone()).map(|_| warp::reply::html(PAGE).into_response());
    let overview = warp::path!("demo" / "actions")
        .and(warp::get())
        .and(demo.clone())
        .map(|demo: Arc<Demo>| warp::reply::json(&demo.overview).into_response());
    let act = warp::path!("demo" / "actions" / String)
        .and(warp::post())
        .and(demo)
        .then(async |event: String, demo: Arc<Demo>| demo.act(&event).await);
    page.or(overview).unify().or(act).unify()
}

fn parse_actions(text: &str) -> Result<Vec<Action>> {
    text.split("\n-- action: ")
        .skip(1)
        .map(|section| parse_action(section).with_context(|| section.to_owned()))
        .collect()
}

fn parse_action(section: &str) -> Result<Action> {
    let (head, body) = section.split_once('\n').context("no line break after the head")?;
    let mut head = head.split(" | ").map(str::trim);
    let mut next = || head.next().context("event | title | told | level | timed or not");
    let (event, title, told, level, timed) = (next()?, next()?, next()?, next()?, next()?);
    let (before, sql) = match body.split_once("-- run") {
        Some((before, sql)) => (before.trim().trim_start_matches("-- before").trim(), sql.trim()),
        None => ("", body.trim()),
    };
    Ok(Action {
        event: event.into(),
        title: title.into(),
        told: told.into(),
        level: serde_json::from_value(level.into())?,
        timed: timed == "timed",
        sql: sql.into(),
        before: before.into(),
    })
}
