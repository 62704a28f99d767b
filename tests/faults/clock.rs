//! The database's clock is wrong by a day, and then is not.

use std::os::unix::fs::PermissionsExt;

use super::service_on;
use crate::support::checker::{Checker, Plan, size};
use crate::support::eventually;
use crate::support::server::{Server, Surroundings};

/// The package libfaketime puts it here.
fn library() -> Option<std::path::PathBuf> {
    let places = std::fs::read_dir("/usr/lib").ok()?.flatten();
    places.map(|place| place.path().join("faketime/libfaketime.so.1")).find(|path| path.exists())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_is_stepped_a_day_forwards_and_back() {
    let Some(library) = library() else {
        println!("skipped: no libfaketime: install the package libfaketime");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let offset = folder.path().join("offset");
    let step = |to: &str| {
        // In one go: a server that reads half a file would see a third time.
        let new = folder.path().join("new");
        std::fs::write(&new, format!("{to}\n")).unwrap();
        std::fs::rename(&new, &offset).unwrap();
    };
    step("+0d");
    let environment = [
        format!("LD_PRELOAD={}", library.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", offset.display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        "DONT_FAKE_MONOTONIC=1".to_owned(),
    ];
    let environment: Vec<&str> = environment.iter().map(String::as_str).collect();
    let server = Server::start_in(Surroundings { environment: &environment, ..Surroundings::default() }).await;
    let place = server.place();
    let service = service_on(&place).await;
    let plan = Plan::new("database's clock stepped a day, forwards and back");
    let checker = Checker::start(plan, &place, service.address).await;
    let admin = place.superuser().await;
    for _ in 0..size(1, 10) {
        for (to, days) in [("+1d", 1.0), ("+0d", 0.0), ("-1d", -1.0), ("+0d", 0.0)] {
            step(to);
            eventually("the server has that time", || async {
                let now = "select extract(epoch from clock_timestamp())::float8";
                let server: f64 = admin.query_one(now, &[]).await.unwrap().get(0);
                let here = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
                ((server - here) / 86_400.0 - days).abs() < 0.01
            })
            .await;
            checker.written(30).await;
            // What is missed under one time is told under another.
            checker.go_online(false).await;
            checker.written(10).await;
            checker.go_online(true).await;
            checker.all_open().await;
        }
    }
    checker.finish().await.nothing_lost().no_write_failed();
}
