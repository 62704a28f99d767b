//! The figures of one run under one fault, and the line they make in the table.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use tokio::time::Instant;

use super::ledger::{Ledger, Outcome, Sums};

/// What came of a run.
#[derive(Debug)]
pub struct Verdict {
    /// What was done meanwhile.
    pub fault: &'static str,
    /// Rows committed.
    pub ok: u64,
    /// Rows surely not committed though their writer wanted them to be.
    pub failed: u64,
    /// Rows whose commit was never answered.
    pub unknown: u64,
    /// Rows rolled back on purpose.
    pub rolled_back: u64,
    /// Committed rows that a socket which was open all the time, or every socket of their user, never got.
    pub lost: u64,
    /// What went wrong at the sockets.
    pub sums: Sums,
    /// Writes that the server refused with an error while it was there.
    pub failures: u64,
    /// From the end of the fault until all committed before was seen, and a row written after.
    pub recovered: Duration,
    /// The longest time from a commit's answer to the first sight of its row.
    pub slowest: Duration,
    /// From the first write to this.
    pub took: Duration,
}

impl Verdict {
    /// Judges a ledger. `ended` is when the fault was over.
    pub fn new(fault: &'static str, ledger: &Ledger, ended: Instant, lost: usize, failures: u64) -> Self {
        let mut new = Self {
            fault,
            ok: 0,
            failed: 0,
            unknown: 0,
            rolled_back: 0,
            lost: lost as u64,
            sums: ledger.sums(),
            failures,
            recovered: Duration::ZERO,
            slowest: Duration::ZERO,
            took: Duration::ZERO,
        };
        let mut first_after = None::<Duration>;
        ledger.for_each_row(|row| {
            match row.outcome {
                Outcome::Ok => new.ok += 1,
                Outcome::Failed => new.failed += 1,
                Outcome::Open | Outcome::Unknown => new.unknown += 1,
                Outcome::RolledBack => new.rolled_back += 1,
            }
            new.took = new.took.max(row.began.elapsed());
            if let (Outcome::Ok, Some(answered), Some(seen)) = (row.outcome, row.answered, row.seen) {
                new.slowest = new.slowest.max(seen.saturating_duration_since(answered));
                let since = seen.saturating_duration_since(ended);
                if answered <= ended {
                    new.recovered = new.recovered.max(since);
                } else if row.began > ended {
                    first_after = Some(first_after.map_or(since, |first| first.min(since)));
                }
            }
        });
        new.recovered = new.recovered.max(first_after.unwrap_or_default());
        new
    }

    /// Asserts what holds under every fault, and prints the line: nothing lost, misrouted, invented, doubled or summed up.
    pub fn nothing_lost(&self) -> &Self {
        self.print();
        let wrong = (self.lost, self.sums.misrouted, self.sums.phantom, self.sums.duplicated, self.sums.summarized);
        assert_eq!(wrong, (0, 0, 0, 0, 0), "lost, misrouted, phantom, duplicated, summarized of {self:#?}");
        self
    }

    /// Asserts that the application noticed nothing.
    pub fn no_write_failed(&self) -> &Self {
        assert_eq!((self.failed, self.unknown, self.failures), (0, 0, 0), "failed, unknown, failures of {self:#?}");
        self
    }

    /// Asserts that the fault's own failures were lost connections, and no write was refused.
    pub fn no_write_refused(&self) -> &Self {
        assert_eq!(self.failures, 0, "writes refused in {self:#?}");
        self
    }

    /// Prints the line, and adds it to the file that `TORTURE_TABLE` names.
    fn print(&self) {
        let mut line = format!("| {:<58} |", self.fault);
        let sums = &self.sums;
        for figure in [self.ok, self.failed, self.unknown, self.rolled_back, self.lost] {
            let _ = write!(line, " {figure:>6} |");
        }
        for figure in [sums.misrouted, sums.phantom, sums.duplicated, sums.repeated, self.failures] {
            let _ = write!(line, " {figure:>5} |");
        }
        for time in [self.slowest, self.recovered, self.took] {
            let _ = write!(line, " {:>7.2} |", time.as_secs_f64());
        }
        println!("{line}");
        if let Some(path) = std::env::var_os("TORTURE_TABLE") {
            // One write each, so that tests side by side don't mix their lines.
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
            file.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
    }
}
