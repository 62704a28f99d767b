//! What a trigger costs the application: commits a second of clients that each update one row at a time and wait for the disk.

use std::future::poll_fn;

use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

use crate::support::place::settle;
use crate::support::{Place, Table, median, medians, rounds};

/// How many rows each table has: too few and writers wait for each other's.
const ROWS: u64 = 100_000;
/// Writers whose transaction is told; a service runs beside this one.
const SERVED: &str = "served";
/// No service runs beside this one.
const UNSERVED: &str = "unserved";

/// A way to write, by its name in the table.
struct Way {
    name: &'static str,
    database: &'static str,
    table: &'static str,
    /// Settings of the writers' sessions.
    options: &'static str,
}

const WAYS: [Way; 7] = [
    Way { name: "no trigger", database: UNSERVED, table: "account", options: "" },
    Way { name: "row only", database: UNSERVED, table: "account_told", options: "-c notifier.doorbell=off" },
    Way { name: "service stopped", database: UNSERVED, table: "account_told", options: "" },
    Way { name: "service runs", database: SERVED, table: "account_told", options: "" },
    Way { name: "NOTIFY in the writer", database: UNSERVED, table: "account_rung", options: "" },
    Way { name: "bare outbox", database: UNSERVED, table: "account_outbox", options: "" },
    Way { name: "least by our rules", database: UNSERVED, table: "account_least", options: "" },
];
const NONE: usize = 0;
const ROW: usize = 1;
const STOPPED: usize = 2;
const OURS: usize = 3;
const NOTIFY: usize = 4;
const OUTBOX: usize = 5;
const LEAST: usize = 6;

/// So many clients at once, with a disk whose flush takes so many microseconds more, write in these ways. Two that are so alike as the row
/// alone and a service that is stopped differ, if at all, where many write; the least there is says what could be had where much is
/// wanted.
const RUNS: [(u64, u32, &[usize]); 7] = [
    (1, 0, &[NONE, ROW, OURS, NOTIFY]),
    (8, 0, &[NONE, ROW, OURS, NOTIFY]),
    (16, 0, &[NONE, ROW, OURS, OUTBOX, LEAST]),
    (16, 2_000, &[NONE, ROW, OURS]),
    (32, 0, &[NONE, ROW, OURS, NOTIFY]),
    (64, 0, &[NONE, ROW, STOPPED, OURS, NOTIFY, OUTBOX, LEAST]),
    (64, 2_000, &[NONE, ROW, STOPPED, OURS, NOTIFY, OUTBOX, LEAST]),
];

pub async fn run() {
    let place = Place::with(&[SERVED, UNSERVED]).await;
    for way in &WAYS {
        let owner = place.owner(way.database).await;
        let fill = format!(
            "insert into public.{} select id, id % 1000 + 1, 0 from generate_series(1, {ROWS}) id on conflict do nothing",
            way.table
        );
        owner.batch_execute(&fill).await.unwrap();
    }
    let admin = place.superuser("postgres").await;
    let service = place.serve(SERVED).await;
    let listener = listen_plainly(&place.url(UNSERVED)).await;

    let mut columns = vec!["clients".to_owned(), "flush".to_owned()];
    columns.extend(WAYS.map(|way| way.name.to_owned()));
    columns.extend(
        [
            "runs / none",
            "runs / row only",
            "stopped / row only",
            "runs / NOTIFY",
            "outbox / none",
            "least / none",
            "least / NOTIFY",
        ]
        .map(str::to_owned),
    );
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let table =
        Table::new("`writers`: commits/s of one-row updates; a ratio is the median of the rounds' ratios", &columns);
    for (clients, delay, ways) in RUNS {
        for setting in [format!("commit_delay = {delay}"), "commit_siblings = 0".to_owned()] {
            admin.batch_execute(&format!("alter system set {setting}")).await.unwrap();
        }
        admin.batch_execute("select pg_reload_conf()").await.unwrap();
        let seconds = 1;
        let mut figures = Vec::new();
        for _ in 0..rounds() {
            let mut round = [f64::NAN; WAYS.len()];
            for &at in ways {
                let way = &WAYS[at];
                let script = format!(
                    "\\set id random(1, {ROWS})\nupdate public.{} set balance = balance + 1 where id = :id;\n",
                    way.table
                );
                round[at] = place.commits(way.database, &script, clients, seconds, way.options).await;
                if at == OURS {
                    settle(&service).await;
                }
            }
            figures.push(round);
        }
        let ratio = |of: usize, to: usize| median(figures.iter().map(|round| round[of] / round[to]).collect());
        let flush = if delay == 0 { "real" } else { "2 ms" };
        let mut cells = vec![clients.to_string(), flush.to_owned()];
        let figure = |figure: f64, text: String| if figure.is_nan() { String::new() } else { text };
        cells.extend(medians(&figures).map(|commits| figure(commits, format!("{commits:.0}"))));
        for (of, to) in
            [(OURS, NONE), (OURS, ROW), (STOPPED, ROW), (OURS, NOTIFY), (OUTBOX, NONE), (LEAST, NONE), (LEAST, NOTIFY)]
        {
            cells.push(figure(ratio(of, to), format!("{:.2}", ratio(of, to))));
        }
        table.row(&cells);
    }
    listener.abort();
    // Only now: its own rows were to be told.
    drop(service);
}

/// The one listener that a trigger with NOTIFY is written for.
async fn listen_plainly(url: &str) -> JoinHandle<()> {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let (listening, begun) = tokio::sync::oneshot::channel();
    let listener = tokio::spawn(async move {
        let listen = async {
            client.batch_execute("listen plain").await.unwrap();
            listening.send(()).unwrap();
            // The client ends its connection when it is dropped.
            std::future::pending::<()>().await;
        };
        let read = async { while let Some(Ok(_)) = poll_fn(|cx| connection.poll_message(cx)).await {} };
        tokio::join!(listen, read);
    });
    begun.await.unwrap();
    listener
}
