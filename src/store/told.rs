//! A notification as a row of `notifier.stream`: in columns, which the database gives for a third of what JSON costs it.

use std::error::Error;

use anyhow::{Context, Result};
use serde_json::value::RawValue;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use crate::protocol::{CreatedAt, Notification, UserId, readable};

/// The first of its columns.
const FIRST: usize = 9;
/// From 1970 to 2000, where Postgres begins to count, in microseconds.
const TO_2000: i64 = 946_684_800_000_000;

/// # Errors
/// This binary cannot read it. The error quotes none of it.
pub fn notification(row: &Row) -> Result<Notification> {
    let data: Bytes = row.try_get(FIRST + 7)?;
    let data = data.0.strip_prefix(&[1]).context("jsonb of another version")?;
    let created_at: Bytes = row.try_get(FIRST + 8)?;
    let created_at = i64::from_be_bytes(created_at.0.try_into()?).checked_add(TO_2000).and_then(CreatedAt::at);
    Ok(Notification {
        id: row.try_get(FIRST)?,
        slot: row.try_get(FIRST + 1)?,
        xid: u64::from_be_bytes(row.try_get::<_, Bytes>(FIRST + 2)?.0.try_into()?),
        user_id: UserId::recorded(row.try_get(FIRST + 3)?),
        event: row.try_get(FIRST + 4)?,
        level: row.try_get::<_, &str>(FIRST + 5)?.parse().ok().context("another level")?,
        message: row.try_get(FIRST + 6)?,
        data: readable(RawValue::from_string(str::from_utf8(data)?.to_owned())?),
        created_at: created_at.context("an instant out of range")?,
    })
}

/// What Postgres sends for a type that the driver gives no Rust type for, or none that is of use here.
struct Bytes<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Bytes<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(kind: &Type) -> bool {
        matches!(*kind, Type::XID8 | Type::JSONB | Type::TIMESTAMPTZ)
    }
}
