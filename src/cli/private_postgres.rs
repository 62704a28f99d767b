//! A Postgres of one's own for the demo and the tests: found, not installed; in a temporary folder; gone with its owner.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::store::DatabaseUrl;

/// How long the server may take to answer.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Ends the server and removes its folder as soon as the pipe to its owner closes: whatever way the owner ends, `kill -9`
/// included. The owner's own clean-up would run only on the better ones.
pub const KEEPER: &str = r#"
"$1/postgres" -D "$2/data" >"$2/log" 2>&1 &
server=$!
trap '' INT HUP TERM
cat >/dev/null
kill -QUIT "$server" 2>/dev/null
wait "$server"
rm -rf "$2"
"#;

/// A running server that trusts everybody on this machine's loopback. Dropping it ends it and waits for the end.
pub struct PrivatePostgres {
    keeper: Child,
    folder: PathBuf,
    port: u16,
}

impl PrivatePostgres {
    /// Starts one. As root it runs as `postgres` or `nobody`, since Postgres refuses root.
    ///
    /// # Errors
    /// No Postgres is found, or it does not start; its own words are in the message.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts one with settings of `postgresql.conf` of its own.
    ///
    /// # Errors
    /// See [`Self::start`].
    pub async fn start_with(settings: &[&str]) -> Result<Self> {
        // A port that is free now may be another's in a moment: then once more.
        let mut again = 5;
        loop {
            match Self::start_once(settings).await {
                Err((error, log)) if again > 0 && (log.contains("could not bind") || log.is_empty()) => {
                    debug!(error = format!("{error:#}"), "trying another port");
                    again -= 1;
                }
                started => return started.map_err(|(error, _)| error),
            }
        }
    }

    /// The error comes with the server's log.
    async fn start_once(settings: &[&str]) -> Result<Self, (anyhow::Error, String)> {
        let server = Self::spawn(settings).map_err(|error| (error, String::new()))?;
        match server.wait_until_it_answers().await {
            Ok(()) => Ok(server),
            Err(error) => Err((error, server.log())),
        }
    }

    fn spawn(settings: &[&str]) -> Result<Self> {
        let programs = find_programs()?;
        let user = unprivileged_user()?;
        let folder = tempfile::Builder::new().prefix("parkmate-notifier-").tempdir()?;
        fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        if let Some((uid, gid)) = user {
            chown(&folder, Some(uid), Some(gid))?;
        }
        let as_user = |program: &Path| {
            let mut command = Command::new(program);
            command.current_dir("/").env("LC_ALL", "C");
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command
        };

        let mut initdb = as_user(&programs.join("initdb"));
        initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "--pgdata"]);
        said(initdb.arg(folder.path().join("data")).output()?).context("initdb")?;
        let port = free_port()?;
        let mut configuration = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\nfsync = off\nmax_connections = 200\n"
        );
        for setting in settings {
            configuration += &format!("{setting}\n");
        }
        fs::write(folder.path().join("data/postgresql.auto.conf"), configuration)?;

        let mut keeper = as_user(Path::new("/bin/sh"));
        keeper.args(["-c", KEEPER, "keeper"]).arg(&programs).arg(folder.path());
        // A group of its own: Ctrl-C is for the owner, which closes its sockets before its database goes.
        let keeper =
            keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn()?;
        // From here on the keeper removes it.
        Ok(Self { keeper, folder: folder.keep(), port })
    }

    /// The address of a database of this server.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgresql://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// The server's folder; `data` in it is its data directory.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the server logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    async fn wait_until_it_answers(&self) -> Result<()> {
        let url: DatabaseUrl = self.url("postgres", "postgres").parse()?;
        let started = Instant::now();
        loop {
            match crate::store::Store::new(&url, 2)?.link().await {
                Ok(mut link) => {
                    // Another's server may have got the port first, and trust us as well.
                    let rows = link.query("show data_directory").await?;
                    let own = self.folder.join("data");
                    ensure!(rows.first().and_then(|row| row.get(0)) == own.to_str(), "the port is another server's");
                    return Ok(());
                }
                Err(error) => {
                    let log = self.log();
                    if started.elapsed() > START_LIMIT || log.contains("FATAL") && !log.contains("starting up") {
                        return Err(error.context(format!("Postgres did not start; it says:\n{log}")));
                    }
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// The folder with `initdb` and `postgres`: on PATH, or the newest of the usual places.
fn find_programs() -> Result<PathBuf> {
    let on_path = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let mut usual: Vec<PathBuf> = ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr"]
        .iter()
        .flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| {
            !path.starts_with("/usr") || path.starts_with("/usr/lib") || path.to_string_lossy().contains("pgsql-")
        })
        .collect();
    usual.push("/usr/local/pgsql".into());
    // By version, so that 9 does not come after 15.
    let version = |path: &PathBuf| {
        path.file_name()
            .and_then(|name| {
                name.to_str()?.trim_start_matches("postgresql@").trim_start_matches("pgsql-").parse::<f64>().ok()
            })
            .unwrap_or(0.0)
    };
    usual.sort_by(|a, b| version(b).total_cmp(&version(a)));
    on_path
        .into_iter()
        .chain(usual.into_iter().map(|place| place.join("bin")))
        .find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
        .context(
            "no Postgres found, neither on PATH nor in /usr/lib/postgresql: install one \
             (Debian, Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server; macOS: brew install postgresql)",
        )
}

/// Whom to be when this is root: (uid, gid).
fn unprivileged_user() -> Result<Option<(u32, u32)>> {
    let id = |arguments: &[&str]| -> Option<u32> {
        let output = Command::new("id").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().parse().ok())?
    };
    if id(&["-u"]) != Some(0) {
        return Ok(None);
    }
    ["postgres", "nobody"]
        .iter()
        .find_map(|name| Some(Some((id(&["-u", name])?, id(&["-g", name])?))))
        .context("Postgres refuses to run as root, and there is neither a user postgres nor nobody to run it as")
}

/// Below 32768: higher ones meet outgoing connections now and then.
fn free_port() -> Result<u16> {
    for _ in 0..100 {
        let port = fastrand::u16(20_000..32_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between 20000 and 32000")
}

fn said(output: Output) -> Result<()> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
