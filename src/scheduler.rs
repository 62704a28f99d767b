//! Sleeps until the service has work (the next due timer above all), does it, and sleeps again.
//!
//! Any number of instances wake at the same time; the database gives each piece of work to one of them.

use std::time::Duration;

use futures_util::future::OptionFuture;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::store::Store;

/// When the scheduler wakes next. Whoever learns of earlier work sets it earlier; too early costs one question.
#[derive(Clone)]
pub struct Alarm(watch::Sender<Option<Instant>>);

impl Alarm {
    /// Goes off at once.
    #[allow(clippy::new_without_default, reason = "an alarm that is set is no default")]
    pub fn new() -> Self {
        Self(watch::Sender::new(Some(Instant::now())))
    }

    /// Goes off after a duration the database computed, unless it goes off before.
    pub fn earlier(&self, after: Duration) {
        let at = Instant::now() + after;
        self.0.send_if_modified(|alarm| {
            let earlier = alarm.is_none_or(|set| at < set);
            if earlier {
                *alarm = Some(at);
            }
            earlier
        });
    }
}

/// Does the service's work until `stop`. A notification stays for `retention`.
pub async fn run(store: Store, retention: Duration, alarm: Alarm, stop: CancellationToken) {
    let mut set = alarm.0.subscribe();
    loop {
        let at = *set.borrow_and_update();
        tokio::select! {
            Some(()) = OptionFuture::from(at.map(sleep_until)) => {}
            _ = set.changed() => continue,
            () = stop.cancelled() => return,
        }
        // Cleared before the work is done: what is set meanwhile stays set.
        alarm.0.send_replace(None);
        match store.work(retention).await {
            Ok(Some(next)) => alarm.earlier(next),
            Ok(None) => {}
            Err(error) => {
                warn!(error = format!("{error:#}"), "work failed, trying again");
                alarm.earlier(Duration::from_secs(1).mul_f64(0.5 + fastrand::f64()));
            }
        }
    }
}
