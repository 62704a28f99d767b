//! A database, a service on it, sockets to that.

pub mod checker;
pub mod database;
pub mod inbox;
pub mod namespace;
pub mod process;
pub mod proxy;
pub mod raw_socket;
pub mod server;
pub mod service;
pub mod slow_link;
pub mod socket;
pub mod standby;

use std::time::Duration;

use tokio::time::{Instant, interval};

pub use database::Database;
pub use inbox::Inbox;
pub use service::Service;
pub use socket::Socket;
pub use standby::Pair;

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
