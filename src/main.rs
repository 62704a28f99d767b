//! Parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use parkmate_notifier::{cli, config::Cli};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    let filter = EnvFilter::try_from_env("NOTIFIER_LOG").unwrap_or_else(|_| EnvFilter::new(cli::default_log(&command)));
    // Logs go to stderr: what a command has to say goes to stdout.
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match cli::run(command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
