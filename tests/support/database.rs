//! One throw-away Postgres for the test run, and a database of its own for each test.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use parkmate_notifier::cli::private_postgres::PrivatePostgres;
use parkmate_notifier::store::Store;
use tokio_postgres::{Client, NoTls, Row};

/// The parking application with its ten events, migrated once and copied for each test.
pub const TEMPLATE: &str = "parkmate_template";

/// The server all tests share. Ended by its keeper when this process ends, in whatever way.
pub fn postgres() -> &'static PrivatePostgres {
    static SERVER: OnceLock<PrivatePostgres> = OnceLock::new();
    // A thread and a runtime of its own: the first test's runtime ends with that test.
    SERVER.get_or_init(|| {
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = PrivatePostgres::start_with(&["max_prepared_transactions = 10"])
                    .await
                    .expect("a Postgres to test with");
                refuse_another_major(&server).await;
                prepare_template(&server).await;
                server
            })
        })
        .join()
        .unwrap()
    })
}

/// Where a run is meant for one major version of Postgres, it is not to pass on whatever else is installed.
async fn refuse_another_major(server: &PrivatePostgres) {
    let Ok(expected) = std::env::var("EXPECTED_POSTGRES") else { return };
    let admin = connect(&server.url("postgres", "postgres")).await;
    let version: String = admin.query_one("show server_version", &[]).await.unwrap().get(0);
    assert_eq!(version.split('.').next(), Some(expected.as_str()), "PATH leads to Postgres {version}");
}

/// The roles and the template on a server.
pub async fn prepare_template(server: &PrivatePostgres) {
    let admin = connect(&server.url("postgres", "postgres")).await;
    prepare(&admin, &server.url("parkmate", TEMPLATE), TEMPLATE).await;
}

/// Makes the roles of a new server, and in it a database with the parking application and its ten events. `url` is its owner's.
pub async fn prepare(admin: &Client, url: &str, name: &str) {
    admin.batch_execute("create role parkmate login; create role parking_app login").await.unwrap();
    admin.batch_execute(&format!("create database {name} owner parkmate")).await.unwrap();
    Store::new(&url.parse().unwrap(), 2).unwrap().migrate().await.expect("migrate as an owner who is no superuser");
    let owner = connect(url).await;
    load_parkmate(&owner).await;
    owner.batch_execute(include_str!("../../sql/parkmate/events.sql")).await.expect("events.sql");
}

/// Loads the parking application without its events.
pub async fn load_parkmate(owner: &Client) {
    owner.batch_execute(include_str!("../../sql/parkmate/schema.sql")).await.expect("schema.sql");
    owner.batch_execute(include_str!("../../sql/parkmate/sample.sql")).await.expect("sample.sql");
    owner
        .batch_execute("grant select, insert, update, delete on all tables in schema public to parking_app")
        .await
        .unwrap();
}

/// A connection of a test's own.
pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connecting");
    tokio::spawn(connection);
    client
}

/// A database, its owner's connection, and that of an application without any right in the schema `notifier`.
pub struct Database {
    server: &'static PrivatePostgres,
    pub name: String,
    pub owner: Client,
    pub app: Client,
}

impl Database {
    /// With the parking application and its ten events. It is no copy any more: its epoch has begun.
    pub async fn new() -> Self {
        let database = Self::copy_of(TEMPLATE).await;
        database.rows("select notifier.identify('')").await;
        database
    }

    /// With nothing in it.
    pub async fn empty() -> Self {
        Self::copy_of("template0").await
    }

    /// On a server of its own, with the parking application: for what other tests would notice, such as a transaction that stays
    /// open for long. The server lives as long as the test run.
    pub async fn alone() -> Self {
        let server = PrivatePostgres::start_with(&["max_prepared_transactions = 10"]).await.expect("a Postgres");
        prepare_template(&server).await;
        Self::at(Box::leak(Box::new(server)), TEMPLATE.to_owned()).await
    }

    async fn copy_of(template: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let admin = connect(&postgres().url("postgres", "postgres")).await;
        admin.batch_execute(&format!("create database {name} template {template} owner parkmate")).await.unwrap();
        Self::at(postgres(), name).await
    }

    async fn at(server: &'static PrivatePostgres, name: String) -> Self {
        let (owner, app) = (server.url("parkmate", &name), server.url("parking_app", &name));
        Self { owner: connect(&owner).await, app: connect(&app).await, server, name }
    }

    /// The same one, through new connections.
    pub async fn anew(&self) -> Self {
        Self::at(self.server, self.name.clone()).await
    }

    /// The owner's address of it.
    pub fn url(&self) -> String {
        self.server.url("parkmate", &self.name)
    }

    /// A connection as the cluster's superuser.
    pub async fn superuser(&self) -> Client {
        connect(&self.server.url("postgres", &self.name)).await
    }

    /// One more connection of the application.
    pub async fn another_app(&self) -> Client {
        connect(&self.server.url("parking_app", &self.name)).await
    }

    /// Lets nobody in any more and ends the service's connections.
    pub async fn go_away(&self) {
        let admin = connect(&postgres().url("postgres", "postgres")).await;
        admin.batch_execute(&format!("alter database {} allow_connections false", self.name)).await.unwrap();
        let kill = format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}' and application_name = 'parkmate-notifier'",
            self.name
        );
        admin.batch_execute(&kill).await.unwrap();
    }

    /// Lets everybody in again.
    pub async fn come_back(&self) {
        let admin = connect(&postgres().url("postgres", "postgres")).await;
        admin.batch_execute(&format!("alter database {} allow_connections true", self.name)).await.unwrap();
    }

    /// Writes as the application.
    pub async fn write(&self, sql: &str) {
        self.app
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("the application's write failed: {error:?}\n{sql}"));
    }

    /// Runs SQL as the owner.
    pub async fn run(&self, sql: &str) {
        self.owner.batch_execute(sql).await.unwrap_or_else(|error| panic!("{error:?}\n{sql}"));
    }

    /// How many faults were kept. (That a query was slow says something of the machine.)
    pub async fn faults(&self) -> i64 {
        self.one("select count(*) from notifier.fault where sqlstate <> 'NTF01'").await
    }

    /// Lets go of what says something of the machine.
    pub async fn forget_slowness(&self) {
        for table in ["fault_record", "fault_total"] {
            self.run(&format!("delete from notifier.{table} where sqlstate = 'NTF01'")).await;
        }
    }

    /// The present epoch's token.
    pub async fn epoch(&self) -> String {
        self.one("select token from notifier.epoch order by number desc limit 1").await
    }

    /// Which relay leads: a number that grows with each.
    pub async fn generation(&self) -> i64 {
        self.one("select generation from notifier.progress").await
    }

    /// How many sessions wait for a lock in a function of ours.
    pub async fn waiting_in(&self, function: &str) -> i64 {
        let sql = format!(
            "select count(*) from pg_stat_activity
             where datname = current_database() and query like '%notifier.{function}(%' and wait_event_type = 'Lock'"
        );
        self.one(&sql).await
    }

    /// Does what a service owes now, to its end.
    pub async fn work(&self) {
        for _ in 0..1_000 {
            if self.one::<f64>("select notifier.work()").await > 0.0 {
                return;
            }
        }
        panic!("there is always more to do");
    }

    /// The first column of the first row, asked as the owner.
    pub async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> T {
        self.rows(sql).await.first().unwrap_or_else(|| panic!("no row: {sql}")).get(0)
    }

    /// All rows, asked as the owner.
    pub async fn rows(&self, sql: &str) -> Vec<Row> {
        self.owner.query(sql, &[]).await.unwrap_or_else(|error| panic!("{error:?}\n{sql}"))
    }
}
