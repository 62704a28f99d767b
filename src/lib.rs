//! Committed Postgres writes, as notifications on the right user's screen.
//!
//! The way of one event:
//!
//! ```text
//! INSERT/UPDATE ─▶ statement trigger ─▶ notifier.notification row   (same transaction: the truth)
//!                        │
//!                        └─ NOTIFY ─▶ listener ─▶ registry ─▶ session ─▶ frame
//! ```
//!
//! The row is the truth and NOTIFY is the fast path. Whatever may have been missed is read from the table: by a socket that
//! opens ([`session`]), and by the listener from its position, about once a second and after each reconnect ([`listener`]).
//!
//! [`server::run`] is the whole service; `sql/functions` is the API that DBAs use.

pub mod auth;
pub mod catch_up;
pub mod cli;
pub mod config;
pub mod confirmations;
pub mod http;
pub mod listener;
pub mod metrics;
pub mod protocol;
pub mod registry;
pub mod relay;
pub mod scheduler;
pub mod seldom;
pub mod server;
pub mod session;
pub mod store;
