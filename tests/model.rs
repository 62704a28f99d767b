//! Whether anything can be lost: the rules of delivery as small models, and a search through all that may happen in each.
//!
//! Tests with a real Postgres try the orders of events that chance and their author bring about. Here actors take steps in every
//! order there is, with a few writers and a few faults, and `explorer` looks at each state that can be reached. A protocol must
//! hold in all of them. Beside it stand its flaws, the obvious choices that are wrong, and for each the search has to find how
//! it fails; a model that could not tell right from wrong would prove nothing. `cargo test --locked model -- --nocapture` prints
//! how many states there were, and for each flaw the shortest way to the harm.
//!
//! | model | of what | stands for |
//! |---|---|---|
//! | `database` | transactions, snapshots | Postgres |
//! | `reading` | NOTIFY, reading on, what was published | `src/listener.rs`, `src/registry.rs`, `notifier.read_on` |
//! | `session` | catch up, mailbox, lag, pings and pongs | `src/session.rs`, `notifier.opened`, `notifier.missed` |
//! | `crash` | ids that come again, epochs, the stored position | `notifier.identify`, `notifier.note_position` |
//! | `cursor` | a client that comes back with a cursor | protocol clients |
//! | `relay` | bell, modes, beats, takeover | `src/relay.rs`, `src/listener.rs`, `src/registry.rs` |
//!
//! What is judged in every state: nothing is told that did not commit, nothing twice on one socket (unless the server crashed),
//! and no position goes back. When all is calm, so that whatever the service owes is done, while writers may be open for ever: each committed row
//! was told, or will be told to the next socket.
//!
//! What no model here can show:
//! - *Never another user's.* A row is routed by its own `user_id` and by nothing else, so no order of steps can misdirect it.
//!   What an id or a transaction id that comes again can do is lose the second row; that is shown.
//! - *That ids leap when an epoch begins.* With the rest in place nothing depends on it: it is for those who key by id alone.
//! - *Reading `xid >= xmin`.* It is slow and not wrong, since the registry drops what its position sees.
//! - *Cancelled statements, frozen sessions, full queues, deadlocks.* They are about locks and time; other tests have them.

mod crash;
mod cursor;
mod database;
mod explorer;
mod reading;
mod relay;
mod session;
