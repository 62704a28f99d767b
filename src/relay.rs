//! Leadership and the doorbell: one instance at a time holds the bell, and while it hangs, writers NOTIFY.
//!
//! The bell is latency only. Nobody holds it: writers run at full speed, and each instance finds the rows with its own reads.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::listener::Readiness;
use crate::metrics::Metrics;
use crate::store::Store;

/// How often the relay beats, and how often the others try to become it.
const INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
pub struct Relay {
    /// The database.
    pub store: Store,
    /// Whether this instance listens: it asks for nothing it cannot hear.
    pub readiness: watch::Receiver<Readiness>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

impl Relay {
    /// Is the relay, or waits to be, until `stop`. Its connection and with it the locks are gone when this returns.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let ended = tokio::select! {
                ended = self.lead() => ended,
                () = stop.cancelled() => return,
            };
            self.metrics.relay.set(0);
            if let Err(error) = ended {
                warn!(error = format!("{error:#}"), "not the relay");
            }
            tokio::select! {
                () = sleep(INTERVAL.mul_f64(0.5 + fastrand::f64())) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// One connection's life. It never listens and never inserts: a session that hangs in either would hold the locks.
    async fn lead(&mut self) -> Result<()> {
        // Through a pooler in transaction mode, which the listener finds out, the locks would stay in a session of the pool.
        self.readiness.wait_for(|readiness| *readiness == Readiness::Ready).await?;
        let mut link = self.store.link().await?;
        link.prepare_to_lead().await?;
        // When the listener connects anew, it may be to another server: so does this, then.
        while !link.lead().await? {
            sleep(INTERVAL).await;
            if self.readiness.has_changed()? {
                return Ok(());
            }
        }
        info!("this instance is the relay: writers announce what they commit");
        self.metrics.relay.set(1);
        // A relay that does not listen steps down: another one hears what it asks for.
        while !self.readiness.has_changed()? {
            // Also what keeps the session from being idle, and so the locks.
            link.beat("relay").await?;
            sleep(INTERVAL).await;
        }
        Ok(())
    }
}
