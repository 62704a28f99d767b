//! Parse, run, exit code.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use parkmate_notifier::{cli, config::Cli};
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let filter = EnvFilter::try_from_env("NOTIFIER_LOG").unwrap_or_else(|_| EnvFilter::new(cli::default_log(&command)));
    // Logs go to stderr: what a command has to say goes to stdout.
    let colours = std::io::stderr().is_terminal();
    // A log that nobody reads any more is no reason to stop: by default its failure is printed to where it failed, and panics.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();
    let ended = Runtime::new().map_err(Into::into).and_then(|runtime| {
        let ended = runtime.block_on(cli::run(command));
        // A name server that does not answer must not hold up the end.
        runtime.shutdown_timeout(Duration::from_millis(500));
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
