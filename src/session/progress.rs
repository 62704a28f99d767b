//! How far a socket is, told to clients that keep cursors and noted for the devices of those that don't; and what the former ask for.

use tokio::time::Instant;
use tracing::warn;

use super::{After, Connection, Dialect, End, Session};
use crate::protocol::{Asked, CloseCode, Cursor, Told};
use crate::store::Marked;

/// A cursor names so many ids beside its position at most. With more it names none: the client gets them again and knows them.
const MAX_TOLD: usize = 64;
/// So many of a client's frames may be heard while something is unwritten.
const MAX_UNWRITTEN_ANSWERS: u32 = 64;
/// So many wishes to mark as read wait at most.
const MAX_READS: usize = 8;

impl<S: Connection> Session<S> {
    /// What a client that keeps cursors asks for; of others everything is ignored.
    pub(super) fn asked(&mut self, asked: Asked, now: Instant) -> Option<End> {
        if let Dialect::Cursors(_) = self.dialect {
            if !self.wire.is_flushed() {
                // Who asks and does not read is owed no more than this.
                self.unwritten_answers += 1;
                if self.unwritten_answers > MAX_UNWRITTEN_ANSWERS {
                    return Some(End::Close(CloseCode::TooSlow));
                }
            }
            match asked {
                Asked::Ack(token) => match Cursor::decode(&token, self.intake.user()) {
                    Some(cursor) => {
                        // One that another socket gave out confirms nothing here: what it covers was not sent here.
                        let count = cursor.sent.filter(|(socket, _)| self.intake.mail().origin() == Some(*socket));
                        if count.is_some_and(|(_, count)| self.receipts.ack(count, now)) {
                            self.full = None;
                            self.note(now);
                            // Whoever confirms often says nothing too much.
                            self.pace.forgive();
                        }
                    }
                    None => self.tell(&Told::Error {
                        code: "bad_cursor",
                        message: "`cursor` is one that a frame to this user brought, as it was",
                    }),
                },
                Asked::Read(_) if self.stay.observes() => {
                    let message = "whoever listens as another user marks nothing as read for them";
                    self.tell(&Told::Error { code: "forbidden", message });
                }
                Asked::Read(read) => match read.get().parse() {
                    Ok(read) if self.reads.len() < MAX_READS => {
                        self.reads.push_back(read);
                        self.mark();
                    }
                    Ok(_) => {
                        self.tell(&Told::Error { code: "busy", message: "too many at once: wait for the answers" })
                    }
                    Err(wrong) => self.tell(&Told::Error { code: "bad_read", message: &wrong }),
                },
                Asked::Auth(token) => self.renew(token),
                Asked::Unknown => {}
            }
        }
        None
    }

    /// Marks as read what comes next, one thing at a time.
    fn mark(&mut self) {
        if self.marking.is_none()
            && let Some(read) = self.reads.pop_front()
        {
            let (inbox, user) = (self.context.inbox.clone(), self.intake.user().clone());
            let origin = self.intake.mail().origin().map(|origin| format!("{origin:x}"));
            self.marking = Some(Box::pin(async move { inbox.mark_read(&user, &read, origin.as_deref()).await }));
        }
    }

    pub(super) fn marked(&mut self, marked: anyhow::Result<Marked>) {
        self.marking = None;
        match marked {
            Ok(marked) if marked.held.is_empty() => self.tell(&Told::Ok { unread: marked.unread }),
            Ok(_) => {
                self.tell(&Told::Error { code: "unavailable", message: "some are locked in the database: try again" })
            }
            Err(error) => {
                if let Some(times) = self.context.failures.again() {
                    warn!(error = format!("{error:#}"), times, "requests to the inbox were not answered");
                }
                self.tell(&Told::Error { code: "unavailable", message: "the database does not answer: try again" });
            }
        }
        self.mark();
    }

    /// Tells a client that keeps cursors, or the device's row, how far it is. Returns whether that says all there is to say.
    pub(super) fn renew_cursor(&mut self) -> bool {
        match &self.dialect {
            Dialect::Cursors(_) => {
                let Some(cursor) = self.cursor().filter(|cursor| cursor.told.is_empty() && self.told_live) else {
                    return false;
                };
                let (epoch, cursor) = (cursor.epoch.to_string(), cursor.token(self.intake.user()));
                self.tell(&Told::Beat { epoch, cursor });
                true
            }
            // Who only looks on is no device of the user's.
            Dialect::Plain { .. } if self.stay.observes() => true,
            // What is only taken as told is told when it answers: to its row it is not.
            Dialect::Plain { .. } if self.assumed => false,
            Dialect::Plain { device, .. } => {
                let noted = self.intake.cursor().and_then(|cursor| {
                    let (position, told) = self.receipts.noted(&cursor.position)?;
                    Some(Cursor { told, ..Cursor::new(cursor.epoch, position) })
                });
                let Some(noted) = noted else { return false };
                self.context.confirmations.device(self.intake.user().clone(), device.clone(), noted);
                self.known = true;
                self.receipts.is_settled()
            }
        }
    }

    /// A cursor that sees what was sent.
    pub(super) fn cursor(&self) -> Option<Cursor> {
        let mut cursor = self.intake.cursor()?;
        cursor.sent = self.intake.mail().origin().map(|socket| (socket, self.receipts.count()));
        cursor.told.extend(self.receipts.sent_beside(&cursor));
        if cursor.told.len() > MAX_TOLD {
            cursor.told.clear();
        }
        cursor.told.sort_unstable();
        cursor.told.dedup();
        Some(cursor)
    }

    /// The cursor that a client brought.
    pub(super) fn own_cursor(&self) -> Option<Cursor> {
        match &self.dialect {
            Dialect::Cursors(After::Cursor(cursor)) => Some((**cursor).clone()),
            _ => None,
        }
    }
}
