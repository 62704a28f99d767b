//! What the benches share: a durable Postgres, the release binary beside it, cheap sockets, and what processes used.

pub mod load;
pub mod place;
pub mod sockets;
pub mod table;
pub mod usage;

// The tests' own; not all of it is needed here.
#[allow(dead_code)]
#[path = "../../tests/support/eventually.rs"]
pub mod eventually;
#[allow(dead_code)]
#[path = "../../tests/support/process.rs"]
pub mod process;

use std::net::SocketAddr;

pub use eventually::{LIMIT, eventually};
pub use load::{Load, Log};
pub use place::Place;
pub use sockets::{Crowd, Socket};
pub use table::{Table, median, medians};

/// Whether figures do not matter and only that everything runs to its end: `BENCH_QUICK=1`.
pub fn is_quick() -> bool {
    std::env::var_os("BENCH_QUICK").is_some()
}

/// How often everything is measured; the median is told.
pub fn rounds() -> usize {
    if is_quick() { 1 } else { 3 }
}

/// A count, or a small part of it where figures do not matter.
pub fn count(full: u64) -> u64 {
    if is_quick() { full / 10 } else { full }
}

/// A figure of a service's `/metrics`, by its whole name; 0 when it is not there, as a label that never came.
pub async fn metric(address: SocketAddr, name: &str) -> u64 {
    let text = reqwest::get(format!("http://{address}/metrics")).await.unwrap().text().await.unwrap();
    let figure = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    figure.map_or(0, |figure| figure.parse().unwrap())
}
