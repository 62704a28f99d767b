//! Wires the parts, spawns them, waits for them. The only place that does.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::auth::Auth;
use crate::catch_up::CatchUp;
use crate::config::ServeConfig;
use crate::confirmations::Confirmations;
use crate::http::address::Proxies;
use crate::http::demo::Demo;
use crate::http::limits::{Admission, allow_many_files};
use crate::http::tls::Tls;
use crate::listener::{Listener, Readiness};
use crate::metrics::Metrics;
use crate::registry::{Registry, Room};
use crate::relay::Relay;
use crate::scheduler::{self, Alarm};
use crate::seldom::Seldom;
use crate::store::{NoPrimary, Store};
use crate::{http, session};
use session::{Pace, Strikes};

/// How long sockets and connections may take to end. All in all a stop takes less than ten seconds.
const STOP_LIMIT: Duration = Duration::from_millis(8_500);
/// Pooled connections of the listener's reads and beats, the scheduler and the confirmations.
const PARTS_POOL: usize = 4;
/// Pooled connections of the REST inbox.
const INBOX_POOL: usize = 4;
/// Pooled connections that credentials are looked at through: whoever knocks delays nobody who is in.
const AUTH_POOL: usize = 4;
/// Connections that the listener, the relay and the search for a primary keep to themselves.
const OWN_CONNECTIONS: usize = 4;
/// How long the last confirmations may take.
const NOTE_LIMIT: Duration = Duration::from_secs(1);

/// Serves until `stop`, then closes all sockets and returns. The caller brings the database's address, the bound listener and,
/// for the demo, its page. Never changes the schema.
///
/// # Errors
/// At the start only: the certificate cannot be read, the database cannot be reached, or its schema is not one this binary works
/// with. Where only standbys can be reached, and later in any case, the service waits for the database as long as it takes.
pub async fn run(
    config: ServeConfig,
    listener: TcpListener,
    demo: Option<Demo>,
    stop: CancellationToken,
) -> Result<()> {
    let tls = match (config.door.tls_cert, config.door.tls_key) {
        (Some(certificate), Some(key)) => Some(Arc::new(Tls::load(certificate, key)?)),
        _ => None,
    };
    // Catch-ups have connections of their own: however many sockets come back at once, the parts that serve them all go on. So has
    // the inbox: however much history is read, sockets open.
    let sizes = [("parts", PARTS_POOL), ("catch_up", config.pool_size), ("inbox", INBOX_POOL), ("auth", AUTH_POOL)];
    let [store, catch_up_store, inbox, auth_store] = Store::several(&config.database.database_url, sizes)?;
    let metrics = Arc::new(Metrics::new());
    let limits = config.limits;
    let room = Room { frames: limits.max_queued_frames as usize, bytes: limits.max_queued_bytes as usize };
    let registry = Arc::new(Registry::new(metrics.frames.clone(), room));
    let auth = Arc::new(Auth::new(&config.auth, auth_store, registry.clone()).await?);
    let sought = tokio::select! {
        sought = store.seek() => sought,
        () = stop.cancelled() => return Ok(()),
    };
    match sought {
        Ok(_) => auth.prepare().await?,
        // One of them is promoted some day. Until then sockets wait, and /readyz says what for.
        Err(error) if error.downcast_ref().is_some_and(NoPrimary::is_standby) => {
            warn!(error = format!("{error:#}"), "waiting for a primary");
        }
        Err(error) => return Err(error),
    }
    let confirmations = Arc::new(Confirmations::new());
    let catch_up = Arc::new(CatchUp::new(registry.clone(), metrics.clone(), config.replay_window, config.replay_limit));
    let (readiness_tx, readiness) = watch::channel(Readiness::NotReady("starting".to_owned()));
    let alarm = Alarm::new();
    let (parts, sockets) = (TaskTracker::new(), TaskTracker::new());
    // Sockets stop first, and the parts that serve them when they are gone.
    let stop_parts = CancellationToken::new();

    parts.spawn(
        Listener {
            store: store.clone(),
            registry: registry.clone(),
            catch_up: catch_up.clone(),
            readiness: readiness_tx,
            alarm: alarm.clone(),
            metrics: metrics.clone(),
        }
        .run(stop_parts.clone()),
    );
    parts.spawn(
        Relay {
            store: store.clone(),
            registry: registry.clone(),
            readiness: readiness.clone(),
            metrics: metrics.clone(),
        }
        .run(stop_parts.clone()),
    );
    parts.spawn(scheduler::run(store.clone(), config.retention, alarm, stop_parts.clone()));
    parts.spawn(catch_up.clone().run(catch_up_store, config.pool_size, stop_parts.clone()));
    let resting = registry.clone();
    parts.spawn(stop_parts.clone().run_until_cancelled_owned(async move { resting.call().await }));
    let credentials = auth.clone();
    parts.spawn(stop_parts.clone().run_until_cancelled_owned(async move { credentials.serve().await }));
    parts.spawn(confirmations.clone().run(store.clone(), metrics.clone(), stop_parts.clone()));

    let connections = PARTS_POOL + config.pool_size + INBOX_POOL + AUTH_POOL + OWN_CONNECTIONS;
    let address = listener.local_addr().context("the address of the listener")?;
    let context = Arc::new(http::Context {
        session: Arc::new(session::Context {
            registry,
            catch_up,
            confirmations,
            inbox: inbox.clone(),
            strikes: Strikes::default(),
            auth: auth.clone(),
            pace: Pace::new(limits.max_messages_per_second, limits.message_burst),
            metrics,
            failures: Seldom::default(),
        }),
        inbox,
        auth,
        max_message_bytes: limits.max_message_bytes as usize,
        head_time: limits.head_time,
        max_head_bytes: limits.max_head_bytes,
        handshake_time: limits.handshake_time,
        limits: Admission::new(limits, allow_many_files(), connections as u64),
        proxies: Proxies::new(config.door.client_address, &config.door.trusted_proxy),
        tls,
        readiness,
        tasks: sockets.clone(),
        stop: stop.clone(),
    });
    info!(%address, "serving");
    http::serve(listener, context, demo.map(Arc::new)).await;

    info!(tasks = sockets.len(), "stopping");
    sockets.close();
    if timeout(STOP_LIMIT, sockets.wait()).await.is_err() {
        warn!(tasks = sockets.len(), "left behind");
    }
    stop_parts.cancel();
    parts.close();
    if timeout(NOTE_LIMIT, parts.wait()).await.is_err() {
        warn!("the last confirmations were not noted: those notifications will be sent once more");
    }
    info!("stopped");
    Ok(())
}
