//! What an operator can set: each flag is an environment variable too, and this is their documentation.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};

use crate::auth::jwt::JwtConfig;
use crate::auth::{AuthMode, Carriers, Origin};
use crate::http::address::{ClientAddress, TrustedProxy};
use crate::store::DatabaseUrl;

/// Committed Postgres writes, as notifications on the right user's screen.
///
/// What is logged, to standard error, NOTIFIER_LOG says: info (the default), debug, or a filter of the crate tracing.
#[derive(Parser, Debug)]
#[command(version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do.
#[derive(Subcommand, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one, at the start")]
pub enum Command {
    /// Bring the schema `notifier` of a database to this version.
    Migrate(DatabaseConfig),
    /// Say what is wrong with the events of a database, and what to do; fails when somebody is not told.
    Check(DatabaseConfig),
    /// Serve sockets. Never changes the schema.
    Serve(ServeConfig),
    /// Show it: a throw-away Postgres with a parking application, and a page to press buttons on.
    Demo(DemoConfig),
}

/// Where the database is.
#[derive(Args, Clone, Debug)]
pub struct DatabaseConfig {
    /// The database, as postgresql://user:password@host:port/database; of several hosts, as in user@db1:5432,db2:5432/database,
    /// the one that is the primary is used. LISTEN needs the primary itself or a pool in session mode.
    ///
    /// TLS is asked for as libpq does it, by parameters of the address: ?sslmode=verify-full&sslrootcert=/path/ca.pem (or
    /// sslrootcert=system), and sslcert, sslkey, channel_binding, sslnegotiation. Files are read again for each new connection.
    #[arg(long, env = "NOTIFIER_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: DatabaseUrl,
}

/// How to serve.
#[derive(Args, Clone, Debug)]
pub struct ServeConfig {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub database: DatabaseConfig,
    /// The address to serve at.
    #[arg(long, env = "NOTIFIER_LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub auth: AuthConfig,
    /// How far back an opening socket is told what it missed.
    #[arg(long, env = "NOTIFIER_REPLAY_WINDOW", value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration)]
    pub replay_window: Duration,
    /// How many of those at most; the rest is told as a number.
    #[arg(long, env = "NOTIFIER_REPLAY_LIMIT", default_value_t = 20, value_parser = clap::value_parser!(i32).range(0..=200))]
    pub replay_limit: i32,
    /// How long a notification stays in the database, and up to a day more: 1h to 14d.
    #[arg(long, env = "NOTIFIER_RETENTION", value_name = "TIME", default_value = "7d", value_parser = parse_retention)]
    pub retention: Duration,
    /// How many connections catch-ups of sockets may take at most. Ten more are for LISTEN, leading, reading, timers
    /// and the REST inbox, and four for credentials.
    #[arg(long, env = "NOTIFIER_POOL_SIZE", default_value_t = 8, value_parser = parse_pool_size)]
    pub pool_size: usize,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub limits: Limits,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub door: DoorConfig,
}

/// How much clients may take. Whoever takes more is refused, and counted in `notifier_refused_total`.
#[derive(Args, Clone, Debug)]
pub struct Limits {
    /// How many sockets there may be. Each is an open file: the system has to allow some more, and a quarter as many again
    /// for connections that are no sockets yet.
    #[arg(long, env = "NOTIFIER_MAX_SOCKETS", value_name = "NUMBER", default_value = "20000", value_parser = parse_count)]
    pub max_sockets: usize,
    /// How many sockets a user may have, on this instance.
    #[arg(long, env = "NOTIFIER_MAX_SOCKETS_PER_USER", value_name = "NUMBER", default_value_t = 20, value_parser = at_least_one())]
    pub max_sockets_per_user: u32,
    /// How many sockets a client's address may have, and four times as many connections that are none. Of IPv6 the first 64
    /// bits count. Behind a proxy see --client-address.
    #[arg(long, env = "NOTIFIER_MAX_SOCKETS_PER_ADDRESS", value_name = "NUMBER", default_value_t = 50, value_parser = at_least_one())]
    pub max_sockets_per_address: u32,
    /// How many sockets a client's address may open a second, twice as many at once.
    #[arg(long, env = "NOTIFIER_MAX_NEW_SOCKETS_PER_ADDRESS", value_name = "NUMBER", default_value_t = 20, value_parser = at_least_one())]
    pub max_new_sockets_per_address: u32,
    /// How large the head of a request may be, in bytes: 8192 to 1048576.
    #[arg(long, env = "NOTIFIER_MAX_HEAD_BYTES", value_name = "BYTES", default_value = "16384", value_parser = parse_head_bytes)]
    pub max_head_bytes: usize,
    /// How long the head of a request may take, the pause before it included; after a pause at first a fifth of it at least.
    #[arg(long, env = "NOTIFIER_HEAD_TIME", value_name = "TIME", default_value = "5s", value_parser = parse_time)]
    pub head_time: Duration,
    /// How long a handshake may take: of TLS, and then of the WebSocket.
    #[arg(long, env = "NOTIFIER_HANDSHAKE_TIME", value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    pub handshake_time: Duration,
    /// How many messages a socket may send in a second. Pings are counted, what answers something of ours is not.
    #[arg(long, env = "NOTIFIER_MAX_MESSAGES_PER_SECOND", value_name = "NUMBER", default_value_t = 10, value_parser = at_least_one())]
    pub max_messages_per_second: u32,
    /// How many messages a socket may send at once after a silence.
    #[arg(long, env = "NOTIFIER_MESSAGE_BURST", value_name = "NUMBER", default_value_t = 20, value_parser = at_least_one())]
    pub message_burst: u32,
    /// How large a message of a client may be, in bytes: 512 to 65536.
    #[arg(long, env = "NOTIFIER_MAX_MESSAGE_BYTES", value_name = "BYTES", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(512..=65_536))]
    pub max_message_bytes: u32,
    /// How many notifications may wait for a socket. What does not fit is read from the table when there is room: nothing is lost.
    #[arg(long, env = "NOTIFIER_MAX_QUEUED_FRAMES", value_name = "NUMBER", default_value_t = 512, value_parser = at_least_one())]
    pub max_queued_frames: u32,
    /// How large they may be together, in bytes. What is on its way to a socket that reads nothing, another 128 KiB at most, is beside
    /// that.
    #[arg(long, env = "NOTIFIER_MAX_QUEUED_BYTES", value_name = "BYTES", default_value_t = 131_072, value_parser = at_least_one())]
    pub max_queued_bytes: u32,
}

/// What stands between clients and the service: proxies, or TLS of its own.
#[derive(Args, Clone, Debug)]
pub struct DoorConfig {
    /// A proxy that is believed when it says for whom a connection or a request is: an address or a network, as 10.0.0.0/8. May
    /// be given several times; in the environment separated by commas.
    #[arg(long, env = "NOTIFIER_TRUSTED_PROXY", value_name = "ADDRESS", value_delimiter = ',')]
    pub trusted_proxy: Vec<TrustedProxy>,
    /// How those proxies say it. Limits go by this address.
    #[arg(long, env = "NOTIFIER_CLIENT_ADDRESS", value_enum, default_value_t = ClientAddress::Peer)]
    pub client_address: ClientAddress,
    /// Serve TLS, with this certificate: a PEM file, its own first and those between it and the authority after it. Read again on
    /// SIGHUP.
    #[arg(long, env = "NOTIFIER_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of the certificate: a PEM file.
    #[arg(long, env = "NOTIFIER_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
}

/// Who may connect.
#[derive(Args, Clone, Debug)]
pub struct AuthConfig {
    /// How credentials are checked. Has no default; `none` is for development.
    #[arg(long, env = "NOTIFIER_AUTH", value_enum)]
    pub auth: AuthMode,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub jwt: JwtConfig,
    /// With --auth sql: the function that says whose a token is, as in app.authenticate. It takes a text and returns the columns
    /// user_id and expires_at (timestamptz, null for never), or no row.
    #[arg(long, env = "NOTIFIER_AUTH_FUNCTION", value_name = "FUNCTION")]
    pub auth_function: Option<String>,
    /// With --auth sql: how long its answers are used again for sockets that open, and for requests: 0s to 5m.
    #[arg(long, env = "NOTIFIER_AUTH_CACHE", value_name = "TIME", default_value = "5s", value_parser = parse_cache)]
    pub auth_cache: Duration,
    /// With --auth sql: how often the tokens of open sockets are looked at again: 1s to 1h.
    #[arg(long, env = "NOTIFIER_AUTH_RECHECK", value_name = "TIME", default_value = "1m", value_parser = parse_recheck)]
    pub auth_recheck: Duration,
    /// A cookie that may hold the token, too. It counts only where the page's origin is one of --allowed-origin.
    #[arg(long, env = "NOTIFIER_AUTH_COOKIE", value_name = "NAME")]
    pub auth_cookie: Option<String>,
    /// An origin whose pages may use cookies and read what the inbox answers, as in `https://app.example.com`. May be given several times
    /// (in the environment: with commas).
    #[arg(long, env = "NOTIFIER_ALLOWED_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub allowed_origin: Vec<Origin>,
    /// Takes tokens from the address as well (`?token=`), where they end up in the logs of whatever stands in between.
    #[arg(long, env = "NOTIFIER_ALLOW_TOKEN_IN_URL")]
    pub allow_token_in_url: bool,
}

impl AuthConfig {
    /// Where credentials may be.
    pub fn carriers(&self) -> Carriers {
        Carriers {
            cookie: self.auth_cookie.clone(),
            origins: self.allowed_origin.clone(),
            in_url: self.allow_token_in_url,
        }
    }

    fn check(&self) -> Result<()> {
        let function = self.auth_function.as_deref();
        ensure!(
            self.auth != AuthMode::Sql || function.is_some(),
            "--auth sql needs --auth-function: the function of your database that says whose a token is, as in app.authenticate"
        );
        ensure!(
            self.auth == AuthMode::Sql || function.is_none(),
            "--auth-function is for --auth sql, and this is another one"
        );
        ensure!(
            self.auth == AuthMode::Jwt || !self.jwt.has_key(),
            "--jwt-secret-file, --jwt-public-key-file and --jwks are for --auth jwt, and this is another one"
        );
        ensure!(
            self.auth_cookie.is_none() || !self.allowed_origin.is_empty(),
            "--auth-cookie needs --allowed-origin: browsers send a cookie whatever page opens the socket"
        );
        Ok(())
    }
}

/// How to show the demo.
#[derive(Args, Clone, Debug)]
pub struct DemoConfig {
    /// The address of the page; port 0 takes a free one.
    #[arg(long, env = "NOTIFIER_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,
}

impl ServeConfig {
    /// The defaults of everything else.
    ///
    /// # Errors
    /// An environment variable holds what its flag does not take.
    pub fn new(database: DatabaseConfig, listen: SocketAddr, auth: AuthMode) -> Result<Self> {
        #[derive(Parser)]
        struct Defaults {
            #[command(flatten)]
            serve: ServeConfig,
        }
        let needed = ["serve", "--database-url=postgresql://replaced", "--listen=127.0.0.1:0", "--auth=none"];
        let mut config = Defaults::try_parse_from(needed)?.serve;
        config.auth.auth = auth;
        Ok(Self { database, listen, ..config })
    }

    /// Refuses what clap cannot see: settings that must not come together.
    ///
    /// # Errors
    /// `--auth none` on an address that others reach; credentials that cannot be checked; a replay window that reaches beyond the
    /// retention; half of what proxies or TLS need.
    pub fn check(&self) -> Result<()> {
        self.door.check()?;
        ensure!(
            self.retention >= self.replay_window,
            "--retention {} is shorter than --replay-window {}: what an opening socket is to be told would be gone",
            humantime::format_duration(self.retention),
            humantime::format_duration(self.replay_window)
        );
        self.auth.check()?;
        refuse_open_door(self.auth.auth, self.listen)
    }
}

impl Limits {
    /// The defaults.
    ///
    /// # Errors
    /// An environment variable holds what its flag does not take.
    pub fn new() -> Result<Self> {
        #[derive(Parser)]
        struct Defaults {
            #[command(flatten)]
            limits: Limits,
        }
        Ok(Defaults::try_parse_from(["limits"])?.limits)
    }
}

impl DoorConfig {
    fn check(&self) -> Result<()> {
        let told = self.client_address != ClientAddress::Peer;
        ensure!(
            !told || !self.trusted_proxy.is_empty(),
            "--client-address says that a proxy tells whose connection it is, and none is trusted to: anybody could claim any \
             address. Name the proxy with --trusted-proxy"
        );
        ensure!(
            told || self.trusted_proxy.is_empty(),
            "--trusted-proxy does nothing by itself: say with --client-address how the proxy tells a client's address \
             (x-forwarded-for, forwarded or proxy-protocol)"
        );
        ensure!(self.tls_cert.is_some() == self.tls_key.is_some(), "TLS needs both files: --tls-cert and --tls-key");
        Ok(())
    }
}

impl DemoConfig {
    /// See [`ServeConfig::check`].
    ///
    /// # Errors
    /// The address is one that others reach.
    pub fn check(&self) -> Result<()> {
        refuse_open_door(AuthMode::None, self.listen)
    }
}

fn refuse_open_door(auth: AuthMode, listen: SocketAddr) -> Result<()> {
    ensure!(
        auth != AuthMode::None || listen.ip().is_loopback(),
        "--auth none lets anyone read anyone, so it serves loopback addresses only and {} is none: listen on 127.0.0.1",
        listen.ip()
    );
    Ok(())
}

/// The ring of `notifier.notification` has 16 daily leaves, and `notifier.sweep` wants one to spare on either side.
fn parse_retention(text: &str) -> Result<Duration, String> {
    const HOUR: Duration = Duration::from_secs(3_600);
    match humantime::parse_duration(text) {
        Ok(retention) if (HOUR..=14 * 24 * HOUR).contains(&retention) => Ok(retention),
        Ok(_) => Err("1h to 14d".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Without the database's word nobody knows of a token that was deleted.
fn parse_cache(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(cache) if cache <= Duration::from_secs(300) => Ok(cache),
        Ok(_) => Err("0s to 5m".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_recheck(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(recheck) if (Duration::from_secs(1)..=Duration::from_secs(3_600)).contains(&recheck) => Ok(recheck),
        Ok(_) => Err("1s to 1h".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_pool_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size @ 2..=1000) => Ok(size),
        _ => Err("2 to 1000 connections".to_owned()),
    }
}

fn at_least_one() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

fn parse_count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "1 or more".to_owned())
}

/// Less than this hyper does not take.
fn parse_head_bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes @ 8_192..=1_048_576) => Ok(bytes),
        _ => Err("8192 to 1048576 bytes".to_owned()),
    }
}

/// A time without which nobody gets in, and with which nobody stays for ever.
fn parse_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if (Duration::from_millis(100)..=Duration::from_secs(300)).contains(&time) => Ok(time),
        Ok(_) => Err("100ms to 5m".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
