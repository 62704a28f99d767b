//! What the service costs and how fast it is, each figure beside what it is to be compared with, measured in the same run and in
//! turns. `cargo bench --locked --bench bench` runs most, `-- latency` one of them, `-- cost` and `-- soak` the others; `BENCH_QUICK=1` only
//! sees that they run. Each prints a table; docs/performance.md explains them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cost;
mod crowd;
mod latency;
mod memory;
mod support;
mod throughput;
mod writers;

use std::time::Instant;

/// In the order in which they run.
const ALL: [&str; 5] = ["latency", "writers", "throughput", "memory", "crowd"];

/// Those that are asked for by name: what triggers cost the application, and what takes long.
const APART: [&str; 2] = ["cost", "soak"];

fn main() {
    // Cargo adds flags of its own.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let known = |name: &String| ALL.contains(&name.as_str()) || APART.contains(&name.as_str()) || name == memory::FLOOR;
    if let Some(unknown) = wanted.iter().find(|name| !known(name)) {
        eprintln!("no bench {unknown}: there are {}, {}", ALL.join(", "), APART.join(", "));
        std::process::exit(2);
    }
    let wanted = if wanted.is_empty() { ALL.map(str::to_owned).to_vec() } else { wanted };
    support::process::allow_many_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for name in wanted {
        let started = Instant::now();
        runtime.block_on(async {
            match name.as_str() {
                "latency" => latency::run().await,
                "writers" => writers::run().await,
                "cost" => cost::run().await,
                "throughput" => throughput::run().await,
                "soak" => throughput::soak().await,
                "memory" => memory::run().await,
                "crowd" => crowd::run().await,
                _ => memory::be_the_floor().await,
            }
        });
        if name != memory::FLOOR {
            eprintln!("{name}: {:.0} s", started.elapsed().as_secs_f64());
        }
    }
}
