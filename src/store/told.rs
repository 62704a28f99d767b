//! Notifications as `notifier.read_on` tells them: in columns, which the database gives for a third of what JSON costs it, and by the
//! thousand in arrays, for a hundredth.

use std::error::Error;
use std::iter;

use anyhow::{Context, Result, ensure};
use serde_json::value::RawValue;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use crate::protocol::{CreatedAt, Level, Notification, UserId, readable};

/// The first of their columns.
const FIRST: usize = 8;
/// The first of the arrays.
const ARRAYS: usize = FIRST + 9;
/// From 1970 to 2000, where Postgres begins to count, in microseconds.
const TO_2000: i64 = 946_684_800_000_000;

/// What stands in a row: one notification, or thousands of one event, each made when it is asked for.
///
/// # Errors
/// This binary cannot read it. The error quotes none of it.
pub fn notifications(row: &Row) -> Result<Box<dyn Iterator<Item = Result<Notification>> + Send + '_>> {
    let (slot, event, level) = (row.try_get(FIRST + 1)?, row.try_get(FIRST + 4)?, row.try_get::<_, &str>(FIRST + 5)?);
    let created_at = i64::from_be_bytes(row.try_get::<_, Bytes>(FIRST + 8)?.0.try_into()?).checked_add(TO_2000);
    let of_all = OfAll {
        slot,
        xid: u64::from_be_bytes(row.try_get::<_, Bytes>(FIRST + 2)?.0.try_into()?),
        event,
        level: level.parse().ok().context("another level")?,
        created_at: created_at.and_then(CreatedAt::at).context("an instant out of range")?,
    };
    if let Some(id) = row.try_get(FIRST)? {
        let one = of_all.with(id, row.try_get(FIRST + 3)?, row.try_get(FIRST + 6)?, &row.try_get(FIRST + 7)?);
        return Ok(Box::new(iter::once(one)));
    }
    let (ids, users): (Vec<i64>, Vec<&str>) = (row.try_get(ARRAYS)?, row.try_get(ARRAYS + 1)?);
    let (messages, data): (Vec<&str>, Vec<Bytes>) = (row.try_get(ARRAYS + 2)?, row.try_get(ARRAYS + 3)?);
    let lengths = [users.len(), messages.len(), data.len()];
    ensure!(lengths == [ids.len(); 3], "arrays of different lengths");
    let all = ids.into_iter().zip(users).zip(messages.into_iter().zip(data));
    Ok(Box::new(all.map(move |((id, user), (message, data))| of_all.with(id, user, message, &data))))
}

/// What all notifications in a row have in common.
struct OfAll<'a> {
    slot: i16,
    xid: u64,
    event: &'a str,
    level: Level,
    created_at: CreatedAt,
}

impl OfAll<'_> {
    fn with(&self, id: i64, user: &str, message: &str, data: &Bytes<'_>) -> Result<Notification> {
        let data = data.0.strip_prefix(&[1]).context("jsonb of another version")?;
        Ok(Notification {
            id,
            slot: self.slot,
            xid: self.xid,
            user_id: UserId::recorded(user),
            event: self.event.to_owned(),
            level: self.level,
            message: message.to_owned(),
            data: readable(RawValue::from_string(str::from_utf8(data)?.to_owned())?),
            created_at: self.created_at.clone(),
        })
    }
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
