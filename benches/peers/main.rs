//! This project and what else people bring committed rows to browsers with: the same work in one run, by `make bench-peers`.
//!
//! Each contender is started anew in each round, on an empty database of one private Postgres, and does all of the work while
//! no other runs. Figures are medians of the rounds. `cargo bench --bench peers -- uWeb socket.io` compares with those alone.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod contender;
mod crowd;
#[path = "../support/table.rs"]
#[allow(dead_code)]
mod table;
#[path = "../support/usage.rs"]
#[allow(dead_code)]
mod usage;
mod writer;

use std::collections::HashMap;
use std::time::{Duration, Instant};
use std::{env, iter};

use anyhow::{Context, Result, ensure};
use parkmate_notifier::cli::private_postgres::PrivatePostgres;
use tokio::runtime::Handle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use contender::{Contender, Running, Split};
use table::{Table, median};

/// Work that is done for frames after they were sent belongs to them: ours writes down what was confirmed.
const SETTLE: Duration = Duration::from_secs(3);

/// How much each contender is asked for.
struct Size {
    rounds: usize,
    idle: usize,
    rate: u32,
    timed: i64,
    flood: usize,
    shown: usize,
}

/// For all but Django.
const FULL: Size = Size { rounds: 3, idle: 10_000, rate: 200, timed: 400, flood: 50_000, shown: 300 };
/// Django brings some hundred frames a second: as much as it does in less than a minute.
const DJANGO: Size = Size { rounds: 1, idle: 2_000, rate: 50, timed: 100, flood: 1_000, shown: 10 };
/// Sockets that frames are sent to.
const SOCKETS: usize = 1_000;

fn size(contender: Contender) -> &'static Size {
    if contender.is_django() { &DJANGO } else { &FULL }
}

/// What one round measured.
#[derive(Clone, Copy)]
struct Figures {
    connects: f64,
    memory: f64,
    /// Milliseconds, the median and the 99th percentile, with many idle sockets and with few.
    among_many: (f64, f64),
    among_few: (f64, f64),
    flood: f64,
    /// Seconds for 100,000 frames.
    cpu: Split,
    fan_out: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let wanted: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let is_wanted = |contender: &Contender| {
        let named = wanted.iter().any(|word| contender.name().contains(word.as_str()));
        *contender == Contender::Ours || wanted.is_empty() || named
    };
    let mut contenders: Vec<Contender> = Contender::ALL.into_iter().filter(is_wanted).collect();
    ensure!(open_files()? > FULL.idle + 500, "too few open files are allowed: ulimit -n 20000");

    let postgres = PrivatePostgres::start_with(&["fsync = on"]).await?;
    writer::connect(&postgres.url("postgres", "postgres")).await?.batch_execute("create role bench login").await?;
    let sockets = crowd::thread();
    let mut figures: HashMap<&str, Vec<Figures>> = HashMap::new();
    for round in 0..FULL.rounds {
        let mut skipped = Vec::new();
        for &contender in contenders.iter().filter(|contender| round < size(**contender).rounds) {
            let begun = Instant::now();
            match measure(contender, &postgres, &sockets).await {
                Ok(measured) => figures.entry(contender.name()).or_default().push(measured),
                Err(error) => {
                    println!("skipped: {}: {error:#}\n", contender.name());
                    skipped.push(contender);
                }
            }
            eprintln!("round {}, {}: {:.0?}", round + 1, contender.name(), begun.elapsed());
        }
        contenders.retain(|contender| !skipped.contains(contender));
    }
    let medians = contenders.iter().map(|contender| (contender.name(), median_of_each(&figures[contender.name()])));
    print_tables(&medians.collect::<Vec<_>>())
}

/// One round of one contender.
async fn measure(contender: Contender, postgres: &PrivatePostgres, sockets: &Handle) -> Result<Figures> {
    let size = size(contender);
    let users: Vec<String> = (0..size.idle).map(|n| format!("user{n}")).collect();
    let mut running = Running::start(contender, postgres, sockets).await.context("starting")?;

    let before = running.memory();
    let opened = running.crowd.open(users.iter().cloned()).await.context("opening sockets")?;
    sleep(Duration::from_secs(1)).await;
    let memory = (running.memory() - before) / size.idle as f64;
    let among_many = latency(&mut running, &users, size).await.context("few events to many sockets")?;

    running.crowd.keep(SOCKETS);
    sleep(Duration::from_secs(1)).await;
    let users = &users[..SOCKETS];
    let among_few = latency(&mut running, users, size).await.context("few events to few sockets")?;

    let before = running.cpu();
    let flood = flood(&mut running, users, size.flood, 1).await.context("the flood")?;
    sleep(SETTLE).await;
    let cpu = running.cpu().since(&before, 100_000.0 / size.flood as f64);

    running.crowd.open(iter::repeat_n("everybody".to_owned(), SOCKETS)).await?;
    let fan_out = self::flood(&mut running, &["everybody".to_owned()], size.shown, SOCKETS).await.context("fan-out")?;
    Ok(Figures {
        connects: size.idle as f64 / opened.as_secs_f64(),
        memory,
        among_many,
        among_few,
        flood,
        cpu,
        fan_out,
    })
}

/// Events at a steady rate, each to somebody: milliseconds from the acknowledged commit to the frame, p50 and p99.
async fn latency(running: &mut Running, users: &[String], size: &Size) -> Result<(f64, f64)> {
    let wanted = running.crowd.frames() + u64::try_from(size.timed)?;
    let mut clock = interval(Duration::from_secs(1) / size.rate);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut committed = HashMap::new();
    running.crowd.time(true);
    for number in 0..size.timed {
        clock.tick().await;
        let user = &users[fastrand::usize(..users.len())];
        committed.insert(u64::try_from(number)?, running.writer.write(user, number).await?);
    }
    running.crowd.frames_reach(wanted).await?;
    // A frame may overtake the acknowledgement.
    let taken = |(number, came): (u64, u64)| Some(came.saturating_sub(*committed.get(&number)?) as f64 / 1e6);
    let mut taken: Vec<f64> = running.crowd.time(false).into_iter().filter_map(taken).collect();
    taken.sort_by(f64::total_cmp);
    let at = |share: f64| taken[((taken.len() - 1) as f64 * share).round() as usize];
    Ok((at(0.5), at(0.99)))
}

/// Many events at once, each to so many sockets: frames a second.
async fn flood(running: &mut Running, users: &[String], count: usize, sockets: usize) -> Result<f64> {
    let frames = count * sockets;
    let wanted = running.crowd.frames() + u64::try_from(frames)?;
    let begun = running.writer.flood(users, count).await?;
    let ended = running.crowd.frames_reach(wanted).await?;
    Ok(frames as f64 / Duration::from_nanos(ended.saturating_sub(begun)).as_secs_f64())
}

/// How many files this process may have open.
fn open_files() -> Result<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).context("no such limit")?;
    Ok(line.split_whitespace().next().and_then(|soft| soft.parse().ok()).unwrap_or(usize::MAX))
}

fn median_of_each(rounds: &[Figures]) -> Figures {
    let of = |figure: &dyn Fn(&Figures) -> f64| median(rounds.iter().map(figure).collect());
    Figures {
        connects: of(&|round| round.connects),
        memory: of(&|round| round.memory),
        among_many: (of(&|round| round.among_many.0), of(&|round| round.among_many.1)),
        among_few: (of(&|round| round.among_few.0), of(&|round| round.among_few.1)),
        flood: of(&|round| round.flood),
        cpu: Split {
            server: of(&|round| round.cpu.server),
            redis: of(&|round| round.cpu.redis),
            writer: of(&|round| round.cpu.writer),
            postgres: of(&|round| round.cpu.postgres),
        },
        fan_out: of(&|round| round.fan_out),
    }
}

/// A column of a table: its heading, the figure, how many decimals, and whether the quotient ours / theirs follows.
type Column<'a> = (&'a str, &'a dyn Fn(&Figures) -> f64, usize, bool);

fn print_tables(all: &[(&str, Figures)]) -> Result<()> {
    let (_, ours) = all.first().filter(|(name, _)| *name == Contender::Ours.name()).context("ours was not measured")?;
    let table = |title: &str, columns: &[Column]| {
        let heads =
            columns.iter().flat_map(|&(head, .., compared)| iter::once(head).chain(compared.then_some("ours / it")));
        let table = Table::new(&format!("**{title}**"), &iter::once("").chain(heads).collect::<Vec<_>>());
        for &(name, theirs) in all {
            let mut cells = vec![name.to_owned()];
            for &(_, figure, decimals, compared) in columns {
                let value = figure(&theirs);
                cells.push(format!("{value:.decimals$}"));
                cells.extend(compared.then(|| three_digits(figure(ours) / value)));
            }
            table.row(&cells);
        }
    };
    table(
        "Commit acknowledged to frame, ms: 200 events/s among 10,000 and among 1,000 sockets (Django: 50/s among 2,000 and 1,000)",
        &[
            ("10,000: p50", &|f| f.among_many.0, 2, true),
            ("p99", &|f| f.among_many.1, 2, true),
            ("1,000: p50", &|f| f.among_few.0, 2, true),
            ("p99", &|f| f.among_few.1, 2, true),
        ],
    );
    table(
        "50,000 rows at once, a frame each, to 1,000 users (Django: 1,000 rows); CPU seconds for 100,000 frames",
        &[
            ("frames/s", &|f| f.flood, 0, true),
            ("server and redis", &|f| f.cpu.server + f.cpu.redis, 2, true),
            ("of it redis", &|f| f.cpu.redis, 2, false),
            ("Postgres", &|f| f.cpu.postgres, 2, true),
            ("the writing application", &|f| f.cpu.writer, 2, false),
        ],
    );
    table(
        "10,000 sockets open at once (Django: 2,000), each until its first frame; then KiB of memory for each",
        &[("sockets/s", &|f| f.connects, 0, true), ("KiB", &|f| f.memory, 1, true)],
    );
    table("300 events to 1,000 sockets of one user (Django: 10 events)", &[("frames/s", &|f| f.fan_out, 0, true)]);
    Ok(())
}

/// A quotient as it is read: 0.0042, 0.53, 12, 340.
fn three_digits(value: f64) -> String {
    match value {
        value if value >= 10.0 => format!("{value:.0}"),
        value if value >= 0.1 => format!("{value:.2}"),
        value => format!("{value:.4}"),
    }
}
