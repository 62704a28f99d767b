//! Who takes part, how each is started, and what is asked of it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use parkmate_notifier::cli::private_postgres::PrivatePostgres;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use crate::crowd::{Crowd, Dialect};
use crate::usage;
use crate::writer::{self, Writer};

/// How long a server may take until a row comes out of it.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Says its child's process id, and ends the child when the pipe from its owner closes, in whatever way the owner ends.
const KEEPER: &str = r#"
ulimit -n "$(ulimit -Hn)"
"$@" >&2 &
echo $!
cat >/dev/null
kill -KILL $!
"#;

/// One of those that are compared.
#[derive(Clone, Copy, PartialEq)]
pub enum Contender {
    Ours,
    Uws,
    Ws,
    SocketIo,
    Daphne,
    Uvicorn,
}

impl Contender {
    pub const ALL: [Self; 6] = [Self::Ours, Self::Uws, Self::Ws, Self::SocketIo, Self::Daphne, Self::Uvicorn];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "parkmate-notifier",
            Self::Uws => "uWebSockets.js + pg",
            Self::Ws => "Node ws + pg",
            Self::SocketIo => "socket.io + postgres-adapter",
            Self::Daphne => "Django Channels, daphne",
            Self::Uvicorn => "Django Channels, uvicorn",
        }
    }

    pub fn is_django(self) -> bool {
        matches!(self, Self::Daphne | Self::Uvicorn)
    }

    /// Tables and trigger; none where the application's framework makes them.
    fn schema(self) -> &'static str {
        match self {
            Self::Ours => include_str!("ours/schema.sql"),
            Self::Uws | Self::Ws => include_str!("ws/schema.sql"),
            Self::SocketIo => include_str!("socketio/schema.sql"),
            Self::Daphne | Self::Uvicorn => "",
        }
    }

    /// The program that serves sockets, and its arguments.
    fn server(self, port: u16, url: &str) -> Vec<String> {
        let python = installed("django/bin/python");
        let words = match self {
            Self::Ours => format!("{OURS} serve --auth none --listen 127.0.0.1:{port} --database-url {url}"),
            Self::Uws => "node uws/server.js".to_owned(),
            Self::Ws => "node ws/server.js".to_owned(),
            Self::SocketIo => "node socketio/server.js".to_owned(),
            Self::Daphne => format!("{python} -m daphne --websocket_timeout -1 -v 0 -p {port} asgi:application"),
            Self::Uvicorn => format!("{python} -m uvicorn --log-level warning --port {port} asgi:application"),
        };
        words.split(' ').map(str::to_owned).collect()
    }

    /// How many handshakes it is given at once: more than 500 would measure how Linux drops what does not fit into a backlog,
    /// and daphne gives up on those that it does not come to within five seconds.
    fn at_once(self) -> usize {
        if self.is_django() { 50 } else { 500 }
    }

    fn dialect(self) -> Dialect {
        if self == Self::SocketIo { Dialect::SocketIo } else { Dialect::Plain }
    }
}

const OURS: &str = env!("CARGO_BIN_EXE_parkmate-notifier");

/// What our service limits by default, in its environment.
const OURS_LIMITS: [&str; 3] =
    ["NOTIFIER_MAX_SOCKETS_PER_USER", "NOTIFIER_MAX_SOCKETS_PER_ADDRESS", "NOTIFIER_MAX_NEW_SOCKETS_PER_ADDRESS"];

/// The folder of the peers' programs.
fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers")
}

/// What `install` put under `target`.
fn installed(path: &str) -> String {
    format!("{}/target/peers/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// A contender at work: its processes on a database of its own.
pub struct Running {
    pub crowd: Crowd,
    pub writer: Writer,
    server: Process,
    redis: Option<Process>,
    postgres: u32,
}

/// CPU seconds by process.
#[derive(Clone, Copy, Default)]
pub struct Split {
    pub server: f64,
    pub redis: f64,
    pub writer: f64,
    pub postgres: f64,
}

impl Split {
    /// What was taken since then, times something.
    pub fn since(&self, then: &Self, times: f64) -> Self {
        Self {
            server: (self.server - then.server) * times,
            redis: (self.redis - then.redis) * times,
            writer: (self.writer - then.writer) * times,
            postgres: (self.postgres - then.postgres) * times,
        }
    }
}

impl Running {
    /// Starts one on an empty database, and waits until a row comes out of it.
    ///
    /// # Errors
    /// It does not start; the end of what it said is in the message.
    pub async fn start(contender: Contender, postgres: &PrivatePostgres, sockets: &Handle) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        Self::start_in(&folder, contender, postgres, sockets).await.map_err(|error| {
            let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            error.context(log.trim().lines().next_back().unwrap_or("it said nothing").to_owned())
        })
    }

    async fn start_in(
        folder: &TempDir,
        contender: Contender,
        postgres: &PrivatePostgres,
        sockets: &Handle,
    ) -> Result<Self> {
        let (url, port) = (postgres.url("bench", "bench"), free_port());
        let admin = writer::connect(&postgres.url("postgres", "postgres")).await?;
        for statement in ["drop database if exists bench with (force)", "create database bench owner bench"] {
            admin.batch_execute(statement).await?;
        }
        if contender == Contender::Ours {
            let migrated = Command::new(OURS).args(["migrate", "--database-url", &url]).output().await?;
            ensure!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        }
        writer::connect(&url).await?.batch_execute(contender.schema()).await?;

        let mut redis = None;
        let mut variables = vec![
            ("DATABASE_URL", url.clone()),
            ("PORT", port.to_string()),
            ("NODE_PATH", installed("node_modules")),
            ("NODE_ENV", "production".to_owned()),
            ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
        ];
        // The whole crowd comes from one address.
        for limit in OURS_LIMITS {
            variables.push((limit, "100000".to_owned()));
        }
        if contender.is_django() {
            let port = free_port();
            let words = format!("redis-server --bind 127.0.0.1 --appendonly no --port {port} --save");
            let words = words.split(' ').map(str::to_owned).chain([String::new()]);
            redis = Some(Process::start(words.collect(), &[], folder).await?);
            variables.push(("REDIS_URL", format!("redis://127.0.0.1:{port}/0")));
        }
        let writer = match contender.is_django() {
            true => Writer::django(&installed("django/bin/python"), &here().join("django"), &variables).await?,
            false => Writer::sql(&url).await?,
        };
        let server = Process::start(contender.server(port, &url), &variables, folder).await?;
        let crowd = Crowd::new(sockets, contender.dialect(), port, contender.at_once());
        let pid = std::fs::read_to_string(postgres.folder().join("data/postmaster.pid"))?;
        let postgres = pid.lines().next().context("postmaster.pid is empty")?.parse()?;
        let mut running = Self { crowd, writer, server, redis, postgres };
        running.wait_until_it_serves(port).await?;
        Ok(running)
    }

    async fn wait_until_it_serves(&mut self, port: u16) -> Result<()> {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            ensure!(begun.elapsed() < START_LIMIT && self.server.lives(), "it does not listen");
            sleep(Duration::from_millis(20)).await;
        }
        self.crowd.open(["probe".to_owned()].into_iter()).await?;
        // It may accept sockets before it listens to the database, and says so nowhere.
        while self.crowd.frames() == 0 {
            ensure!(begun.elapsed() < START_LIMIT, "no row comes out of it");
            self.writer.write("probe", 0).await?;
            sleep(Duration::from_millis(100)).await;
        }
        self.crowd.keep(0);
        Ok(())
    }

    /// What its processes have taken so far.
    pub fn cpu(&self) -> Split {
        Split {
            server: usage::cpu(self.server.pid),
            redis: self.redis.as_ref().map_or(0.0, |redis| usage::cpu(redis.pid)),
            writer: self.writer.pid().map_or(0.0, usage::cpu),
            postgres: usage::cpu_of_family(self.postgres),
        }
    }

    /// KiB that serving sockets takes: the server's, and redis's.
    pub fn memory(&self) -> f64 {
        usage::memory(self.server.pid) + self.redis.as_ref().map_or(0.0, |redis| usage::memory(redis.pid))
    }
}

/// A program that ends with its owner.
struct Process {
    pid: u32,
    keeper: Child,
}

impl Process {
    async fn start(words: Vec<String>, variables: &[(&str, String)], folder: &TempDir) -> Result<Self> {
        let log = File::options().create(true).append(true).open(folder.path().join("log"))?;
        let folder = if words[0].contains("python") { here().join("django") } else { here() };
        let mut keeper = Command::new("/bin/sh");
        keeper.args(["-c", KEEPER, "keeper"]).args(words).envs(variables.iter().map(|(name, value)| (name, value)));
        keeper.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut keeper = keeper.spawn()?;
        let said = BufReader::new(keeper.stdout.take().context("piped")?).lines().next_line().await?;
        Ok(Self { pid: said.context("no process id")?.parse()?, keeper })
    }

    /// Whether it has not ended by itself.
    fn lives(&self) -> bool {
        Path::new(&format!("/proc/{}", self.pid)).exists()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        while self.keeper.try_wait().is_ok_and(|ended| ended.is_none()) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Below 32768: higher ones meet outgoing connections now and then.
fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(20_000..32_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
