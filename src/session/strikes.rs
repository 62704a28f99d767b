//! Clients that never answer a ping, because something between swallows it: they are not told the same things every few seconds for
//! ever. After three sockets that were closed for it, what the last one was sent is taken as told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::protocol::{Cursor, UserId};

/// So often in a row the same is sent again to a client that answers nothing.
const LIMIT: u8 = 3;
/// So many such clients are known at most. Of more, some are forgotten, and told again.
const MAX_KNOWN: usize = 10_000;

/// Which client: its user, and its device where it has shown that it keeps the cookie.
pub type Client = (UserId, Option<Arc<str>>);

/// See the module. Kept by this instance alone: another one starts to count anew.
#[derive(Default)]
pub struct Strikes(Mutex<HashMap<Client, Strike>>);

struct Strike {
    count: u8,
    /// What it was sent, and is assumed to have had.
    told: Option<Cursor>,
}

impl Strikes {
    /// A socket of the client was closed since it answered nothing; `told` is what it was sent. Returns whether that is taken as
    /// told from now on.
    pub fn add(&self, client: Client, told: Option<Cursor>) -> bool {
        let known = &mut *self.lock();
        if known.len() >= MAX_KNOWN
            && !known.contains_key(&client)
            && let Some(any) = known.keys().next().cloned()
        {
            known.remove(&any);
        }
        let strike = known.entry(client).or_insert(Strike { count: 0, told: None });
        strike.count = strike.count.saturating_add(1);
        // A socket that ended before it was told anything says nothing new.
        strike.told = told.or(strike.told.take());
        strike.count >= LIMIT
    }

    /// What is taken as told.
    pub fn told(&self, client: &Client) -> Option<Cursor> {
        self.lock().get(client).filter(|strike| strike.count >= LIMIT)?.told.clone()
    }

    /// The client has answered.
    pub fn forget(&self, client: &Client) {
        self.lock().remove(client);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Client, Strike>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_three_times_in_vain_is_taken_as_told_until_the_client_answers() {
        let (strikes, client) = (Strikes::default(), ("7".parse().unwrap(), None));
        let cursor = |at: &str| Some(Cursor::new(Default::default(), at.parse().unwrap()));
        assert!(!strikes.add(client.clone(), cursor("5:5:")));
        assert!(!strikes.add(client.clone(), cursor("6:6:")));
        assert_eq!(strikes.told(&client), None);
        assert!(strikes.add(client.clone(), cursor("7:7:")));
        assert!(strikes.add(client.clone(), None));
        assert_eq!(strikes.told(&client), cursor("7:7:"));
        assert_eq!(strikes.told(&("7".parse().unwrap(), Some("phone".into()))), None, "another device");
        strikes.forget(&client);
        assert_eq!(strikes.told(&client), None);
    }

    #[test]
    fn ten_thousand_of_them_are_known_and_no_more() {
        let strikes = Strikes::default();
        for n in 0..MAX_KNOWN + 10 {
            strikes.add((n.to_string().parse().unwrap(), None), None);
        }
        assert_eq!(strikes.lock().len(), MAX_KNOWN);
    }
}
