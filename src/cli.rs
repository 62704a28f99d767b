//! One file per command.

mod check;
mod demo;
mod migrate;
pub mod private_postgres;
mod serve;

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::Command;

/// Runs a command to its end, or until a second signal.
///
/// # Errors
/// Whatever the person who typed it has to know.
pub async fn run(command: Command) -> Result<()> {
    let stop = CancellationToken::new();
    let command = async {
        match command {
            Command::Migrate(config) => tokio::select! {
                migrated = migrate::run(config) => migrated,
                () = stop.cancelled() => bail!("stopped before it was done: what is not committed is undone, run it again"),
            },
            Command::Check(config) => tokio::select! {
                checked = check::run(config) => checked,
                () = stop.cancelled() => bail!("stopped before it was done"),
            },
            Command::Serve(config) => serve::run(config, stop.clone()).await,
            Command::Demo(config) => demo::run(config, stop.clone()).await,
        }
    };
    tokio::select! {
        ended = command => ended,
        ended = signals(&stop) => ended,
    }
}

/// What is logged when `NOTIFIER_LOG` does not say. The demo and `check` talk to a person, who sees no log unless something is wrong.
pub fn default_log(command: &Command) -> &'static str {
    match command {
        Command::Demo(_) | Command::Check(_) => "warn",
        // Migrations are told by the command itself.
        Command::Migrate(_) | Command::Serve(_) => "info,refinery_core=warn,deadpool=error,tokio_postgres=warn",
    }
}

/// SIGTERM or SIGINT cancels `stop`; the second one ends everything where it stands.
async fn signals(stop: &CancellationToken) -> Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if stop.is_cancelled() {
            bail!("ended by a second signal");
        }
        stop.cancel();
        info!("signal received");
    }
}
