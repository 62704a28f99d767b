//! Tests against a real Postgres and real sockets. One binary: all share one throw-away server, and each test has a database of
//! its own, so they run side by side. They wait for facts, with a limit, and never for time to pass.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bulk;
mod command;
mod conformance;
mod credentials;
mod credentials_sql;
mod cursors;
mod definitions;
mod description;
mod devices;
mod epochs;
mod events;
mod failover;
mod faults;
mod fuzz;
mod handbook;
mod harmless;
mod hostile;
mod http;
mod inbox;
mod jwt;
mod least_privilege;
mod looking_after;
mod metrics;
mod migrations;
mod mirrors;
mod mistakes;
mod model;
mod pauses;
mod postgres_tls;
mod preview;
mod relay;
mod retention;
mod sending;
mod sockets;
mod support;
mod survival;
mod timers;
