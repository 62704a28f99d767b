//! What a process has used, as Linux counts it.

use std::fs;

/// CPU time is counted in hundredths of a second.
const TICK: f64 = 0.01;

/// CPU seconds of a process since its start, those of children that have ended and were waited for left out.
pub fn cpu(pid: u32) -> f64 {
    stat(pid).map_or(0.0, |stat| stat.own)
}

/// CPU seconds of a process of a single thread, a backend of Postgres for example, in nanoseconds where the kernel counts them.
pub fn cpu_exactly(pid: u32) -> f64 {
    let counted = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok();
    let nanoseconds = counted.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| cpu(pid), |nanoseconds| nanoseconds / 1e9)
}

/// CPU seconds of this process's children that have ended.
pub fn cpu_of_ended_children() -> f64 {
    stat(std::process::id()).map_or(0.0, |stat| stat.ended)
}

/// CPU seconds of a process and its children, with those that have ended.
pub fn cpu_of_family(parent: u32) -> f64 {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // A child that ends between two of these is missed: none does while a measurement begins or ends.
    pids.filter_map(|pid: u32| stat(pid).filter(|stat| pid == parent || stat.parent == parent))
        .map(|stat| stat.own + stat.ended)
        .sum()
}

/// Resident memory of a process now, in KiB.
pub fn memory(pid: u32) -> f64 {
    status(pid, "VmRSS:")
}

/// The most resident memory that a process ever had, in KiB.
pub fn peak_memory(pid: u32) -> f64 {
    status(pid, "VmHWM:")
}

struct Stat {
    parent: u32,
    own: f64,
    ended: f64,
}

/// `None` when it is gone.
fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything, come state, parent, and so on: see proc(5).
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap() * TICK;
    Some(Stat { parent: fields[1].parse().unwrap(), own: ticks(11) + ticks(12), ended: ticks(13) + ticks(14) })
}

fn status(pid: u32, name: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
