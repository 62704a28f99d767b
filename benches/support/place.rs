//! A Postgres that waits for its disk, and in it databases with the schema `notifier` and the benches' tables.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use parkmate_notifier::cli::private_postgres::PrivatePostgres;
use parkmate_notifier::store::Store;
use tokio::process::Command;
use tokio_postgres::{Client, NoTls};

use super::process::Process;
use super::{Crowd, Load, eventually, usage};

/// Nothing of a checkpoint falls into a measurement that is seconds long; the rest is as Postgres comes.
const SETTINGS: [&str; 3] = ["fsync = on", "max_wal_size = '16GB'", "checkpoint_timeout = '1h'"];

/// A server of one bench's own, ended when dropped.
pub struct Place {
    server: PrivatePostgres,
    /// Its first process, the parent of all others.
    pub postmaster: u32,
    programs: PathBuf,
}

impl Place {
    /// Starts the server, with one database for each name.
    pub async fn with(databases: &[&str]) -> Self {
        let server = PrivatePostgres::start_with(&SETTINGS).await.expect("a Postgres to measure with");
        let admin = connect(&server.url("postgres", "postgres")).await;
        admin.batch_execute("create role parkmate login").await.unwrap();
        for name in databases {
            admin.batch_execute(&format!("create database {name} owner parkmate")).await.unwrap();
            let url = server.url("parkmate", name);
            Store::new(&url.parse().unwrap(), 2).unwrap().migrate().await.expect("migrating");
            connect(&url).await.batch_execute(include_str!("../schema.sql")).await.expect("benches/schema.sql");
        }
        let pid = fs::read_to_string(server.folder().join("data/postmaster.pid")).unwrap();
        let postmaster = pid.lines().next().unwrap().parse().unwrap();
        let sql = "select setting from pg_config where name = 'BINDIR'";
        let programs: String = admin.query_one(sql, &[]).await.unwrap().get(0);
        Self { server, postmaster, programs: programs.into() }
    }

    /// The owner's address of a database.
    pub fn url(&self, database: &str) -> String {
        self.server.url("parkmate", database)
    }

    /// The owner's connection to a database.
    pub async fn owner(&self, database: &str) -> Client {
        connect(&self.url(database)).await
    }

    /// The superuser's address of a database.
    pub fn superuser_url(&self, database: &str) -> String {
        self.server.url("postgres", database)
    }

    /// The superuser's connection to a database.
    pub async fn superuser(&self, database: &str) -> Client {
        connect(&self.superuser_url(database)).await
    }

    /// Waits until there are rows of all that was told by the thousand in a database.
    pub async fn all_rows(&self, database: &str) {
        let owner = self.owner(database).await;
        eventually("there are rows of all", || async {
            owner.query("select from notifier.bulk limit 1", &[]).await.unwrap().is_empty()
        })
        .await;
    }

    /// Starts the service on a database, as it comes.
    pub async fn serve(&self, database: &str) -> Process {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Process::start_with(&self.url(database), port, &[]).await
    }

    /// CPU seconds of the whole server since its start.
    pub fn cpu(&self) -> f64 {
        usage::cpu_of_family(self.postmaster)
    }

    /// Transactions a second of so many clients of pgbench, in so many seconds after the first two: in those each session reads its
    /// catalogs and plans, which takes it some thirty times as long as a commit.
    pub async fn commits(&self, database: &str, script: &str, clients: u64, seconds: u64, options: &str) -> f64 {
        let time = (seconds + 2).to_string();
        let said = self.pgbench(database, script, clients, &["--progress", "1", "--time", &time], options).await;
        let lines = said.lines().filter(|line| line.starts_with("progress: ")).skip(2);
        let rates: Vec<f64> = lines.map(|line| line.split(' ').nth(3).unwrap().parse().unwrap()).collect();
        // Without any, connecting alone took the time.
        if rates.is_empty() { 0.0 } else { rates.iter().sum::<f64>() / rates.len() as f64 }
    }

    /// Runs a script of pgbench in a database with so many clients: for so long, or each of them so often. Returns its report of
    /// progress.
    pub async fn pgbench(&self, database: &str, script: &str, clients: u64, limit: &[&str], options: &str) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(script.as_bytes()).unwrap();
        let output = self
            .clients(clients)
            .args(["--file", file.path().to_str().unwrap()])
            .args(limit)
            .arg(self.url(database))
            .env("PGOPTIONS", options)
            .output()
            .await
            .expect("pgbench comes with Postgres");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && !said.contains("aborted"), "{said}");
        said
    }

    /// Starts pgbench with so many clients, each of which runs one of the scripts after the other, by chance. It goes on until it
    /// is stopped.
    pub async fn load(&self, database: &str, scripts: &[String], clients: u64) -> Load {
        let folder = tempfile::tempdir().unwrap();
        let mut pgbench = self.clients(clients);
        for (number, script) in scripts.iter().enumerate() {
            let path = folder.path().join(format!("script_{number}"));
            fs::write(&path, script).unwrap();
            pgbench.arg("--file").arg(path);
        }
        // Bounded all the same, should nobody be left to stop it.
        let limit = (2 * super::LIMIT).as_secs().to_string();
        let log = folder.path().join(Load::LOG);
        pgbench.args(["--time", &limit, "--log", "--log-prefix", log.to_str().unwrap(), &self.url(database)]);
        let child = pgbench.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        Load::started(child.expect("pgbench comes with Postgres"), folder, self.superuser("postgres").await, clients)
            .await
    }

    /// pgbench with all but what it is to do, where, and for how long.
    fn clients(&self, clients: u64) -> Command {
        let mut pgbench = Command::new(self.programs.join("pgbench"));
        pgbench
            .args(["--no-vacuum", "--protocol=prepared", "--client", &clients.to_string()])
            .args(["--jobs", &clients.min(2).to_string()])
            .kill_on_drop(true);
        pgbench
    }
}

/// A connection; it ends with the runtime.
pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connecting");
    tokio::spawn(connection);
    client
}

/// Waits until the service is idle: what a measurement left behind belongs to none of the next.
pub async fn settle(service: &Process) {
    let pid = service.child.id().unwrap();
    let started = Instant::now();
    loop {
        let before = usage::cpu(pid);
        tokio::time::sleep(Duration::from_millis(300)).await;
        // Its sockets' idle pings and its looks at the database each second stay below a tenth of a core.
        if usage::cpu(pid) - before < 0.04 {
            return;
        }
        assert!(started.elapsed() < super::LIMIT, "the service never comes to rest");
    }
}

/// Closes sockets and waits until the service has noticed.
pub async fn close(crowd: Crowd, service: &Process) {
    crowd.close().await;
    settle(service).await;
}
