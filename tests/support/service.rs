//! A service in this process, on a port of its own.

use std::net::SocketAddr;

use parkmate_notifier::auth::AuthMode;
use parkmate_notifier::config::{DatabaseConfig, ServeConfig};
use parkmate_notifier::server;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::process::is_ready;
use super::{Database, eventually};

pub struct Service {
    pub address: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Service {
    /// Starts one on a database and waits until it listens.
    pub async fn on(database: &Database) -> Self {
        Self::at(&database.url()).await
    }

    /// Starts one on a database's address and waits until it listens.
    pub async fn at(url: &str) -> Self {
        let service = Self::start(url).await;
        eventually("the service listens", || service.is_ready()).await;
        service
    }

    /// Starts one and does not wait.
    pub async fn start(url: &str) -> Self {
        Self::start_with(url, |_| {}).await
    }

    /// Starts one with settings of its own and does not wait.
    pub async fn start_with(url: &str, set: impl FnOnce(&mut ServeConfig)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let database = DatabaseConfig { database_url: url.parse().unwrap() };
        let mut config = ServeConfig::new(database, address, AuthMode::None).unwrap();
        config.pool_size = 4;
        // All clients of a test come from one address, and often as one user.
        config.limits.max_sockets_per_user = 100_000;
        config.limits.max_sockets_per_address = 100_000;
        config.limits.max_new_sockets_per_address = 100_000;
        set(&mut config);
        let stop = CancellationToken::new();
        let running = tokio::spawn(server::run(config, listener, None, stop.clone()));
        Self { address, stop, running }
    }

    pub async fn is_ready(&self) -> bool {
        is_ready(self.address).await
    }

    /// `None` when nobody answers.
    pub async fn get(&self, path: &str) -> Option<reqwest::Response> {
        reqwest::get(format!("http://{}{path}", self.address)).await.ok()
    }

    /// A figure of `/metrics`.
    pub async fn metric(&self, name: &str) -> u64 {
        metric(self.address, name).await
    }

    /// Whether it is the relay, and writers NOTIFY what they commit.
    pub async fn is_announced_to(&self) -> bool {
        self.metric("notifier_relay").await == 1 && self.metric("notifier_relay_busy").await == 0
    }

    /// Tells it to stop; returns when it has.
    pub async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }

    /// Tells it to stop and does not wait.
    pub fn begin_to_stop(&self) {
        self.stop.cancel();
    }
}

/// How many sockets a service at an address closed because they took (4510) or answered (4511) nothing.
pub async fn given_up(address: SocketAddr) -> [u64; 2] {
    let text = metrics(address).await;
    [4510, 4511].map(|code| {
        let figure =
            text.lines().find_map(|line| line.strip_prefix(&format!("notifier_closes_total{{code=\"{code}\"}} ")));
        // A code that was never used is not there.
        figure.map_or(0, |figure| figure.parse().unwrap())
    })
}

async fn metrics(address: SocketAddr) -> String {
    reqwest::get(format!("http://{address}/metrics")).await.unwrap().text().await.unwrap()
}

/// A figure of the `/metrics` of a service at an address.
pub async fn metric(address: SocketAddr, name: &str) -> u64 {
    let text = metrics(address).await;
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name} ")))
        .unwrap_or_else(|| panic!("no {name} in\n{text}"));
    line.split(' ').nth(1).unwrap().parse().unwrap()
}
