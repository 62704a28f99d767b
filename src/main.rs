//! Parse, run, exit code.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use parkmate_notifier::cli;
use parkmate_notifier::config::{Cli, Command};
use tokio::runtime::Runtime;
use tracing::Level;
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let filter = match std::env::var("NOTIFIER_LOG").as_deref() {
        Ok("") | Err(_) => EnvFilter::new(cli::default_log(&command)),
        Ok(asked) => log_filter(asked)?,
    };
    // Logs go to stderr: what a command has to say goes to stdout.
    let colours = std::io::stderr().is_terminal();
    // A log that nobody reads any more is no reason to stop: by default its failure is printed to where it failed, and panics.
    let lines =
        tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(std::io::stderr).log_internal_errors(false);
    // Whatever is asked for: below info the Postgres client tells the parameters of statements, and some are credentials.
    let discreet = filter_fn(|told| !told.target().starts_with("tokio_postgres") || *told.level() <= Level::INFO)
        .with_max_level_hint(LevelFilter::TRACE);
    // One filter of the two, which knows the finest level it lets through: with a filter beside it each call to the `log`
    // crate, and to parse a WebSocket frame makes several, would be looked at to be dropped.
    tracing_subscriber::registry().with(lines.with_filter(filter.and(discreet))).init();
    let runtime = Runtime::new()?;
    let ended = runtime.block_on(cli::run(command));
    // A name server that does not answer must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(500));
    ended
}

/// What `NOTIFIER_LOG` asks for. A word that is mistyped would be taken for a module, and nothing but what that has to say be logged.
fn log_filter(asked: &str) -> Result<EnvFilter> {
    let is_word = !asked.contains(['=', ',', '[', ':']) && asked != env!("CARGO_CRATE_NAME");
    if is_word && asked.parse::<LevelFilter>().is_err() {
        bail!(
            "NOTIFIER_LOG is {asked:?}: write off, error, warn, info, debug or trace, or a filter as info,hyper=debug"
        );
    }
    EnvFilter::builder().parse(asked).with_context(|| format!("NOTIFIER_LOG is {asked:?}, which is no filter"))
}
