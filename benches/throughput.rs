//! Events as fast as writers can, into many sockets: how many a second, what they cost and whom, and how many NOTIFYs they took.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::support::place::{self, settle};
use crate::support::process::Process;
use crate::support::{Crowd, Place, Table, count, eventually, medians, metric, rounds, usage};

/// So many clients write.
const WRITERS: u64 = 8;
/// What a figure of CPU time is for.
const FRAMES: f64 = 100_000.0;

pub async fn run() {
    let place = Place::with(&["app"]).await;
    let service = place.serve("app").await;
    let table = Table::new(
        &format!(
            "`throughput`: {WRITERS} writers, each event to one socket; CPU seconds are for 100,000 frames, confirmed"
        ),
        &[
            "sockets",
            "rows a statement",
            "events/s",
            "CPU service",
            "CPU Postgres",
            "CPU sockets",
            "CPU pgbench",
            "NOTIFYs per event",
            "service MiB before",
            "after",
        ],
    );
    for sockets in [1_000, 10_000].map(count) {
        let mut crowd = Crowd::open(service.address, 1..1 + sockets).await;
        settle(&service).await;
        for (rows, events) in [(1, count(20_000)), (100, count(60_000))] {
            let pid = service.child.id().unwrap();
            let before = usage::memory(pid) / 1024.0;
            let mut figures = Vec::new();
            for _ in 0..rounds() {
                figures.push(flood(&place, &service, &crowd, sockets, rows, events).await);
            }
            let [rate, of_service, of_postgres, of_sockets, of_writers] = medians(&figures);
            let after = usage::memory(pid) / 1024.0;
            // Another round: whoever else listens costs the database time.
            let (listener, notifies) = count_notifies(&place).await;
            flood(&place, &service, &crowd, sockets, rows, events).await;
            drop(listener);
            let notifies = notifies.load(Ordering::Relaxed) as f64 / events as f64;
            let mut cells = vec![sockets.to_string(), rows.to_string(), format!("{rate:.0}")];
            cells.extend([of_service, of_postgres, of_sockets, of_writers].map(|seconds| format!("{seconds:.2}")));
            cells.extend([format!("{notifies:.4}"), format!("{before:.0}"), format!("{after:.0}")]);
            table.row(&cells);
        }
        assert!(crowd.is_whole(), "sockets were closed");
        place::close(crowd, &service).await;
    }
}

/// A million notifications, and what memory the service has after each tenth.
pub async fn soak() {
    let place = Place::with(&["app"]).await;
    let service = place.serve("app").await;
    let pid = service.child.id().unwrap();
    let sockets = count(1_000);
    let mut crowd = Crowd::open(service.address, 1..1 + sockets).await;
    settle(&service).await;
    let table = Table::new(
        "`soak`: 1,000 sockets, 100 rows a statement",
        &["notifications", "service MiB", "at most", "events/s"],
    );
    let part = count(100_000);
    for parts in 0..=10 {
        let rate = match parts {
            0 => 0.0,
            _ => flood(&place, &service, &crowd, sockets, 100, part).await[0],
        };
        let memory = [usage::memory(pid), usage::peak_memory(pid)].map(|kib| format!("{:.1}", kib / 1024.0));
        table.row(&[&[(parts * part).to_string()], &memory[..], &[format!("{rate:.0}")]].concat());
    }
    assert!(crowd.is_whole(), "sockets were closed");
}

/// Writes so many events and waits until all have arrived, and are confirmed: events a second, and CPU seconds of the service, of
/// Postgres, of the sockets' other ends, and of pgbench.
async fn flood(place: &Place, service: &Process, crowd: &Crowd, users: u64, rows: u64, events: u64) -> [f64; 5] {
    let insert = match rows {
        1 => "values (:user, 1)".to_owned(),
        _ => format!("select 1 + (:user + row) % {users}, 1 from generate_series(1, {rows}) row"),
    };
    let script = format!("\\set user random(1, {users})\ninsert into public.told (user_id, number) {insert};\n");
    let transactions = events / rows / WRITERS;
    let events = transactions * rows * WRITERS;
    crowd.expect(events);
    let pid = service.child.id().unwrap();
    let used = || [usage::cpu(pid), place.cpu(), usage::cpu(std::process::id()), usage::cpu_of_ended_children()];
    let confirmed = metric(service.address, "notifier_confirmed_total").await;
    let before = used();
    let started = Instant::now();
    place.pgbench("app", &script, WRITERS, &["--transactions", &transactions.to_string()], "").await;
    let last = crowd.reached().await;
    let rate = events as f64 / (last - started).as_secs_f64();
    // Confirmations are written about two seconds after their frames.
    eventually("all are confirmed", || async {
        metric(service.address, "notifier_confirmed_total").await >= confirmed + events
    })
    .await;
    settle(service).await;
    let after = used();
    assert_eq!(crowd.frames(), crowd.expected(), "something was told twice");
    let mut figures = [rate; 5];
    for (figure, (after, before)) in figures[1..].iter_mut().zip(after.iter().zip(before)) {
        *figure = (after - before) * FRAMES / events as f64;
    }
    figures
}

/// Counts the NOTIFYs on the channel from now on and until its client is dropped.
async fn count_notifies(place: &Place) -> (Client, Arc<AtomicU64>) {
    let (client, mut connection) = tokio_postgres::connect(&place.superuser_url("app"), NoTls).await.unwrap();
    let notifies = Arc::new(AtomicU64::new(0));
    let counted = notifies.clone();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(_) = message {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let sql = "select format('listen %I', value) from notifier.setting where name = 'channel'";
    let listen: String = client.query_one(sql, &[]).await.unwrap().get(0);
    client.batch_execute(&listen).await.unwrap();
    (client, notifies)
}
