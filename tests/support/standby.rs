//! A primary and its streaming standby, both of the test's own, on one machine.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use parkmate_notifier::cli::private_postgres::{KEEPER, PrivatePostgres};
use tokio_postgres::Client;

use super::database::{TEMPLATE, connect, prepare_template};
use super::eventually;

/// Both servers hold the parking application with its ten events, in one database.
pub struct Pair {
    pub primary: PrivatePostgres,
    pub standby: Standby,
}

impl Pair {
    /// A primary, and a standby that streams from it.
    pub async fn new() -> Self {
        let primary = PrivatePostgres::start().await.expect("a primary");
        prepare_template(&primary).await;
        let standby = Standby::of(&primary);
        eventually("the standby streams", || async {
            tokio_postgres::connect(&standby.url("postgres"), tokio_postgres::NoTls).await.is_ok()
        })
        .await;
        Self { primary, standby }
    }

    /// From now on nothing is acknowledged that the standby has not got.
    pub async fn replicate_synchronously(&self) {
        let superuser = self.superuser().await;
        superuser.batch_execute("alter system set synchronous_standby_names = '*'").await.unwrap();
        superuser.batch_execute("select pg_reload_conf()").await.unwrap();
        eventually("commits wait for the standby", || async {
            let sync = "select count(*) from pg_stat_replication where sync_state = 'sync'";
            superuser.query_one(sync, &[]).await.unwrap().get::<_, i64>(0) == 1
        })
        .await;
    }

    /// A superuser's connection to the primary that was.
    pub async fn superuser(&self) -> Client {
        connect(&self.primary.url("postgres", TEMPLATE)).await
    }

    /// The application's connection to the primary that was.
    pub async fn app(&self) -> Client {
        connect(&self.primary.url("parking_app", TEMPLATE)).await
    }

    /// Host and port of both servers.
    pub fn places(&self) -> [String; 2] {
        let primary = self.primary.url("", "");
        let primary = primary.trim_start_matches("postgresql://@").trim_end_matches('/');
        [primary.to_owned(), format!("127.0.0.1:{}", self.standby.port)]
    }

    /// Ends the primary at once, as a power failure would.
    pub fn lose_the_primary(&self) {
        let file = fs::read_to_string(self.primary.folder().join("data/postmaster.pid")).unwrap();
        let pid = file.lines().next().unwrap();
        assert!(Command::new("kill").args(["-QUIT", pid]).status().unwrap().success());
    }
}

/// Dropping it ends it and removes its folder.
pub struct Standby {
    keeper: Child,
    port: u16,
}

impl Standby {
    fn of(primary: &PrivatePostgres) -> Self {
        let owner = fs::metadata(primary.folder()).unwrap();
        let folder = tempfile::Builder::new().prefix("parkmate-notifier-").tempdir().unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        chown(folder.path(), Some(owner.uid()), Some(owner.gid())).unwrap();
        // Its own command line says where the programs are.
        let options = fs::read_to_string(primary.folder().join("data/postmaster.opts")).unwrap();
        let programs = PathBuf::from(options.split(' ').next().unwrap()).parent().unwrap().to_owned();
        let as_owner = |program: &Path| {
            let mut command = Command::new(program);
            command.current_dir("/").env("LC_ALL", "C").uid(owner.uid()).gid(owner.gid());
            command
        };
        let data = folder.path().join("data");
        let copied = as_owner(&programs.join("pg_basebackup"))
            .args(["--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--no-sync"])
            .args(["--dbname", &primary.url("postgres", "postgres"), "--pgdata"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let port = (0..100)
            .map(|_| fastrand::u16(20_000..32_000))
            .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
            .expect("a free port");
        // Among the primary's own settings, which came with the copy: the last one holds.
        let settings = data.join("postgresql.auto.conf");
        fs::write(&settings, fs::read_to_string(&settings).unwrap() + &format!("port = {port}\n")).unwrap();
        let keeper = as_owner(Path::new("/bin/sh"))
            .args(["-c", KEEPER, "keeper"])
            .arg(&programs)
            .arg(folder.path())
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        // From here on the keeper removes it.
        let _ = folder.keep();
        Self { keeper, port }
    }

    /// Its address, for a role.
    pub fn url(&self, user: &str) -> String {
        format!("postgresql://{user}@127.0.0.1:{}/{TEMPLATE}", self.port)
    }

    /// Makes it a primary; returns when it is.
    pub async fn promote(&self) {
        let superuser = connect(&self.url("postgres")).await;
        assert!(superuser.query_one("select pg_promote()", &[]).await.unwrap().get::<_, bool>(0));
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
