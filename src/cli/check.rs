//! `check`: say what is wrong with the events of a database.

use anyhow::{Result, bail};

use crate::config::DatabaseConfig;
use crate::store::Store;

pub(super) async fn run(config: DatabaseConfig) -> Result<()> {
    let store = Store::new(&config.database_url, 2)?;
    let findings = store.check().await?;
    for finding in &findings {
        let event = finding.event.as_ref().map(|event| format!("{event}: ")).unwrap_or_default();
        println!("{}: {event}{}\n  {}", finding.severity, finding.problem, finding.fix.replace('\n', "\n  "));
    }
    match findings.iter().filter(|finding| finding.severity == "error").count() {
        0 if findings.is_empty() => println!("all is well: {}", store.place()),
        0 => {}
        1 => bail!("1 error: somebody is not told"),
        errors => bail!("{errors} errors: somebody is not told"),
    }
    Ok(())
}
