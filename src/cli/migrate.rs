//! `migrate`: bring the schema `notifier` to this version.

use anyhow::Result;
use tracing::warn;

use crate::config::DatabaseConfig;
use crate::store::Store;

pub(super) async fn run(config: DatabaseConfig) -> Result<()> {
    let migrated = Store::new(config.database_url.clone(), 2)?.migrate().await?;
    for name in &migrated.applied {
        println!("applied {name}");
    }
    println!("functions applied, {} events generated again: {} is ready", migrated.events, config.database_url);
    if migrated.superuser {
        warn!("the schema notifier belongs to a superuser, and its functions run as one: better migrate as the database's owner");
    }
    Ok(())
}
