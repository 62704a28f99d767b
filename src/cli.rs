//! One file per command.

mod demo;
mod migrate;
pub mod private_postgres;
mod serve;

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::Command;

/// Runs a command to its end.
///
/// # Errors
/// Whatever the person who typed it has to know.
pub async fn run(command: Command) -> Result<()> {
    match command {
        Command::Migrate(config) => migrate::run(config).await,
        Command::Serve(config) => serve::run(config, stop_signal()?).await,
        Command::Demo(config) => demo::run(config, stop_signal()?).await,
    }
}

/// What is logged when `NOTIFIER_LOG` does not say. The demo talks to a person, who sees no log unless something is wrong.
pub fn default_log(command: &Command) -> &'static str {
    match command {
        Command::Demo(_) => "warn",
        // Migrations are told by the command itself.
        Command::Migrate(_) | Command::Serve(_) => "info,refinery_core=warn",
    }
}

/// Cancelled by SIGTERM or SIGINT. A second signal ends the process where it stands.
fn stop_signal() -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = stop.clone();
    tokio::spawn(async move {
        for again in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if again {
                std::process::exit(1);
            }
            info!("signal received");
            token.cancel();
        }
    });
    Ok(stop)
}
