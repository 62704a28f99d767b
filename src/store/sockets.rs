//! What sockets ask of the database: what they have not been told, and to note what reached them. Many at once in one question.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::{Store, decode};
use crate::protocol::{Cursor, Notification, Position, Resume, UserId};

/// How many notifications a page has.
const PAGE: i32 = 256;

/// A socket that opens.
#[derive(Clone)]
pub struct Opening {
    /// Whose.
    pub user: UserId,
    /// Which device, where it says so.
    pub device: Option<Arc<str>>,
    /// From where it goes on: a client's own cursor, or what is assumed of it.
    pub after: Option<Cursor>,
    /// Whether all that `after` does not see follows page by page, and so nothing here.
    pub pages: bool,
}

/// What an opening socket is told first.
pub struct Opened {
    /// Up to where this looked.
    pub position: Position,
    /// What the cursor was worth.
    pub resume: Resume,
    /// How many are unread; 1000 stands for as many or more.
    pub unread: i32,
    /// How many more were not told than `notifications` holds; 1000 stands for as many or more.
    pub more: i64,
    /// The database's time, RFC 3339.
    pub server_time: String,
    /// The newest, by id.
    pub notifications: Vec<Notification>,
    /// When the user was revoked last, in seconds since 1970.
    pub revoked: Option<f64>,
}

/// A page of what a socket has missed: what is visible in `within` (at first: now) and not in `after`, by id.
#[derive(Clone)]
pub struct Gap {
    /// Whose.
    pub user: UserId,
    /// See the type.
    pub after: Position,
    /// See the type.
    pub within: Option<Position>,
    /// The last id of the page before, or 0.
    pub after_id: i64,
}

/// The answer to a [`Gap`].
pub struct Page {
    /// Where it was read.
    pub within: Position,
    /// By id, but for what cannot be read.
    pub notifications: Vec<Notification>,
    /// The id of the last that was found, readable or not; none when there are no more.
    pub last: Option<i64>,
}

/// A notification that reached a socket of its user. The first three together are one row's: after a crash an id may come back as
/// another's.
#[derive(Clone, Copy, Debug)]
pub struct Delivered {
    /// The notification's id.
    pub id: i64,
    /// The leaf that holds it.
    pub slot: i16,
    /// When it was created, in microseconds since 1970.
    pub created: i64,
    /// Whether the socket was told as it happened, and not later what it had missed.
    pub live: bool,
}

impl Store {
    /// What opening sockets have not been told within the window: the newest `limit` of each. One answer each, in order.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn opened(&self, openings: Vec<Opening>, window: Duration, limit: i32) -> Result<Vec<Opened>> {
        let users: Vec<_> = openings.iter().map(|opening| opening.user.as_str()).collect();
        let devices: Vec<_> = openings.iter().map(|opening| opening.device.as_deref()).collect();
        let after = || openings.iter().map(|opening| opening.after.as_ref());
        let epochs: Vec<_> = after().map(|after| after.map(|after| after.epoch.to_string())).collect();
        let positions: Vec<_> = after().map(|after| after.map(|after| after.position.to_string())).collect();
        let told: Vec<_> = after().map(|after| after.map(|after| array(&after.told))).collect();
        let pages: Vec<_> = openings.iter().map(|opening| opening.pages).collect();
        let sql = "select * from notifier.opened($1, $2, $3, $4, $5, $6, make_interval(secs => $7), $8)";
        let parameters: &[&(dyn ToSql + Sync)] =
            &[&users, &devices, &epochs, &positions, &told, &pages, &window.as_secs_f64(), &limit];
        let opened = |row: &Row| {
            Ok(Opened {
                position: row.try_get::<_, &str>(0)?.parse()?,
                resume: match row.try_get(1)? {
                    "ok" => Resume::Ok,
                    "gap" => Resume::Gap,
                    _ => Resume::New,
                },
                unread: row.try_get(2)?,
                more: row.try_get(3)?,
                server_time: row.try_get(4)?,
                notifications: row.try_get::<_, Vec<&str>>(5)?.into_iter().filter_map(decode).collect(),
                revoked: row.try_get(6)?,
            })
        };
        self.each(openings.len(), sql, parameters, opened).await
    }

    /// A page of each of the gaps, in order.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn missed(&self, gaps: Vec<Gap>) -> Result<Vec<Page>> {
        let users: Vec<_> = gaps.iter().map(|gap| gap.user.as_str()).collect();
        let after: Vec<_> = gaps.iter().map(|gap| gap.after.to_string()).collect();
        let within: Vec<_> = gaps.iter().map(|gap| gap.within.as_ref().map(Position::to_string)).collect();
        let after_ids: Vec<_> = gaps.iter().map(|gap| gap.after_id).collect();
        let sql = "select * from notifier.missed($1, $2, $3, $4, $5)";
        let page = |row: &Row| {
            let found: Vec<&str> = row.try_get(1)?;
            Ok(Page {
                within: row.try_get::<_, &str>(0)?.parse()?,
                last: found.last().map(|last| id_of(last)).transpose()?,
                notifications: found.into_iter().filter_map(decode).collect(),
            })
        };
        self.each(gaps.len(), sql, &[&users, &after, &within, &after_ids, &PAGE], page).await
    }

    /// Notes that notifications reached a socket of their user. Returns how many had not before, and the ids of those that
    /// somebody holds locked and that are still to be noted.
    ///
    /// # Errors
    /// The database cannot be asked; nothing is noted then.
    pub async fn confirm(&self, delivered: impl Iterator<Item = &Delivered> + Clone) -> Result<(i64, Vec<i64>)> {
        let ids: Vec<_> = delivered.clone().map(|row| row.id).collect();
        let slots: Vec<_> = delivered.clone().map(|row| row.slot).collect();
        let created: Vec<_> = delivered.map(|row| row.created).collect();
        let row = self.one("select * from notifier.confirm($1, $2, $3)", &[&ids, &slots, &created]).await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }

    /// Notes that what a user had not been told before an id was told as a number, a piece of it. Returns whether there may be more.
    ///
    /// # Errors
    /// The database cannot be asked; nothing is noted then.
    pub async fn summarize(&self, user: &UserId, within: &Cursor, before: i64) -> Result<bool> {
        let sql = "select notifier.summarize($1, $2, $3::text::pg_snapshot, $4)";
        let (epoch, position) = (within.epoch.to_string(), within.position.to_string());
        let noted: i64 = self.one(sql, &[&user.as_str(), &epoch, &position, &before]).await?.try_get(0)?;
        Ok(noted >= 5_000)
    }

    /// Notes what devices have had.
    ///
    /// # Errors
    /// The database cannot be asked; nothing is noted then.
    pub async fn remember(&self, devices: &[(&(UserId, Arc<str>), &Cursor)]) -> Result<()> {
        let users: Vec<_> = devices.iter().map(|((user, _), _)| user.as_str()).collect();
        let names: Vec<_> = devices.iter().map(|((_, device), _)| device.as_ref()).collect();
        let epochs: Vec<_> = devices.iter().map(|(_, cursor)| cursor.epoch.to_string()).collect();
        let positions: Vec<_> = devices.iter().map(|(_, cursor)| cursor.position.to_string()).collect();
        let told: Vec<_> = devices.iter().map(|(_, cursor)| array(&cursor.told)).collect();
        self.one("select notifier.remember($1, $2, $3, $4, $5)", &[&users, &names, &epochs, &positions, &told]).await?;
        Ok(())
    }
}

/// The id of a notification that may be unreadable otherwise.
fn id_of(payload: &str) -> Result<i64> {
    #[derive(Deserialize)]
    struct Identified<'a> {
        id: &'a str,
    }
    Ok(serde_json::from_str::<Identified<'_>>(payload)?.id.parse()?)
}

/// An array as Postgres writes it: arrays of arrays have to be of one length, arrays of such texts need not.
fn array(numbers: &[i64]) -> String {
    format!("{{{}}}", numbers.iter().map(i64::to_string).collect::<Vec<_>>().join(","))
}
