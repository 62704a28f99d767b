//! Whose credentials of before are worth nothing any more, as far as this instance has heard.
//!
//! The table has all of them; an opening socket and a request ask it. This is for sockets that are open, and so that whoever comes
//! back every few seconds with what was revoked is refused without a question.

use std::collections::HashMap;

use crate::protocol::{Position, Revocation, UserId};

/// So many users are remembered. Of more all are forgotten: refusing them costs a question again.
const MAX_USERS: usize = 50_000;

/// See the module.
pub(super) struct Revocations {
    /// When each was revoked last, in seconds since 1970.
    users: HashMap<UserId, f64>,
    /// Up to where the table was read for them. It moves with those reads alone.
    pub until: Position,
}

impl Revocations {
    pub fn new(until: Position) -> Self {
        Self { users: HashMap::new(), until }
    }

    /// Notes one; returns whether it is news. NOTIFY and the table tell the same ones.
    pub fn note(&mut self, user: &UserId, at: f64) -> bool {
        if self.users.get(user).is_some_and(|known| *known >= at) {
            return false;
        }
        if self.users.len() >= MAX_USERS {
            self.users = HashMap::new();
        }
        self.users.insert(user.clone(), at);
        true
    }

    /// When a user was revoked last.
    pub fn last(&self, user: &UserId) -> Option<f64> {
        self.users.get(user).copied()
    }

    /// Whether what was issued then has been revoked since.
    pub fn end(&self, user: &UserId, issued: Option<f64>) -> bool {
        self.users.get(user).is_some_and(|revoked| Revocation::ends(*revoked, issued))
    }
}
