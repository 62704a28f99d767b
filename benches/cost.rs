//! What our triggers cost the application, each figure as a ratio against the same write without them: one row at a time, 100,000
//! rows in one statement, the first statements of a session, a transaction of many statements, and an event that is redefined.

use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::time::sleep;
use tokio_postgres::Client;

use crate::support::place::settle;
use crate::support::process::Process;
use crate::support::{Load, Log, Place, Table, count, is_quick, median, medians, rounds, usage};

/// A service runs on this database where that is said.
const SERVED: &str = "served";
/// No service ever runs on this one: what is measured is the trigger alone.
const UNSERVED: &str = "unserved";
/// Rows of a table, and of a statement that writes many.
const ROWS: u64 = 100_000;
/// Writers beside a long transaction and beside redefinitions.
const WRITERS: u64 = 16;
/// Statements of the long transaction.
const STATEMENTS: u64 = 1_000;
/// How often an event is redefined, in all rounds together.
const REDEFINITIONS: u64 = 300;

/// A table, and how many events it has on its inserts and as many on its updates.
struct Way {
    what: &'static str,
    table: &'static str,
    events: u64,
    /// Whether the first of its events matches every write.
    told: bool,
}

const NO_EVENT: Way = Way { what: "no trigger", table: "no_event", events: 0, told: false };
const UNMATCHED: Way = Way { what: "1 event, does not match", table: "event_1", events: 1, told: false };
const MATCHED: Way = Way { what: "1 event, matches", table: "event_1_told", events: 1, told: true };
const WAYS: [Way; 6] = [
    NO_EVENT,
    UNMATCHED,
    MATCHED,
    Way { what: "5 events, none matches", table: "events_5", events: 5, told: false },
    Way { what: "20 events, none matches", table: "events_20", events: 20, told: false },
    Way { what: "20 events, 1 matches", table: "events_20_told", events: 20, told: true },
];
/// What is measured beside a service.
const WAYS_SERVED: [Way; 2] = [NO_EVENT, MATCHED];
/// Tables without an event, to begin with: one that is written while something else is measured, and one whose event changes.
const ELSEWHERE: &str = "elsewhere";
const REDEFINED: &str = "redefined";

/// How the application writes.
#[derive(Clone, Copy)]
enum Write {
    Update,
    Insert,
    Copy,
}

impl Write {
    const fn name(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Insert => "insert",
            Self::Copy => "COPY",
        }
    }
}

pub async fn run() {
    let place = Place::with(&[SERVED, UNSERVED]).await;
    for (database, ways) in [(SERVED, &WAYS_SERVED[..]), (UNSERVED, &WAYS)] {
        let client = place.owner(database).await;
        client.batch_execute("create schema cost").await.unwrap();
        for table in [ELSEWHERE, REDEFINED] {
            create(&client, table).await;
        }
        for way in ways {
            create(&client, way.table).await;
            define_events(&client, way).await;
            fill(&place, database, way.table, count(ROWS)).await;
            prove(&client, way).await;
        }
    }
    one_row(&place).await;
    one_statement(&place).await;
    sessions(&place).await;
    long_transaction(&place).await;
    redefinitions(&place).await;
    for database in [SERVED, UNSERVED] {
        let faults = place.owner(database).await.query("select event, message from notifier.fault", &[]).await.unwrap();
        assert!(faults.is_empty(), "events failed: {faults:?}");
    }
}

/// What an event that matches nothing, one that matches, and many events add to the durable commit of one row.
async fn one_row(place: &Place) {
    let table = Table::new(
        "`cost`: a row a commit, one client; medians of the commits, means of the CPU; a ratio is to no trigger, and the median \
         of the rounds' ratios",
        &["write", "µs a commit", "ratio", "added", "backend CPU µs", "ratio"],
    );
    one_row_on(place, UNSERVED, &WAYS, 4_000, "", &table).await;
    let service = place.serve(SERVED).await;
    one_row_on(place, SERVED, &WAYS_SERVED, 2_000, ", service runs", &table).await;
    end(place, service).await;
}

async fn one_row_on(place: &Place, database: &str, ways: &[Way], milliseconds: u64, beside: &str, table: &Table) {
    let writes = [Write::Update, Write::Insert];
    let scripts: Vec<String> =
        writes.iter().flat_map(|write| ways.iter().map(|way| script(*write, way.table))).collect();
    // By round and script: the time of a commit, and what the backend used for it.
    let mut figures = Vec::new();
    for _ in 0..rounds() {
        // One session, each commit of a script by chance: whatever the disk does, it does to all.
        let load = place.load(database, &scripts, 1).await;
        warm_up().await;
        let during = stretch(milliseconds).await;
        let log = whole(load).await;
        let mut round = Vec::new();
        for (number, script) in scripts.iter().enumerate() {
            let commits = log.microseconds(number, &during);
            // In a moment so short as where figures do not matter there may be none of one of them.
            let commit = if commits.is_empty() { f64::NAN } else { median(commits) };
            round.push([commit, cpu_of_a_commit(place, database, script).await]);
        }
        figures.push(round);
        empty(place, database).await;
    }
    for (at, write) in writes.iter().enumerate() {
        let none = at * ways.len();
        for (number, way) in (none..).zip(ways) {
            let of: Vec<[f64; 4]> = figures.iter().map(|round| compared(round[number], round[none])).collect();
            let [commit, ratio, cpu, cpu_ratio] = medians(&of);
            let compared = |text: String| if number == none { String::new() } else { text };
            table.row(&[
                format!("{}, {}{beside}", write.name(), way.what),
                format!("{commit:.0}"),
                compared(format!("{ratio:.2}")),
                compared(format!("{:+.1} %", (ratio - 1.0) * 100.0)),
                format!("{cpu:.0}"),
                compared(format!("{cpu_ratio:.2}")),
            ]);
        }
    }
}

/// Two figures, each with its ratio to another.
fn compared(figures: [f64; 2], to: [f64; 2]) -> [f64; 4] {
    [figures[0], figures[0] / to[0], figures[1], figures[1] / to[1]]
}

/// Microseconds of CPU that the backend uses for each commit of a script: the time of a commit hides them behind the disk.
async fn cpu_of_a_commit(place: &Place, database: &str, script: &str) -> f64 {
    let load = place.load(database, &[script.to_owned()], 1).await;
    let backend = load.backends().await[0];
    warm_up().await;
    let before = usage::cpu_exactly(backend);
    let during = stretch(500).await;
    let used = usage::cpu_exactly(backend) - before;
    used * 1e6 / whole(load).await.count(&during) as f64
}

/// What events add to one statement of very many rows, in time and in transaction ids.
async fn one_statement(place: &Place) {
    let rows = count(ROWS);
    let table = Table::new(
        &format!("`cost`: {rows} rows in one statement, a commit; ms; ids are those of transactions"),
        &[
            "statement",
            "no trigger",
            "ids",
            "none matches",
            "ratio",
            "ids",
            "all match",
            "ratio",
            "ids",
            "no trigger, service runs",
            "all match, service runs",
            "ratio",
        ],
    );
    let writes = [Write::Update, Write::Insert, Write::Copy];
    let mut alone = Vec::new();
    for _ in 0..rounds() {
        let mut round = Vec::new();
        for write in writes {
            let [none, none_ids] = statement(place, UNSERVED, write, &NO_EVENT, rows).await;
            let [unmatched, unmatched_ids] = statement(place, UNSERVED, write, &UNMATCHED, rows).await;
            let [matched, matched_ids] = statement(place, UNSERVED, write, &MATCHED, rows).await;
            let unmatched = [unmatched, unmatched / none, unmatched_ids];
            round.push(([none, none_ids], unmatched, [matched, matched / none, matched_ids]));
        }
        alone.push(round);
    }
    // Only now: its own transactions would count among those.
    let service = place.serve(SERVED).await;
    rest(place, &service).await;
    let mut served = Vec::new();
    for _ in 0..rounds() {
        let mut round = Vec::new();
        for write in writes {
            let mut figures = [0.0; 2];
            for (way, figure) in WAYS_SERVED.iter().zip(&mut figures) {
                [*figure, _] = statement(place, SERVED, write, way, rows).await;
            }
            // The writer has gone on; what the service is left with belongs to no other statement.
            rest(place, &service).await;
            empty(place, SERVED).await;
            round.push([figures[0], figures[1], figures[1] / figures[0]]);
        }
        served.push(round);
    }
    end(place, service).await;
    for (at, write) in writes.iter().enumerate() {
        let [none, none_ids] = medians(&alone.iter().map(|round| round[at].0).collect::<Vec<_>>());
        let unmatched = medians(&alone.iter().map(|round| round[at].1).collect::<Vec<_>>());
        let matched = medians(&alone.iter().map(|round| round[at].2).collect::<Vec<_>>());
        let [served_none, served, served_ratio] = medians(&served.iter().map(|round| round[at]).collect::<Vec<_>>());
        let mut cells = vec![write.name().to_owned(), milliseconds(none), format!("{none_ids:.0}")];
        for [seconds, ratio, ids] in [unmatched, matched] {
            cells.extend([milliseconds(seconds), format!("{ratio:.2}"), format!("{ids:.0}")]);
        }
        cells.extend([milliseconds(served_none), milliseconds(served), format!("{served_ratio:.2}")]);
        table.row(&cells);
    }
}

/// Seconds that one statement of so many rows takes with its commit, on a table as new, in a session that has written one row
/// before; and how many transaction ids it took.
async fn statement(place: &Place, database: &str, write: Write, way: &Way, rows: u64) -> [f64; 2] {
    fill(place, database, way.table, if matches!(write, Write::Update) { rows } else { 0 }).await;
    let client = place.owner(database).await;
    execute(&client, write, way.table, 1).await;
    let before = next_transaction_id(&client).await;
    let seconds = execute(&client, write, way.table, rows).await;
    let ids = next_transaction_id(&client).await - before;
    if database == UNSERVED {
        // More than the one row before: what is told may wait in `bulk`, many in one row.
        let sql = "select (select count(*) from notifier.notification) > 1 or exists (select from notifier.bulk)";
        let told: bool = client.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(told, way.told, "{} {}", write.name(), way.what);
        empty(place, database).await;
    }
    [seconds, ids as f64]
}

/// Whether a plan that was made for one row is kept for very many, or the other way round.
async fn sessions(place: &Place) {
    let rows = count(ROWS);
    let table = Table::new(
        &format!("`cost`: the first two updates of a session, of one row and of {rows}, in either order; ms"),
        &[
            "events",
            "one row, first",
            "one row, after many",
            "ratio",
            "many rows, first",
            "many rows, after one",
            "ratio",
        ],
    );
    let ways = [&NO_EVENT, &UNMATCHED, &MATCHED];
    let mut figures = Vec::new();
    for _ in 0..rounds() {
        let mut round = Vec::new();
        for way in ways {
            let [one_first, many_second] = first_two(place, way.table, [1, rows]).await;
            let [many_first, one_second] = first_two(place, way.table, [rows, 1]).await;
            let (one, many) = (one_second / one_first, many_second / many_first);
            round.push([one_first, one_second, one, many_first, many_second, many]);
        }
        figures.push(round);
    }
    for (at, way) in ways.iter().enumerate() {
        let [one_first, one_second, one, many_first, many_second, many] =
            medians(&figures.iter().map(|round| round[at]).collect::<Vec<_>>());
        table.row(&[
            way.what.to_owned(),
            format!("{:.1}", one_first * 1e3),
            format!("{:.1}", one_second * 1e3),
            format!("{one:.2}"),
            milliseconds(many_first),
            milliseconds(many_second),
            format!("{many:.2}"),
        ]);
    }
}

/// Seconds of the first two updates of a fresh session, of so many rows each.
async fn first_two(place: &Place, table: &str, rows: [u64; 2]) -> [f64; 2] {
    fill(place, UNSERVED, table, rows[0].max(rows[1])).await;
    let client = place.owner(UNSERVED).await;
    let seconds =
        [execute(&client, Write::Update, table, rows[0]).await, execute(&client, Write::Update, table, rows[1]).await];
    empty(place, UNSERVED).await;
    seconds
}

/// What a transaction of very many statements costs writers of another table, who have nothing to do with it.
async fn long_transaction(place: &Place) {
    let statements = count(STATEMENTS);
    let table = Table::new(
        &format!(
            "`cost`: {statements} updates in one transaction, and commits/s of {WRITERS} writers of another table"
        ),
        &[
            "the transaction's table",
            "updates, ms",
            "ratio",
            "writers meanwhile",
            "ratio",
            "writers while it stays open",
            "ratio",
        ],
    );
    // The last shows that the measurement would see what it looks for: more than 64 ids of subtransactions, and everybody's
    // snapshots have to look up whose they are.
    let ways = [(&NO_EVENT, false), (&MATCHED, false), (&NO_EVENT, true)];
    fill(place, UNSERVED, ELSEWHERE, count(ROWS)).await;
    for table in [NO_EVENT.table, MATCHED.table] {
        fill(place, UNSERVED, table, count(ROWS)).await;
    }
    let mut figures = Vec::new();
    for turn in 0..rounds() {
        let load = place.load(UNSERVED, &[script(Write::Update, ELSEWHERE)], WRITERS).await;
        warm_up().await;
        let mut seen: [Option<(f64, [Range<SystemTime>; 2])>; 3] = [const { None }; 3];
        for at in (0..ways.len()).map(|at| (at + turn) % ways.len()) {
            let (way, has_savepoints) = ways[at];
            let client = place.owner(UNSERVED).await;
            let sql = format!("update cost.{} set balance = balance + 1 where id = $1", way.table);
            let update = client.prepare(&sql).await.unwrap();
            client.batch_execute("begin").await.unwrap();
            let (begun, started) = (SystemTime::now(), Instant::now());
            for id in 1..=statements as i64 {
                if has_savepoints {
                    client.batch_execute("savepoint a").await.unwrap();
                }
                client.execute(&update, &[&id]).await.unwrap();
                if has_savepoints {
                    client.batch_execute("release savepoint a").await.unwrap();
                }
            }
            let (seconds, done) = (started.elapsed().as_secs_f64(), SystemTime::now());
            let open = stretch(1_000).await;
            client.batch_execute("commit").await.unwrap();
            seen[at] = Some((seconds, [begun..done, open]));
        }
        let log = whole(load).await;
        figures.push(seen.map(|seen| {
            let (seconds, windows) = seen.unwrap();
            let [meanwhile, open] = windows.map(|during| log.rate(&during));
            [seconds, meanwhile, open]
        }));
        empty(place, UNSERVED).await;
    }
    for (at, (way, has_savepoints)) in ways.iter().enumerate() {
        let of: Vec<[f64; 6]> = figures
            .iter()
            .map(|round| {
                std::array::from_fn(|figure| {
                    round[at][figure % 3] / if figure < 3 { 1.0 } else { round[0][figure % 3] }
                })
            })
            .collect();
        let [seconds, meanwhile, open, seconds_ratio, meanwhile_ratio, open_ratio] = medians(&of);
        let ratio = |ratio: f64| if at == 0 { String::new() } else { format!("{ratio:.2}") };
        table.row(&[
            format!("{}{}", way.what, if *has_savepoints { ", a savepoint each" } else { "" }),
            milliseconds(seconds),
            ratio(seconds_ratio),
            format!("{meanwhile:.0}"),
            ratio(meanwhile_ratio),
            format!("{open:.0}"),
            ratio(open_ratio),
        ]);
    }
}

/// What writers notice while the event of their table is defined anew again and again.
async fn redefinitions(place: &Place) {
    let times = count(REDEFINITIONS) / rounds() as u64;
    let table = Table::new(
        &format!("`cost`: an event is redefined while {WRITERS} writers write what it tells; commits/s"),
        &[
            "redefinitions",
            "client errors",
            "writers before",
            "writers meanwhile",
            "ratio",
            "a redefinition, ms",
            "slowest, ms",
        ],
    );
    fill(place, UNSERVED, REDEFINED, count(ROWS)).await;
    let client = place.owner(UNSERVED).await;
    redefine(&client, 0).await;
    let load = place.load(UNSERVED, &[script(Write::Update, REDEFINED)], WRITERS).await;
    warm_up().await;
    let mut windows = Vec::new();
    let mut seconds = Vec::new();
    for _ in 0..rounds() {
        let before = stretch(1_000).await;
        let begun = SystemTime::now();
        for _ in 0..times {
            seconds.push(redefine(&client, 1 + seconds.len()).await);
        }
        windows.push((before, begun..SystemTime::now()));
    }
    let log = load.stop().await;
    let figures: Vec<[f64; 3]> = windows
        .iter()
        .map(|(before, during)| (log.rate(before), log.rate(during)))
        .map(|(before, during)| [before, during, during / before])
        .collect();
    let [before, during, ratio] = medians(&figures);
    table.row(&[
        seconds.len().to_string(),
        log.errors.to_string(),
        format!("{before:.0}"),
        format!("{during:.0}"),
        format!("{ratio:.2}"),
        milliseconds(median(seconds.clone())),
        milliseconds(seconds.iter().copied().fold(0.0, f64::max)),
    ]);
    assert_eq!(log.errors, 0, "clients failed: {}", log.said);
    let sql = "select sum(balance)::bigint, (select count(*) from notifier.notification where event = 'cost.redefined')
               from cost.redefined";
    let row = client.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), row.get::<_, i64>(1), "writes, and those that were told");
    empty(place, UNSERVED).await;
}

/// Creates a table of an application, all alike. Vacuuming is left to [`fill`], so that it falls into no measurement.
async fn create(client: &Client, table: &str) {
    let sql = format!(
        "create table cost.{table} (
           id      bigint generated by default as identity primary key,
           user_id bigint not null,
           balance bigint not null default 0,
           status  text   not null default 'open'
         ) with (fillfactor = 50, autovacuum_enabled = off)"
    );
    client.batch_execute(&sql).await.unwrap();
}

/// Defines a table's events.
async fn define_events(client: &Client, way: &Way) {
    for number in 1..=way.events {
        let (inserted, updated) = if way.told && number == 1 {
            ("balance is not null".to_owned(), "balance is distinct from (was).balance".to_owned())
        } else {
            let closed = format!("status = 'closed_{number}'");
            (closed.clone(), format!("{closed} and (was).status is distinct from status"))
        };
        let [inserts, updates] = ["inserted", "updated"].map(|what| format!("cost.{}.{what}_{number}", way.table));
        let message = "Your balance is {balance}.";
        define(client, &inserts, way.table, "insert", message, &format!("from new where {inserted}")).await;
        define(client, &updates, way.table, "update", message, &format!("from changed where {updated}")).await;
    }
}

/// Defines the event of the table whose event changes, each time with another message than before. Says how many seconds it took.
async fn redefine(client: &Client, time: usize) -> f64 {
    let message = if time.is_multiple_of(2) { "Your balance is {balance}." } else { "You have {balance}." };
    let from = "from changed where balance is distinct from (was).balance";
    let started = Instant::now();
    define(client, "cost.redefined", REDEFINED, "update", message, from).await;
    started.elapsed().as_secs_f64()
}

async fn define(client: &Client, name: &str, table: &str, operation: &str, message: &str, from: &str) {
    let sql = format!(
        "select notifier.define_event(name => '{name}', source => 'cost.{table}', operation => '{operation}', \
         level => 'info', message => '{message}', query => $$ select user_id, id as account_id, balance {from} $$)"
    );
    client.batch_execute(&sql).await.unwrap();
}

/// Writes rows in one statement and says how many seconds it took.
async fn execute(client: &Client, write: Write, table: &str, rows: u64) -> f64 {
    let sql = match write {
        Write::Update => format!("update cost.{table} set balance = balance + 1 where id <= {rows}"),
        Write::Insert => {
            format!("insert into cost.{table} (user_id) select id % 1000 + 1 from generate_series(1, {rows}) id")
        }
        Write::Copy => format!("copy cost.{table} (user_id) from stdin"),
    };
    let lines = match write {
        Write::Copy => (1..=rows).map(|id| format!("{}\n", id % 1000 + 1)).collect(),
        Write::Update | Write::Insert => String::new(),
    };
    let started = Instant::now();
    if let Write::Copy = write {
        let sink = client.copy_in(&sql).await.unwrap();
        tokio::pin!(sink);
        sink.send(Bytes::from(lines)).await.unwrap();
        sink.finish().await.unwrap();
    } else {
        client.batch_execute(&sql).await.unwrap();
    }
    started.elapsed().as_secs_f64()
}

/// What pgbench does over and over: write one row.
fn script(write: Write, table: &str) -> String {
    match write {
        Write::Update => format!(
            "\\set id random(1, {})\nupdate cost.{table} set balance = balance + 1 where id = :id;\n",
            count(ROWS)
        ),
        _ => format!("\\set user random(1, 1000)\ninsert into cost.{table} (user_id) values (:user);\n"),
    }
}

/// Makes a table as new, with so many rows, of which nobody is told, and nothing left to vacuum.
async fn fill(place: &Place, database: &str, table: &str, rows: u64) {
    let client = place.owner(database).await;
    let rows = format!("select id % 1000 + 1 from generate_series(1, {rows}) id");
    let sql = format!(
        "set notifier.mute = on; truncate cost.{table} restart identity; insert into cost.{table} (user_id) {rows}"
    );
    client.batch_execute(&sql).await.unwrap();
    client.batch_execute(&format!("vacuum (analyze) cost.{table}")).await.unwrap();
}

/// Removes what was told.
async fn empty(place: &Place, database: &str) {
    let sql = "truncate notifier.notification, notifier.bulk";
    place.owner(database).await.batch_execute(sql).await.unwrap();
}

/// That what is to match does, and nothing else: a cost of nothing would be measured otherwise.
async fn prove(client: &Client, way: &Way) {
    for write in [Write::Update, Write::Insert, Write::Copy] {
        client.batch_execute("begin").await.unwrap();
        execute(client, write, way.table, 1).await;
        let sql = "select count(*) from notifier.notification where xid = pg_current_xact_id()";
        let told: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(told, i64::from(way.told), "{} {}", write.name(), way.what);
        client.batch_execute("rollback").await.unwrap();
    }
}

/// The id that the next transaction to write would get.
async fn next_transaction_id(client: &Client) -> i64 {
    let sql = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Lets so many milliseconds pass, a quarter of them where figures do not matter, and says which.
async fn stretch(milliseconds: u64) -> Range<SystemTime> {
    let begun = SystemTime::now();
    let milliseconds = if is_quick() { milliseconds / 4 } else { milliseconds };
    sleep(Duration::from_millis(milliseconds)).await;
    begun..SystemTime::now()
}

/// In its first moments a session reads its catalogs and plans, as those of a pool do once.
async fn warm_up() {
    stretch(600).await;
}

/// Ends a load of which no client may have failed.
async fn whole(load: Load) -> Log {
    let log = load.stop().await;
    assert_eq!(log.errors, 0, "clients failed: {}", log.said);
    log
}

/// Waits until the service has nothing left to do, in the database either.
async fn rest(place: &Place, service: &Process) {
    place.all_rows(SERVED).await;
    settle(service).await;
}

/// Ends the service and removes what it told.
async fn end(place: &Place, service: Process) {
    service.end("-TERM").await;
    empty(place, SERVED).await;
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.0}", seconds * 1e3)
}
