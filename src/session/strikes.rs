//! Clients that never answer a ping, because something between swallows it: they are not told the same things every few seconds for
//! ever. After three sockets that were closed for it, what each of the three was sent is taken as told, until the client answers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::protocol::{Cursor, UserId};

/// So often in a row the same is sent again to a client that answers nothing.
const LIMIT: usize = 3;
/// So many such clients are known at most. Of more, some are forgotten, and told again.
const MAX_KNOWN: usize = 10_000;

/// Which client: its user, and its device.
pub type Client = (UserId, Arc<str>);

/// See the module. Kept by this instance alone: another one starts to count anew.
#[derive(Default)]
pub struct Strikes(Mutex<HashMap<Client, VecDeque<Option<Cursor>>>>);

impl Strikes {
    /// A socket of the client was closed since it answered nothing; `told` is what it was sent, if anything. Returns whether
    /// something is taken as told from now on.
    pub fn add(&self, client: Client, told: Option<Cursor>) -> bool {
        let known = &mut *self.lock();
        if known.len() >= MAX_KNOWN
            && !known.contains_key(&client)
            && let Some(any) = known.keys().next().cloned()
        {
            known.remove(&any);
        }
        let sockets = known.entry(client).or_default();
        sockets.push_back(told);
        if sockets.len() > LIMIT {
            sockets.pop_front();
        }
        sockets.len() == LIMIT
    }

    /// What is taken as told: what the first of the last three was sent, and so each of them.
    pub fn told(&self, client: &Client) -> Option<Cursor> {
        self.lock().get(client).filter(|sockets| sockets.len() == LIMIT)?.front()?.clone()
    }

    /// The client has answered.
    pub fn forget(&self, client: &Client) {
        self.lock().remove(client);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Client, VecDeque<Option<Cursor>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_three_times_in_vain_is_taken_as_told_until_the_client_answers() {
        let (strikes, client): (_, Client) = (Strikes::default(), ("7".parse().unwrap(), "phone".into()));
        let cursor = |at: &str| Some(Cursor::new(Default::default(), at.parse().unwrap()));
        assert!(!strikes.add(client.clone(), cursor("5:5:")));
        assert!(!strikes.add(client.clone(), cursor("6:6:")));
        assert_eq!(strikes.told(&client), None);
        assert!(strikes.add(client.clone(), cursor("7:7:")));
        assert_eq!(strikes.told(&client), cursor("5:5:"), "the others were sent less often");
        assert!(strikes.add(client.clone(), None));
        assert_eq!(strikes.told(&client), cursor("6:6:"));
        assert_eq!(strikes.told(&("7".parse().unwrap(), "laptop".into())), None, "another device");
        strikes.forget(&client);
        assert_eq!(strikes.told(&client), None);
    }

    #[test]
    fn ten_thousand_of_them_are_known_and_no_more() {
        let strikes = Strikes::default();
        for n in 0..MAX_KNOWN + 10 {
            strikes.add((n.to_string().parse().unwrap(), "phone".into()), None);
        }
        assert_eq!(strikes.lock().len(), MAX_KNOWN);
    }
}
