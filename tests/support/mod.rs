//! A database, a service on it, sockets to that.

pub mod authority;
pub mod checker;
pub mod database;
pub mod eventually;
pub mod inbox;
pub mod key_server;
pub mod namespace;
pub mod process;
pub mod proxy;
pub mod raw_socket;
pub mod server;
pub mod service;
pub mod signer;
pub mod slow_link;
pub mod socket;
pub mod standby;

pub use database::Database;
pub use eventually::{LIMIT, eventually};
pub use inbox::Inbox;
pub use key_server::KeyServer;
pub use service::Service;
pub use signer::Signer;
pub use socket::Socket;
pub use standby::Pair;
