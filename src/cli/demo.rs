//! `demo`: a throw-away Postgres, the parking application, the service, and a page to press buttons on.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;

use super::private_postgres::PrivatePostgres;
use super::serve::bind;
use crate::auth::AuthMode;
use crate::config::{DatabaseConfig, DemoConfig, ServeConfig};
use crate::http::demo::Demo;
use crate::server;
use crate::store::Store;

/// The parking application as it was before anybody thought of notifications, and the ten events on top of it.
const SCHEMA: &str = include_str!("../../sql/parkmate/schema.sql");
const SAMPLE: &str = include_str!("../../sql/parkmate/sample.sql");
const EVENTS: &str = include_str!("../../sql/parkmate/events.sql");

pub(super) async fn run(config: DemoConfig, stop: CancellationToken) -> Result<()> {
    config.check()?;
    println!("starting a throw-away Postgres ...");
    let prepared = tokio::select! {
        prepared = prepare() => prepared?,
        () = stop.cancelled() => return Ok(()),
    };
    let listener = bind(config.listen).or_else(|error| {
        println!("{error:#}: taking a free port instead");
        bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    })?;
    println!("\n  open    http://{}/", listener.local_addr()?);
    println!("  write   {}      as the application", prepared.psql);
    println!("  define  {}          as the DBA", prepared.psql.replace("parking_app@", "parkmate@"));
    println!("\nCtrl-C ends it; nothing stays behind.");
    let serve = ServeConfig::new(prepared.owner, listener.local_addr()?, AuthMode::None)?;
    server::run(serve, listener, Some(prepared.demo), stop).await
}

struct Prepared {
    owner: DatabaseConfig,
    demo: Demo,
    psql: String,
    /// Lives as long as the demo does.
    _postgres: PrivatePostgres,
}

async fn prepare() -> Result<Prepared> {
    let postgres = PrivatePostgres::start().await?;
    // Not as a superuser: the owner of a database is enough, and the application's own role has no right of ours.
    let admin = Store::new(&postgres.url("postgres", "postgres").parse()?, 2)?;
    admin.run_script("create role parkmate login").await?;
    admin.run_script("create role parking_app login").await?;
    admin.run_script("create database parkmate owner parkmate").await?;

    let owner = DatabaseConfig { database_url: postgres.url("parkmate", "parkmate").parse()? };
    let store = Store::new(&owner.database_url, 2)?;
    store.run_script(SCHEMA).await.context("sql/parkmate/schema.sql")?;
    store.run_script(SAMPLE).await.context("sql/parkmate/sample.sql")?;
    store.migrate().await?;
    store.run_script(EVENTS).await.context("sql/parkmate/events.sql")?;
    let grant = "grant select, insert, update, delete on all tables in schema public to parking_app";
    store.run_script(grant).await?;

    let application = postgres.url("parking_app", "parkmate");
    let psql = format!("psql '{application}'");
    let demo = Demo::new(Store::new(&application.parse()?, 2)?, store, psql.clone())?;
    Ok(Prepared { owner, demo, psql, _postgres: postgres })
}
