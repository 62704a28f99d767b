//! The link between the service and its database dies without a word: no reset, no end, just nothing any more.

use std::time::Duration;

use tokio::time::Instant;

use super::{service_at, service_on};
use crate::support::checker::{Checker, Place, Plan, size};
use crate::support::namespace::Namespace;
use crate::support::proxy::Proxy;
use crate::support::server::{Server, Surroundings};
use crate::support::{Database, Service, eventually};

async fn noticed(service: &Service) {
    let since = Instant::now();
    eventually("the service says so", || async { !service.is_ready().await }).await;
    println!("the service noticed after {:?}", since.elapsed());
    // Ten on a machine of its own, which is what a load balancer waits for; beside other tests it may be late.
    assert!(since.elapsed() < Duration::from_secs(size(30, 15)), "noticed after {:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_to_the_database_becomes_a_black_hole() {
    let Some(namespace) = Namespace::make() else { return };
    // The application's link is another one, and goes on.
    let (own, others) = (namespace.there(0), namespace.there(1));
    let server =
        Server::start_in(Surroundings { namespace: Some((&namespace.name, &others)), ..Surroundings::default() });
    let server = server.await;
    let service = service_at(&format!("postgresql://parkmate@{own}:{}/app", server.port())).await;
    let plan = Plan::new("link to the database a black hole (ip netns)");
    let checker = Checker::start(plan, &server.place(), service.address).await;
    namespace.swallow(0, true);
    noticed(&service).await;
    checker.written(50).await;
    namespace.swallow(0, false);
    checker.finish().await.nothing_lost().no_write_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_to_the_database_takes_bytes_and_passes_nothing_on() {
    let database = Database::new().await;
    let place = Place::of(&database);
    let proxy = Proxy::to(place.host.parse().unwrap()).await;
    let behind = Place { host: proxy.address.to_string(), ..place.clone() };
    let service = service_on(&behind).await;
    let plan = Plan::new("link to the database half open (a silent proxy)");
    let checker = Checker::start(plan, &place, service.address).await;
    proxy.swallow();
    noticed(&service).await;
    checker.written(50).await;
    proxy.pass();
    checker.finish().await.nothing_lost().no_write_failed();
}
