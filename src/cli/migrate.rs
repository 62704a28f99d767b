//! `migrate`: bring the schema `notifier` to this version.

use anyhow::Result;
use tracing::warn;

use crate::config::DatabaseConfig;
use crate::store::Store;

pub(super) async fn run(config: DatabaseConfig) -> Result<()> {
    let store = Store::new(&config.database_url, 2)?;
    let migrated = store.migrate().await?;
    for name in &migrated.applied {
        println!("applied {name}");
    }
    println!("functions applied, {} events generated again: {} is ready", migrated.events, store.place());
    if migrated.superuser {
        warn!(
            "the schema notifier belongs to a superuser, and its functions run as one: better migrate as the database's owner"
        );
    }
    Ok(())
}
