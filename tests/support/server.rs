//! A Postgres of one test's own, to be hurt: ended in any way and started again on the same data and port, in an environment of
//! its own. Where tests only use a server they share [`super::database::postgres`].

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use tokio_postgres::NoTls;

use super::checker::Place;
use super::{database, eventually};

/// Takes orders, a line each: `start`, and `kill SIGNAL`, answered when the server has ended. When the pipe to it closes, in
/// whatever way the test ends, it ends the server and removes its folder.
const KEEPER: &str = r#"
server=
trap '' INT HUP TERM
while read -r order signal; do
  case $order in
    start) env $3 "$1/postgres" -D "$2/data" >>"$2/log" 2>&1 & server=$! ;;
    kill) kill "-$signal" "$server"; wait "$server"; server=; echo ended ;;
  esac
done
if [ -n "$server" ]; then kill -QUIT "$server"; wait "$server"; fi
rm -rf "$2"
"#;

/// How a server differs from the usual one.
#[derive(Default)]
pub struct Surroundings<'a> {
    /// Lines of postgresql.conf.
    pub settings: &'a [&'a str],
    /// Variables of the server's environment, as `NAME=value`.
    pub environment: &'a [&'a str],
    /// A network namespace to run in, and an address of it; 127.0.0.1 here otherwise.
    pub namespace: Option<(&'a str, &'a str)>,
}

/// A running server with one database, `app`: the parking application with its events.
pub struct Server {
    keeper: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    folder: PathBuf,
    host: String,
    port: u16,
}

impl Server {
    /// Starts one. Without `fsync = on` among the settings it waits for no disk, which only a crash of the machine would tell.
    pub async fn start(settings: &[&str]) -> Self {
        Self::start_in(Surroundings { settings, ..Surroundings::default() }).await
    }

    pub async fn start_in(surroundings: Surroundings<'_>) -> Self {
        let mut server = Self::create(&surroundings).await;
        server.start_again().await;
        let admin = server.superuser("postgres").await;
        database::prepare(&admin, &server.place().url("parkmate"), "app").await;
        server
    }

    /// Starts one with nothing in it.
    pub async fn empty(settings: &[&str]) -> Self {
        let mut server = Self::create(&Surroundings { settings, ..Surroundings::default() }).await;
        server.start_again().await;
        server
    }

    async fn create(surroundings: &Surroundings<'_>) -> Self {
        // Programs and user are those of the server that all tests share.
        let shared = database::postgres();
        let admin = database::connect(&shared.url("postgres", "postgres")).await;
        let programs: String = programs(&admin).await;
        let owner = std::fs::metadata(shared.folder()).unwrap();
        let (uid, gid) = (owner.uid(), owner.gid());
        let folder = tempfile::Builder::new().prefix("parkmate-notifier-").tempdir().unwrap().keep();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        let own = std::fs::metadata(&folder).unwrap().uid();
        let is_other = own != uid;
        if is_other {
            chown(&folder, Some(uid), Some(gid)).unwrap();
        }

        let mut initdb = Command::new(Path::new(&programs).join("initdb"));
        initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "--pgdata"]);
        initdb.arg(folder.join("data")).current_dir("/").env("LC_ALL", "C");
        if is_other {
            initdb.uid(uid).gid(gid);
        }
        let output = initdb.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (address, port) = (surroundings.namespace.map_or("127.0.0.1", |(_, address)| address), free_port());
        let mut configuration = format!(
            "listen_addresses = '{}'\nport = {port}\nunix_socket_directories = ''\nmax_connections = 200\nfsync = off\n",
            if surroundings.namespace.is_some() { "*" } else { address }
        );
        for setting in surroundings.settings {
            configuration += &format!("{setting}\n");
        }
        std::fs::write(folder.join("data/postgresql.auto.conf"), configuration).unwrap();
        if surroundings.namespace.is_some() {
            std::fs::write(folder.join("data/pg_hba.conf"), "host all all all trust\n").unwrap();
        }

        let script = ["-c", KEEPER, "keeper", &programs, folder.to_str().unwrap(), &surroundings.environment.join(" ")];
        let mut keeper = match surroundings.namespace {
            Some((name, _)) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name, "setpriv"]);
                command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()]);
                command.arg("/bin/sh");
                command
            }
            None => {
                let mut command = Command::new("/bin/sh");
                if is_other {
                    command.uid(uid).gid(gid);
                }
                command
            }
        };
        keeper.args(script).current_dir("/").env("LC_ALL", "C").process_group(0);
        let mut keeper =
            keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the keeper");
        let (orders, answers) = (keeper.stdin.take(), BufReader::new(keeper.stdout.take().unwrap()));
        Self { keeper, orders, answers, folder, host: format!("{address}:{port}"), port }
    }

    /// Starts the server on its data and port, and returns when it answers.
    pub async fn start_again(&mut self) {
        self.order("start");
        let url = format!("postgresql://postgres@{}/postgres", self.host);
        eventually("the server answers", || async {
            let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await else { return false };
            tokio::spawn(connection);
            let row = client.query_one("show data_directory", &[]).await;
            row.is_ok_and(|row| Path::new(row.get::<_, &str>(0)) == self.folder.join("data"))
        })
        .await;
    }

    /// Ends it with a signal to its first process: QUIT is `pg_ctl -m immediate`, a crash. Returns when it has ended.
    pub fn end(&mut self, signal: &str) {
        self.order(&format!("kill {signal}"));
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert_eq!(line, "ended\n");
    }

    fn order(&mut self, order: &str) {
        writeln!(self.orders.as_mut().unwrap(), "{order}").unwrap();
    }

    /// Puts a file into its data directory, as its own and nobody else's, in the place of one that may be there.
    pub fn put(&self, name: &str, text: &str) {
        let (path, new) = (self.folder.join("data").join(name), self.folder.join("new"));
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
        let owner = std::fs::metadata(self.folder.join("data")).unwrap();
        chown(&new, Some(owner.uid()), Some(owner.gid())).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// The address of its database.
    pub fn place(&self) -> Place {
        Place { host: self.host.clone(), database: "app".to_owned() }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection as superuser to a database of it.
    pub async fn superuser(&self, name: &str) -> tokio_postgres::Client {
        database::connect(&format!("postgresql://postgres@{}/{name}", self.host)).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.keeper.wait();
    }
}

/// Where the server's programs are.
pub async fn programs(client: &tokio_postgres::Client) -> String {
    client.query_one("select setting from pg_config where name = 'BINDIR'", &[]).await.unwrap().get(0)
}

/// Below 32768: higher ones meet outgoing connections now and then. Each test of this run asks for another one.
pub fn free_port() -> u16 {
    static NEXT: std::sync::OnceLock<std::sync::atomic::AtomicU16> = std::sync::OnceLock::new();
    let next = NEXT.get_or_init(|| std::sync::atomic::AtomicU16::new(fastrand::u16(20_000..31_000)));
    loop {
        let port = 20_000 + next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 12_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
