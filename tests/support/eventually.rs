//! Waiting for facts.

use std::time::Duration;

use tokio::time::{Instant, interval};

/// How long anything may take before the test fails. Nothing waits this long when all is well.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits until a fact holds, asking again and again; fails with its name after [`LIMIT`].
pub async fn eventually<F: Future<Output = bool>>(what: &str, fact: impl Fn() -> F) {
    let started = Instant::now();
    let mut again = interval(Duration::from_millis(20));
    while !fact().await {
        assert!(started.elapsed() < LIMIT, "never happened: {what}");
        again.tick().await;
    }
}
