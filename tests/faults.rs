//! What may happen to the system, each once under load, and what the checker finds: nothing lost, nothing misrouted, nothing
//! invented, and no write of the application failed unless the fault itself makes writes fail.

mod clients;
mod clock;
mod database;
mod ids_again;
mod link;
mod queue;
mod relay;
mod service;
mod transactions;

use crate::support::checker::Place;
use crate::support::server::free_port;
use crate::support::{Service, eventually};

/// Who holds the bell of the database that is asked: exclusively the relay, shared a writer for a moment. (The two halves of its key.)
const BELL: &str = "from pg_locks l join pg_stat_activity a using (pid) where locktype = 'advisory' and l.granted
                    and datname = current_database() and (classid::int8 << 32 | objid::int8) = 7809647138214477426";

/// A service in this process whose sockets are told all they missed, however much: the checker counts rows, and a number that
/// stands for some of them would be in its way.
async fn service_on(place: &Place) -> Service {
    service_at(&place.url("parkmate")).await
}

async fn service_at(url: &str) -> Service {
    let service = Service::start_with(url, |config| {
        config.replay_limit = 100_000;
        config.replay_window = std::time::Duration::from_secs(7 * 86_400);
    })
    .await;
    eventually("the service listens", || service.is_ready()).await;
    service
}

/// A free address, to be served at more than once.
fn here() -> std::net::SocketAddr {
    ([127, 0, 0, 1], free_port()).into()
}
