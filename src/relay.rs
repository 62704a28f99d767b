//! The relay: one instance at a time sees to it that all of them are told at once, and that writers do not pay for it.
//!
//! A transaction that has NOTIFYed holds a lock of the whole server while its commit waits for the disk. So there are two modes.
//! *Quiet*: the relay holds the bell, and writers NOTIFY what they commit; nothing is quicker. *Busy*: it does not, and writers
//! are silent; it reads what they commit every few milliseconds and NOTIFYs it for them, many in one, from a transaction of its own
//! that waits for no disk.
//!
//! No row hangs on any of this: every instance reads on by itself each second. What the relay tells says from where to where it
//! read ([`crate::protocol::Stretch`]), so it holds whoever says it, however late, and whoever else believes to be the relay.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::listener::Readiness;
use crate::metrics::Metrics;
use crate::protocol::{Cursor, Position};
use crate::registry::Registry;
use crate::store::{Doorbell, Link, Store};

/// How often the relay beats, and how often the others try to become it.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often it looks, while writers NOTIFY and there are any, whether they stand in line.
const SAMPLE: Duration = Duration::from_millis(100);
/// A look reads all locks of the server. Where there are so many that it takes long, the next waits so many times as long.
const SAMPLE_REST: u32 = 50;
/// A line of so many, seen twice running, makes it busy. Two now and then are chance.
const LINE: u64 = 3;
/// So many notifications a second make it busy even where nobody stands in line: one NOTIFY for many costs Postgres less.
const BUSY_RATE: f64 = 3_000.0;
/// The pause between two reads in busy mode, at least: what it adds to latency, and what makes a NOTIFY carry many.
const PAUSE: Duration = Duration::from_millis(2);
/// After a read that found something it is so long for each that was found ...
const PAUSE_EACH: Duration = Duration::from_micros(500);
/// ... and so many times as long as the read took at most: a database that has much to do is asked seldom, and told much at once.
const PAUSE_SHARE: u32 = 2;
/// It grows to this while nothing is found, and is this after more was found than is told: the instances read that for themselves.
const MAX_PAUSE: Duration = Duration::from_millis(20);
/// So many rows of one read are told at most, which notifier.pass_on knows too.
const MOST_TOLD: u64 = 250;
/// For so long it tells for those who looked before the bell hung.
const SETTLING: Duration = Duration::from_secs(2);
/// It is quiet again after so long below half the rate that made it busy ...
const CALM: Duration = Duration::from_secs(3);
/// ... and after twice as long each time that did not last for a minute, up to this.
const MAX_CALM: Duration = Duration::from_secs(60);
/// Above this part of the NOTIFY queue nobody adds to it: the instances read by themselves. The functions in SQL know it too.
const MAX_QUEUE: f64 = 0.25;

/// See the module.
pub struct Relay {
    /// The database.
    pub store: Store,
    /// Where it was read to, and what is read from there.
    pub registry: Arc<Registry>,
    /// Whether this instance listens: it asks for nothing it cannot hear.
    pub readiness: watch::Receiver<Readiness>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

impl Relay {
    /// Is the relay, or waits to be, until `stop`. Its connection is gone when this returns, and the locks as soon as the server
    /// notices.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let ended = tokio::select! {
                ended = self.lead() => ended,
                () = stop.cancelled() => return,
            };
            self.metrics.relay.set(0);
            self.metrics.relay_busy.set(0);
            if let Err(error) = ended {
                warn!(error = format!("{error:#}"), "not the relay");
            }
            tokio::select! {
                () = sleep(INTERVAL.mul_f64(0.5 + fastrand::f64())) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// One connection's life. It never listens and never writes a notification: a session that hangs in either would hold the locks.
    async fn lead(&mut self) -> Result<()> {
        // Through a pooler in transaction mode, which the listener finds out, the locks would stay in a session of the pool.
        self.readiness.wait_for(|readiness| *readiness == Readiness::Ready).await?;
        let mut link = self.store.link().await?;
        link.prepare_to_lead().await?;
        let generation = loop {
            if let Some(generation) = link.become_relay().await? {
                break generation;
            }
            sleep(INTERVAL).await;
            // When the listener connects anew, it may be to another server: so does this, then.
            if self.readiness.has_changed()? {
                return Ok(());
            }
        };
        info!(generation, "this instance is the relay");
        self.metrics.relay_busy.set(1);
        self.metrics.relay.set(1);
        let mut lead = Lead::new(self, link, generation);
        // A relay that does not listen steps down: another one hears what it asks for.
        while !lead.relay.readiness.has_changed()? {
            lead.step().await?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Mode {
    /// The bell hangs.
    Quiet,
    /// It hangs, and who looked before may be silent: what they commit is told for them until all before this transaction have ended.
    Settling(u64),
    /// The bell does not hang.
    Busy,
    /// The queue is full. The bell does not hang, and nothing is told.
    Silent,
}

/// A relay's time in office.
struct Lead<'a> {
    relay: &'a Relay,
    link: Link,
    generation: i64,
    mode: Mode,
    /// Up to where it has told, with rows.
    told: Position,
    /// Up to where it has read.
    read: Arc<Cursor>,
    pause: Duration,
    doorbell: Doorbell,
    tended: Instant,
    /// How many notifications there had been at `counted_at`.
    counted: u64,
    counted_at: Instant,
    /// How often running a line was seen.
    lines: u32,
    /// When to look for one again.
    sample_at: Instant,
    /// Below this rate it is calm.
    calm_rate: f64,
    /// How long it has to be.
    calm: Duration,
    calm_since: Option<Instant>,
    quiet_since: Instant,
}

impl<'a> Lead<'a> {
    fn new(relay: &'a Relay, link: Link, generation: i64) -> Self {
        let now = Instant::now();
        let read = relay.registry.position();
        Self {
            relay,
            link,
            generation,
            // Nobody has told anything since the relay before it. How much there is shows soon: at first it asks for the bell.
            mode: Mode::Busy,
            told: read.position.clone(),
            read,
            pause: PAUSE,
            doorbell: Doorbell::Auto,
            // Beat first.
            tended: now - INTERVAL,
            counted: relay.metrics.published.get(),
            counted_at: now,
            lines: 0,
            sample_at: now,
            calm_rate: f64::INFINITY,
            calm: Duration::ZERO,
            calm_since: None,
            quiet_since: now,
        }
    }

    /// One round: a beat if it is time, a read if there may be something, and a pause.
    async fn step(&mut self) -> Result<()> {
        if self.tended.elapsed() >= INTERVAL {
            self.tend().await?;
        }
        match self.mode {
            Mode::Quiet => {
                sleep(SAMPLE).await;
                self.look_at_line().await
            }
            Mode::Silent => {
                sleep(INTERVAL).await;
                Ok(())
            }
            Mode::Busy => {
                let asked = Instant::now();
                let found = self.pass_on().await?;
                self.pause = match found {
                    // Slowly: at some hundred a second every other read finds nothing.
                    0 => MAX_PAUSE.min(self.pause.mul_f64(1.2)),
                    1..=MOST_TOLD => {
                        let each = PAUSE_EACH.mul_f64(found as f64);
                        each.min(asked.elapsed() * PAUSE_SHARE).clamp(PAUSE, MAX_PAUSE)
                    }
                    _ => MAX_PAUSE,
                };
                sleep(self.pause).await;
                Ok(())
            }
            Mode::Settling(barrier) => {
                self.pass_on().await?;
                // Somebody's transaction may go on for hours, and most of what is read here its writers have announced. Who was
                // silent and takes so long is found by each instance's own read.
                if self.read.position.is_past(barrier) || self.quiet_since.elapsed() >= SETTLING {
                    self.enter(Mode::Quiet);
                    return Ok(());
                }
                self.pause = SAMPLE.min(self.pause * 2);
                sleep(self.pause).await;
                Ok(())
            }
        }
    }

    /// Once a second: a beat, which also keeps the session from being idle and so the locks, and a look whether the mode still fits.
    async fn tend(&mut self) -> Result<()> {
        let (queue, doorbell) = self.link.tend(self.generation).await?;
        (self.tended, self.doorbell) = (Instant::now(), doorbell);
        let rate = self.rate();
        match self.mode {
            _ if queue >= MAX_QUEUE => {
                if self.mode != Mode::Silent {
                    warn!(queue, "the NOTIFY queue fills up: nobody adds to it, and every instance reads for itself");
                    self.link.take_down_bell().await?;
                    self.enter(Mode::Silent);
                }
            }
            Mode::Silent => {
                self.read = self.relay.registry.position();
                self.told = self.read.position.clone();
                self.enter(Mode::Busy);
            }
            Mode::Quiet | Mode::Settling(_)
                if self.doorbell == Doorbell::Off || (self.doorbell == Doorbell::Auto && rate >= BUSY_RATE) =>
            {
                // Whoever is told to be busy goes back when told otherwise, whatever the rate.
                let calm = if self.doorbell == Doorbell::Off { f64::INFINITY } else { rate / 2.0 };
                self.become_busy(calm).await?;
            }
            Mode::Quiet | Mode::Settling(_) => {}
            Mode::Busy if self.doorbell == Doorbell::Off => {}
            Mode::Busy => {
                let since = (rate < self.calm_rate).then(|| self.calm_since.unwrap_or_else(Instant::now));
                self.calm_since = since;
                if self.doorbell == Doorbell::On || since.is_some_and(|since| since.elapsed() >= self.calm) {
                    self.become_quiet().await?;
                }
            }
        }
        Ok(())
    }

    /// Whether writers stand in line to commit behind one that has NOTIFYed.
    async fn look_at_line(&mut self) -> Result<()> {
        if self.doorbell != Doorbell::Auto || Instant::now() < self.sample_at || self.so_far() == 0.0 {
            return Ok(());
        }
        let asked = Instant::now();
        self.lines = if self.link.committing().await? >= LINE { self.lines + 1 } else { 0 };
        self.sample_at = asked + SAMPLE.max(asked.elapsed() * SAMPLE_REST);
        if self.lines >= 2 {
            // Where the disk is slow it takes few to stand in line.
            let calm = self.so_far() / 2.0;
            self.become_busy(calm).await?;
        }
        Ok(())
    }

    /// The bell comes down when it has begun to read: what nobody announced from then on, it finds. Below the rate `calm` it is
    /// quiet again.
    async fn become_busy(&mut self, calm: f64) -> Result<()> {
        if self.mode == Mode::Quiet {
            // All that is visible here was announced by its writers, or is for each instance's own read.
            let position = self.link.position().await?;
            self.told = position.clone();
            self.read = Arc::new(Cursor::new(self.relay.registry.position().epoch, position));
        }
        self.enter(Mode::Busy);
        self.link.take_down_bell().await?;
        self.calm_rate = if calm.is_finite() { calm.clamp(1.0, BUSY_RATE / 2.0) } else { calm };
        // It was quiet for a moment only: longer next time.
        let lasted = self.quiet_since.elapsed() >= MAX_CALM;
        self.calm = if lasted { CALM } else { MAX_CALM.min(self.calm * 2).max(CALM) };
        self.calm_since = None;
        Ok(())
    }

    async fn become_quiet(&mut self) -> Result<()> {
        // What nobody announced comes before what is announced from here on, where that can be.
        self.pass_on().await?;
        // Where the bell cannot be had it stays busy, and tries again in a second.
        if let Some(barrier) = self.link.hang_bell(self.generation).await? {
            self.enter(Mode::Settling(barrier));
            self.quiet_since = Instant::now();
            self.lines = 0;
        } else {
            // The lock may have been granted in the moment in which it was given up.
            self.link.take_down_bell().await?;
        }
        Ok(())
    }

    fn enter(&mut self, mode: Mode) {
        if mode == Mode::Quiet || mode == Mode::Busy {
            info!(?mode, "the relay");
        }
        self.mode = mode;
        self.pause = PAUSE;
        self.relay.metrics.relay_busy.set((mode == Mode::Busy).into());
    }

    async fn pass_on(&mut self) -> Result<u64> {
        let (epoch, read) = (self.read.epoch, &self.read.position);
        let (position, found) = self.link.pass_on(self.generation, epoch, &self.told, read).await?;
        if found > 0 {
            self.told = position.clone();
        }
        self.read = Arc::new(Cursor::new(epoch, position));
        Ok(found)
    }

    /// Notifications a second since this was asked last.
    fn rate(&mut self) -> f64 {
        let rate = self.so_far();
        (self.counted, self.counted_at) = (self.relay.metrics.published.get(), Instant::now());
        rate
    }

    /// The same, and it counts on.
    fn so_far(&self) -> f64 {
        let seconds = self.counted_at.elapsed().max(SAMPLE).as_secs_f64();
        (self.relay.metrics.published.get() - self.counted) as f64 / seconds
    }
}
