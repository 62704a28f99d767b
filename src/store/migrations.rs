//! Brings the schema `notifier` to this binary's version, and tells whether it is.
//!
//! State is migrated by numbered files, each once; functions are applied again by each `migrate`, in one transaction, and
//! the events' functions are generated again after that.

use anyhow::{Context, Result, bail};
use tokio_postgres::Client;

use super::Link;

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// `sql/functions/*/*.sql` by name, whatever their folder, which is an order in which they can be applied.
const FUNCTIONS: &[&str] = include!(concat!(env!("OUT_DIR"), "/functions.rs"));

/// The first major version with `idle_session_timeout`, without which a frozen relay keeps its locks.
const OLDEST_POSTGRES: i64 = 14;

/// Tells one release's functions from another's: FNV-1a of their text.
fn fingerprint() -> String {
    let bytes = FUNCTIONS.iter().flat_map(|function| function.bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

/// Functions of an older release that this one does not have: those that this transaction did not create or replace.
const DROP_STALE: &str = r"do $$
declare
  _stale regprocedure;
begin
  for _stale in
    select p.oid from pg_catalog.pg_proc p
    where p.pronamespace = 'notifier'::regnamespace and p.xmin <> pg_current_xact_id()::xid
      and p.proname !~ '^(on_write|fire|backfill)_\d+$'
  loop
    execute format('drop function %s', _stale);
  end loop;
end $$";

/// What [`super::Store::migrate`] did.
pub struct Migrated {
    /// The migrations applied now, by file name.
    pub applied: Vec<String>,
    /// How many events there are; their functions were generated again.
    pub events: i64,
    /// Whether our functions belong to a superuser, and so run as one.
    pub superuser: bool,
}

pub(super) async fn migrate(link: Link) -> Result<Migrated> {
    let (mut client, connection) = link.into_parts();
    tokio::select! {
        migrated = apply(&mut client) => migrated,
        closed = connection => match closed {
            Ok(()) => bail!("the server closed the connection"),
            Err(error) => Err(error.into()),
        },
    }
}

async fn apply(client: &mut Client) -> Result<Migrated> {
    let row = client
        .query_one(
            "select current_setting('server_version_num')::int8 / 10000, current_setting('server_encoding'), r.rolsuper
             from pg_roles r where r.rolname = current_user",
            &[],
        )
        .await?;
    let (major, encoding, superuser): (i64, String, bool) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if major < OLDEST_POSTGRES {
        bail!("the server is Postgres {major}; {OLDEST_POSTGRES} or newer is needed");
    }
    if encoding != "UTF8" {
        bail!("the database is encoded in {encoding}; notifications are JSON and need UTF8");
    }

    // What is committed while a statement waits has to be seen, whatever the database's default is.
    client.batch_execute("set default_transaction_isolation = 'read committed'").await?;
    // refinery takes no lock: of four starters at once all but one would fail. This one goes with the session.
    client.batch_execute("select pg_advisory_lock(7809647138214477425)").await?;
    if let Some(version) = version(client).await? {
        refuse_newer(version)?;
    }
    // `create schema` asks for a privilege even where there is nothing to create.
    if !client.query_one("select to_regnamespace('notifier') is not null", &[]).await?.try_get::<_, bool>(0)? {
        client.batch_execute("create schema notifier").await.context(
            "creating the schema notifier: the role needs the privilege CREATE on the database, which its owner has",
        )?;
    }
    let report = embedded::migrations::runner()
        .set_migration_table_name("notifier.schema_history")
        .run_async(client)
        .await
        .context("applying migrations/")?;

    let transaction = client.transaction().await?;
    transaction.batch_execute("set local check_function_bodies = off; set local client_min_messages = warning").await?;
    for function in FUNCTIONS {
        let name = || function.lines().next().unwrap_or_default().trim_start_matches("-- ").to_owned();
        transaction.batch_execute(function).await.with_context(name)?;
    }
    transaction.batch_execute(DROP_STALE).await?;
    let events = transaction.query_one("select notifier.regenerate()", &[]).await?.try_get(0)?;
    let note = "insert into notifier.setting (name, value) values ('functions', $1)
                on conflict (name) do update set value = excluded.value";
    transaction.execute(note, &[&fingerprint()]).await?;
    transaction.execute("select notifier.grant_roles()", &[]).await?;
    transaction.commit().await?;

    let applied = report.applied_migrations().iter().map(ToString::to_string).collect();
    Ok(Migrated { applied, events, superuser })
}

pub(super) async fn check(link: &mut Link) -> Result<()> {
    // Simple statements alone: behind a pooler this has to come as far as the listener, which says what is wrong.
    let present = link.query("select to_regclass('notifier.schema_history') is not null").await?;
    if present.first().and_then(|row| row.get(0)) != Some("t") {
        bail!("the database has no schema notifier: run `parkmate-notifier migrate` first");
    }
    let rows = link.query("select max(version) from notifier.schema_history").await?;
    let version: i32 = rows.first().and_then(|row| row.get(0)).unwrap_or("0").parse()?;
    refuse_newer(version)?;
    if version < newest() {
        bail!(
            "the database is at version {version} of the schema notifier and this binary works with {}: \
             run `parkmate-notifier migrate` of this version first",
            newest()
        );
    }
    let rows = link.query("select value from notifier.setting where name = 'functions'").await?;
    if rows.first().and_then(|row| row.get(0)) != Some(&fingerprint()) {
        bail!(
            "the functions of the schema notifier are another release's: run `parkmate-notifier migrate` of this version"
        );
    }
    Ok(())
}

async fn version(client: &Client) -> Result<Option<i32>> {
    let present = client.query_one("select to_regclass('notifier.schema_history') is not null", &[]).await?;
    if !present.try_get::<_, bool>(0)? {
        return Ok(None);
    }
    Ok(client.query_one("select max(version) from notifier.schema_history", &[]).await?.try_get(0)?)
}

fn refuse_newer(version: i32) -> Result<()> {
    if version > newest() {
        bail!(
            "the database is at version {version} of the schema notifier, newer than this binary, which knows {}: \
             use a newer parkmate-notifier",
            newest()
        );
    }
    Ok(())
}

fn newest() -> i32 {
    embedded::migrations::runner().get_migrations().iter().map(|migration| migration.version()).max().unwrap_or(0)
}
