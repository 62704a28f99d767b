//! Which server everything is asked of: among the hosts of a database's address the one that is the primary.
//!
//! In a service the listener alone looks for it ([`Hosts::look`]), and all others go where it listens: a read from another server
//! than the one that is listened to could miss what neither of them tells. So each primary has pools of its own, which end when
//! another one is found; a server that was restarted, or that answers at the same address in another's place, is another one.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Status, Timeouts,
};
use tokio::net::lookup_host;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Config, SimpleQueryMessage, SimpleQueryRow};
use tracing::{info, warn};

use super::Link;
use super::tls::{self, Tls};

/// How long one address may take in all: to be found, to accept, to authenticate, and to say what it is. A host that is frozen
/// takes nothing from the others.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a pooled connection may be waited for, made or looked at.
const POOL_LIMIT: Duration = Duration::from_secs(10);

/// What a server says of itself. Another start of the same server is another server: sessions did not survive it.
const WHO: &str = "select pg_is_in_recovery(), current_setting('transaction_read_only'),
    extract(epoch from pg_postmaster_start_time())";

/// No host of the address is a primary.
#[derive(Debug)]
pub struct NoPrimary {
    /// Each host's reason, in words.
    reasons: String,
    /// Whether one of them answered, and takes no writes.
    standby: bool,
}

impl NoPrimary {
    /// Whether it is worth waiting: a host answered well and takes no writes, so most likely it is promoted some day.
    pub fn is_standby(&self) -> bool {
        self.standby
    }
}

impl fmt::Display for NoPrimary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reasons)
    }
}

impl std::error::Error for NoPrimary {}

/// See the module.
pub(super) struct Hosts {
    /// The address as it was given, with all its hosts.
    address: Config,
    tls: Tls,
    /// Each pool's name, and how many connections it may have.
    sizes: Vec<(&'static str, usize)>,
    known: Mutex<Known>,
    /// One looks at a time: what is found last is what holds.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    primary: Option<Arc<Primary>>,
    /// Which host was the primary last: it is asked first.
    last: usize,
    /// Whether a listener looks. Then nobody else does, and nobody is answered before it has looked at the schema once.
    led: bool,
    checked: bool,
    /// Why there is none.
    why: String,
}

/// One start of one server, and the pools of connections to it.
struct Primary {
    config: Config,
    tls: Tls,
    place: String,
    who: Who,
    pools: Vec<Pool>,
}

/// See [`WHO`].
#[derive(Clone)]
struct Who {
    standby: bool,
    read_only: bool,
    started: String,
    /// Whether the link that asked is.
    encrypted: bool,
}

impl Who {
    fn from_row(row: Option<&SimpleQueryRow>) -> Result<Self> {
        let value = |i| row.and_then(|row| row.get(i)).context("the server does not say what it is");
        Ok(Self {
            standby: value(0)? == "t",
            read_only: value(1)? == "on",
            started: value(2)?.to_owned(),
            encrypted: false,
        })
    }

    /// Why it cannot be worked with, if so.
    fn refusal(&self) -> Option<&'static str> {
        match (self.standby, self.read_only) {
            (true, _) => Some("is a standby"),
            (_, true) => Some("takes no writes: default_transaction_read_only is on"),
            _ => None,
        }
    }
}

impl Hosts {
    /// Connects to nothing yet. Each of `sizes` is a pool.
    pub(super) fn new(address: Config, tls: Tls, sizes: &[(&'static str, usize)]) -> Self {
        Self { address, tls, sizes: sizes.to_vec(), known: Mutex::default(), looking: tokio::sync::Mutex::default() }
    }

    /// All hosts and ports and the database's name, for messages.
    pub(super) fn place(&self) -> String {
        let hosts: Vec<String> = hosts(&self.address).map(|(host, _, port)| place(host, port)).collect();
        let name = self.address.get_dbname().or(self.address.get_user()).unwrap_or_default();
        format!("{}, database {name}", hosts.join(","))
    }

    /// From now on only [`Self::look`] looks for the primary, and nothing can be asked before [`Self::checked`].
    pub(super) fn lead(&self) {
        self.lock().led = true;
    }

    /// Whether [`Self::checked`] was told.
    pub(super) fn is_checked(&self) -> bool {
        self.lock().checked
    }

    /// The schema is one this binary works with.
    pub(super) fn checked(&self) {
        self.lock().checked = true;
    }

    /// Looks for the primary, beginning with the last one, and makes it everybody's: pools of another server end, and what is on
    /// its way from there is no answer any more. Returns a link to it.
    /// Dropped half-way it has changed nothing.
    ///
    /// # Errors
    /// [`NoPrimary`]; then nothing can be asked until the next look.
    pub(super) async fn look(&self) -> Result<Link> {
        let _one_at_a_time = self.looking.lock().await;
        let last = self.lock().last;
        let mut order: Vec<_> = hosts(&self.address).enumerate().collect();
        order.sort_by_key(|(i, _)| *i != last);
        let mut none = NoPrimary { reasons: String::new(), standby: false };
        let mut reasons: Vec<String> = Vec::new();
        let alone = order.len() == 1;
        for (i, (host, address, port)) in order {
            let addresses = match resolve(host, address, port).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    reasons.push(format!("{}: {error:#}", place(host, port)));
                    continue;
                }
            };
            for address in &addresses {
                let mut place = place(host, port);
                if let (Some(address), 2..) = (address, addresses.len()) {
                    place += &format!(" ({address})");
                }
                match self.reach(host, one(&self.address, host, *address, port)).await {
                    Ok((link, who, config)) => match who.refusal() {
                        None => {
                            self.found(i, config, place, who)?;
                            return Ok(link);
                        }
                        Some(refusal) => {
                            none.standby = true;
                            reasons.push(format!("{place} {refusal}"));
                        }
                    },
                    Err(error) if alone && addresses.len() == 1 => reasons.push(format!("{error:#}")),
                    Err(error) => reasons.push(format!("{place}: {error:#}")),
                }
            }
        }
        none.reasons = reasons.join("; ");
        let lost = {
            let mut known = self.lock();
            known.why.clone_from(&none.reasons);
            known.primary.take()
        };
        if let Some(lost) = lost {
            lost.close();
        }
        Err(none.into())
    }

    /// One address, in each way that `sslmode` allows. Returns the one that worked as well.
    async fn reach(&self, host: &Host, mut config: Config) -> Result<(Link, Who, Config)> {
        let (way, other) = self.tls.ways(host);
        config.ssl_mode(way);
        let refused = match (connect(&config, &self.tls).await, other) {
            (Err(error), Some(other)) if tls::is_refusal(&error) => {
                config.ssl_mode(other);
                format!("{error:#}")
            }
            (connected, _) => return connected.map(|(link, who)| (link, who, config)),
        };
        let (link, who) = connect(&config, &self.tls).await.map_err(|error| match format!("{error:#}") {
            same if same == refused => error,
            words if way == SslMode::Disable => anyhow!("{refused}; with TLS: {words}"),
            words => anyhow!("{refused}; without TLS: {words}"),
        })?;
        if way != SslMode::Disable {
            warn!(reason = refused, "goes on without TLS, as sslmode allows");
        }
        Ok((link, who, config))
    }

    /// Makes a server everybody's, unless it is already.
    fn found(&self, host: usize, config: Config, place: String, who: Who) -> Result<()> {
        let mut known = self.lock();
        known.last = host;
        if let Some(primary) = &known.primary
            && primary.who.started == who.started
            && primary.place == place
        {
            return Ok(());
        }
        info!(place, tls = who.encrypted, "this is the primary");
        let primary = Primary::new(config, self.tls.clone(), place, who, &self.sizes)?;
        if let Some(before) = known.primary.replace(Arc::new(primary)) {
            before.close();
        }
        Ok(())
    }

    /// A link of its own to the primary. Where nobody leads it looks for it.
    pub(super) async fn link(&self) -> Result<Link> {
        let (primary, led) = self.primary()?;
        if let Some(primary) = primary {
            match primary.link().await {
                Err(_) if !led => {}
                linked => return linked,
            }
        }
        self.look().await
    }

    /// A connection of a pool to the primary. Where nobody leads it looks for it.
    pub(super) async fn pooled(&self, pool: usize) -> Result<Object> {
        let (primary, led) = self.primary()?;
        if let Some(primary) = primary {
            match primary.pools[pool].get().await {
                Err(_) if !led => {}
                got => return got.map_err(|error| self.tls.explain(error.into())),
            }
        }
        self.look().await?;
        Ok(self.primary()?.0.context("the primary is gone again")?.pools[pool].get().await?)
    }

    /// How the pools stand, by name. Without a primary they are empty.
    pub(super) fn pools(&self) -> Vec<(&'static str, Status)> {
        let primary = self.lock().primary.clone();
        let empty = |max_size| Status { max_size, size: 0, available: 0, waiting: 0 };
        let status = |(i, (name, size)): (usize, &(&'static str, usize))| {
            (*name, primary.as_ref().map_or_else(|| empty(*size), |primary| primary.pools[i].status()))
        };
        self.sizes.iter().enumerate().map(status).collect()
    }

    /// The primary, and whether somebody leads. `None` only where nobody does.
    fn primary(&self) -> Result<(Option<Arc<Primary>>, bool)> {
        let known = self.lock();
        if known.led && known.primary.is_none() {
            bail!("there is no primary to ask: {}", known.why);
        }
        if known.led && !known.checked {
            bail!("the schema of the primary was not looked at yet");
        }
        Ok((known.primary.clone(), known.led))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing in here panics half-way through a change.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Primary {
    fn new(config: Config, tls: Tls, place: String, who: Who, sizes: &[(&'static str, usize)]) -> Result<Self> {
        let limit = Some(POOL_LIMIT);
        let pool = |(_, size): &(&'static str, usize)| {
            let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
            let manager = Manager::from_config(config.clone(), tls.connector(&config), recycling);
            let (place, started) = (place.clone(), who.started.clone());
            Pool::builder(manager)
                .max_size(*size)
                .runtime(Runtime::Tokio1)
                .timeouts(Timeouts { wait: limit, create: limit, recycle: limit })
                .post_create(Hook::async_fn(move |client, _| {
                    let (place, started) = (place.clone(), started.clone());
                    Box::pin(async move {
                        let messages = client.simple_query(WHO).await.map_err(HookError::Backend)?;
                        let row = messages.iter().find_map(|message| match message {
                            SimpleQueryMessage::Row(row) => Some(row),
                            _ => None,
                        });
                        same(Who::from_row(row), &started, &place)
                            .map_err(|error| HookError::message(format!("{error:#}")))?;
                        client.batch_execute(super::SESSION).await.map_err(HookError::Backend)?;
                        client.batch_execute(super::STATEMENT_LIMIT).await.map_err(HookError::Backend)
                    })
                }))
                .build()
                .context("building a pool")
        };
        let pools = sizes.iter().map(pool).collect::<Result<_>>()?;
        Ok(Self { config, tls, place, who, pools })
    }

    async fn link(&self) -> Result<Link> {
        let connected = connect(&self.config, &self.tls).await;
        let (link, who) = connected.with_context(|| format!("connecting to {}", self.place))?;
        same(Ok(who), &self.who.started, &self.place)?;
        Ok(link)
    }

    /// Idle connections end now, those in use when they come back.
    fn close(&self) {
        self.pools.iter().for_each(Pool::close);
    }
}

/// Refuses a server that answers in the place of the one that was found.
fn same(who: Result<Who>, started: &str, place: &str) -> Result<()> {
    let who = who?;
    if let Some(refusal) = who.refusal() {
        bail!("{place} {refusal}");
    }
    if who.started != started {
        bail!("another server than the one that is listened to answers at {place}");
    }
    Ok(())
}

/// One attempt at one address.
async fn connect(config: &Config, tls: &Tls) -> Result<(Link, Who)> {
    let attempt = async {
        let connector = tls.connector(config);
        let met = connector.met();
        let mut link = Link::connect(config, connector).await.map_err(|error| tls.explain(error))?;
        let mut who = Who::from_row(link.query(WHO).await?.first())?;
        who.encrypted = met.load(Ordering::Relaxed);
        Ok((link, who))
    };
    timeout(CONNECT_LIMIT, attempt).await.ok().context("no answer within 5 s")?
}

/// The hosts of an address, each with the IP address that was given for it, and its port.
fn hosts(config: &Config) -> impl Iterator<Item = (&Host, Option<IpAddr>, u16)> {
    let (addresses, ports) = (config.get_hostaddrs(), config.get_ports());
    config
        .get_hosts()
        .iter()
        .enumerate()
        .map(move |(i, host)| (host, addresses.get(i).copied(), *ports.get(i).or(ports.first()).unwrap_or(&5432)))
}

fn place(host: &Host, port: u16) -> String {
    match host {
        Host::Tcp(name) => format!("{name}:{port}"),
        Host::Unix(path) => format!("{}:{port}", path.display()),
    }
}

/// The IP addresses of a host: a name may stand for several servers, and be another's tomorrow. `None` is a socket's path.
async fn resolve(host: &Host, address: Option<IpAddr>, port: u16) -> Result<Vec<Option<IpAddr>>> {
    match (host, address) {
        (Host::Tcp(_), Some(address)) => Ok(vec![Some(address)]),
        (Host::Tcp(name), None) => {
            let found = timeout(CONNECT_LIMIT, lookup_host((name.as_str(), port)));
            let found = found.await.context("its name server does not answer")??;
            Ok(found.map(|address| Some(address.ip())).collect())
        }
        (Host::Unix(_), _) => Ok(vec![None]),
    }
}

/// An address with one server alone: without this a connection could be to any of its hosts.
fn one(address: &Config, host: &Host, ip: Option<IpAddr>, port: u16) -> Config {
    let mut one = Config::new();
    match host {
        Host::Tcp(name) => one.host(name),
        Host::Unix(path) => one.host_path(path),
    };
    if let Some(ip) = ip {
        one.hostaddr(ip);
    }
    if let Some(user) = address.get_user() {
        one.user(user);
    }
    if let Some(password) = address.get_password() {
        one.password(password);
    }
    if let Some(name) = address.get_dbname() {
        one.dbname(name);
    }
    if let Some(options) = address.get_options() {
        one.options(options);
    }
    one.port(port)
        .application_name(address.get_application_name().unwrap_or("parkmate-notifier"))
        .ssl_negotiation(address.get_ssl_negotiation())
        .channel_binding(address.get_channel_binding())
        // A link that died without a word is noticed by keepalives and by what is not acknowledged.
        .connect_timeout(CONNECT_LIMIT)
        .tcp_user_timeout(Duration::from_secs(10))
        .keepalives_idle(Duration::from_secs(5))
        .keepalives_interval(Duration::from_secs(2))
        .keepalives_retries(3);
    one
}
