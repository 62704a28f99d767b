//! What a user was told and has read or not: the questions of the REST inbox.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::{ANSWER_LIMIT, Store, decode};
use crate::protocol::{Notification, Read, UserId};

/// Rows that somebody holds are asked for again so often, and so far apart: two seconds, after which it is no other device of the
/// user (those take milliseconds) but a transaction that somebody left open.
const HELD_ATTEMPTS: u32 = 20;
const HELD_PAUSE: Duration = Duration::from_millis(100);

/// A page of a user's notifications.
pub struct InboxPage {
    /// By id, descending.
    pub entries: Vec<Entry>,
    /// The following page is before this id; `None` at the end.
    pub next: Option<i64>,
}

/// A notification and what has become of it. Times are RFC 3339, UTC.
pub struct Entry {
    /// The notification.
    pub notification: Notification,
    /// When it stops being of use, if ever.
    pub until: Option<String>,
    /// When a socket of the user confirmed it.
    pub delivered_at: Option<String>,
    /// When the user read it.
    pub read_at: Option<String>,
}

/// What became of a wish to mark as read.
pub struct Marked {
    /// How many are unread now; 1000 stands for as many or more.
    pub unread: i32,
    /// The ids of those that somebody held locked all the time and that are not marked; empty when all are.
    pub held: Vec<i64>,
}

impl Store {
    /// A page of a user's notifications with ids below `before`, the newest `limit` of them (fewer where they are large), all or
    /// only those that are unread.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn inbox(&self, user: &UserId, before: Option<i64>, limit: i32, unread: bool) -> Result<InboxPage> {
        let lease = self.lease().await?;
        let rows = lease
            .limit(ANSWER_LIMIT, async {
                let statement = lease.prepare_cached("select * from notifier.inbox($1, $2, $3, $4)").await?;
                lease.query(&statement, &[&user.as_str(), &before, &limit, &unread]).await
            })
            .await?;
        let next = match rows.last() {
            Some(last) if last.try_get(5)? => Some(last.try_get(0)?),
            _ => None,
        };
        let mut entries = Vec::with_capacity(rows.len());
        for row in &rows {
            // One that this binary cannot read is left out and does not end the paging.
            if let Some(notification) = decode(row.try_get(1)?) {
                let (until, delivered_at, read_at) = (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
                entries.push(Entry { notification, until, delivered_at, read_at });
            }
        }
        Ok(InboxPage { entries, next })
    }

    /// How many notifications each of the users has not read, in their order; 1000 stands for as many or more.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn unread(&self, users: &[UserId]) -> Result<Vec<i32>> {
        let users: Vec<&str> = users.iter().map(UserId::as_str).collect();
        let row = self.one("select array(select unread from notifier.unread($1) order by place)", &[&users]).await?;
        Ok(row.try_get(0)?)
    }

    /// Notes that a user has read notifications, and has the user's sockets told, all but `origin`. May be repeated. Waits up to
    /// two seconds for rows that somebody holds. Dropped half-way it has marked some and is to be repeated.
    ///
    /// # Errors
    /// The database cannot be asked; some may be marked then.
    pub async fn mark_read(&self, user: &UserId, read: &Read, origin: Option<&str>) -> Result<Marked> {
        let (mut ids, before) = match read {
            Read::Ids(ids) => (Some(ids.clone()), None),
            Read::Before(id) => (None, Some(*id)),
        };
        let mut attempts = HELD_ATTEMPTS;
        loop {
            let sql = "select * from notifier.mark_read($1, $2, $3, $4)";
            let row = self.one(sql, &[&user.as_str(), &ids, &before, &origin]).await?;
            let (unread, held, more): (i32, Vec<i64>, bool) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            if !more {
                attempts -= 1;
                if held.is_empty() || attempts == 0 {
                    return Ok(Marked { unread, held });
                }
                sleep(HELD_PAUSE).await;
            }
            // What is not held is marked by now; by `before` there may be others, with larger ids.
            ids = ids.map(|_| held);
        }
    }
}
