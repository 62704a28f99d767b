//! The LISTEN connection: decode what is told, read on from the position about once a second and whenever something may
//! have been missed, prove with beats that LISTEN works, reconnect for ever.
//!
//! Nothing here waits for a socket or for the database while it should read: a listener that stops reading would fill the
//! server's NOTIFY queue, and a full queue fails everybody's COMMIT.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use futures_util::future::OptionFuture;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::catch_up::CatchUp;
use crate::metrics::Metrics;
use crate::protocol::{Cursor, Epoch, Payload, Relayed};
use crate::registry::Registry;
use crate::scheduler::Alarm;
use crate::seldom::Seldom;
use crate::store::{Head, Link, OtherEpoch, Store, seconds};

/// The safety read: whatever is wrong with NOTIFY, a row is published within two of these.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The relay beats once a second. Without one for this long a listener beats itself ...
const BEAT_EXPECTED: Duration = Duration::from_secs(3);
/// ... and without an answer for this long LISTEN does not work. Late is not dead: an overloaded database is not helped by
/// reconnects.
const BEAT_LIMIT: Duration = Duration::from_secs(12);
/// Without a successful read for this long this instance is not ready.
const LOOK_LIMIT: Duration = Duration::from_secs(10);
/// How long the database may gather rows for a read, at first: after a long outage it takes what it takes, so this doubles with
/// each read that fails.
const GATHER_LIMIT: Duration = Duration::from_secs(15);
/// How long the first beat may take before this tells why it thinks that LISTEN does not work.
const PROOF_LIMIT: Duration = Duration::from_secs(3);
/// What is most likely wrong when LISTEN was accepted and the first beat does not arrive.
const POOLER: &str = "LISTEN was accepted but a NOTIFY to itself did not arrive: is there a pooler in transaction mode (pgbouncer \
    pool_mode = transaction) in between? LISTEN needs a session of its own: give --database-url the server itself, or a pool in \
    session mode";
/// The longest pause between two attempts to connect.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Whether this instance listens, and if not, why: for `/readyz`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Readiness {
    /// LISTEN was proved by a NOTIFY to itself.
    Ready,
    /// In words for an operator.
    NotReady(String),
}

/// See the module.
pub struct Listener {
    /// The database.
    pub store: Store,
    /// Where notifications go.
    pub registry: Arc<Registry>,
    /// Where it goes that something was read.
    pub catch_up: Arc<CatchUp>,
    /// Where this tells whether it listens.
    pub readiness: watch::Sender<Readiness>,
    /// Where it tells when the service has work to do.
    pub alarm: Alarm,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// Whether something stood on the channel that could not be decoded. Until a read that began after it has ended well, the position
/// moves by reads alone.
#[derive(Clone, Copy, PartialEq)]
enum Garbled {
    No,
    Yes,
    /// The read is under way.
    Asked,
}

type Look = Pin<Box<dyn Future<Output = Result<Head>> + Send>>;

impl Listener {
    /// Listens until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut attempt = 0;
        loop {
            let error = tokio::select! {
                ended = self.listen(&mut attempt) => match ended {
                    Ok(never) => match never {},
                    Err(error) => format!("{error:#}"),
                },
                () = stop.cancelled() => return,
            };
            warn!(error, attempt, "not listening");
            self.readiness.send_replace(Readiness::NotReady(error));
            // Full jitter: instances that lost one database don't come back to it in step.
            let pause =
                MAX_PAUSE.min(Duration::from_millis(100) * 2_u32.saturating_pow(attempt)).mul_f64(fastrand::f64());
            attempt += 1;
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// One connection's life; ends with what is wrong with it.
    async fn listen(&self, attempt: &mut u32) -> Result<std::convert::Infallible> {
        let mut link = self.store.seek().await?;
        let known = self.registry.position();
        let same = link.identify(&self.registry.epochs()).await?;
        let channel = link.listen().await?;
        // LISTEN is committed: what it did not hear is behind the position, and read soon.
        if known.epoch == Epoch::default() {
            // The first sockets wait for this: what they read is newer.
            let position = link.position().await?;
            self.registry.begin(same.epoch, position);
        } else if known.epoch != same.epoch {
            warn!(epoch = %same.epoch, "the database has begun another epoch: ids may have come back");
            self.registry.begin(same.epoch, known.position.older(&same.position).clone());
        }
        link.prepare_to_listen().await?;
        self.attend(link, channel, attempt).await
    }

    /// Hears and reads until something is wrong. It reads whether LISTEN works or not.
    async fn attend(&self, mut link: Link, mut channel: String, attempt: &mut u32) -> Result<std::convert::Infallible> {
        let me = format!("{:016x}", fastrand::u64(..));
        let mut look = Some(self.look(GATHER_LIMIT));
        let mut gather = GATHER_LIMIT;
        let mut looked_at = Instant::now();
        let mut why_not = String::new();
        // A beat of its own, sent through another connection, proves that LISTEN works.
        let mut beat = Some(self.beat(&me));
        let mut asked = true;
        let mut proved = false;
        let mut doubt = POOLER.to_owned();
        let mut heard = Instant::now();
        let mut silent = false;
        let mut wanted = false;
        let mut garbled = Garbled::No;
        let malformed = Seldom::default();
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut tick = false;
            tokio::select! {
                payload = link.next() => match Payload::decode(&payload?) {
                    Ok(Payload::Notification(notification)) => self.publish(&notification),
                    Ok(Payload::Read) => wanted = true,
                    Ok(Payload::Due(at)) => self.alarm.earlier(seconds(at)),
                    Ok(Payload::Relayed(Relayed { notifications, undecodable, stretch })) => {
                        notifications.iter().for_each(|notification| self.publish(notification));
                        if undecodable > 0 {
                            warn!(undecodable, "rows of notifier.notification are undecodable and skipped");
                            self.metrics.malformed_payloads.inc();
                        }
                        if let Some(stretch) = stretch {
                            (heard, asked) = (Instant::now(), false);
                            // What could not be decoded stood before it, perhaps: then the read comes first.
                            if garbled == Garbled::No {
                                self.registry.follow(&stretch);
                            }
                        }
                    }
                    Ok(Payload::Beat(from)) => {
                        (heard, asked) = (Instant::now(), false);
                        if from == me && !proved {
                            (proved, *attempt) = (true, 0);
                            self.proved();
                        }
                    }
                    Ok(Payload::ReadBy(read_by)) => self.catch_up.mirror(read_by),
                    Ok(Payload::Revoked(revocation)) => self.registry.revoke(&revocation.user_id, revocation.at),
                    Err(error) => {
                        // Its text may be anybody's, and the error quotes it. If it was one of ours, the read finds the row.
                        if let Some(times) = malformed.again() {
                            warn!(kind = ?error.classify(), column = error.column(), times, "malformed payloads on the channel, ignored");
                        }
                        self.metrics.malformed_payloads.inc();
                        (wanted, garbled) = (true, Garbled::Yes);
                    }
                },
                Some(looked) = OptionFuture::from(look.as_mut()) => {
                    look = None;
                    match looked {
                        Ok(head) => {
                            if let Some(work) = head.work {
                                self.alarm.earlier(work);
                            }
                            if head.channel != channel {
                                info!("the channel has another name");
                                channel = link.listen_anew(&channel).await?;
                                wanted = true;
                            }
                            (looked_at, gather) = (Instant::now(), GATHER_LIMIT);
                            why_not.clear();
                            if garbled == Garbled::Asked {
                                garbled = Garbled::No;
                            }
                            self.metrics.clock.set(head.now + head.at.elapsed().as_secs_f64());
                            self.metrics.notify_queue.set(head.queue);
                            self.metrics.faults.set(head.faults);
                            self.metrics.position_moved();
                            if proved {
                                self.tell(Readiness::Ready);
                            }
                        }
                        Err(error) if error.is::<OtherEpoch>() => return Err(error),
                        // The position has not moved: the next look reads the same again.
                        Err(error) => {
                            warn!(error = format!("{error:#}"), "reading the stream failed");
                            why_not = format!(", lastly since: {error:#}");
                            if garbled == Garbled::Asked {
                                garbled = Garbled::Yes;
                            }
                            gather = (gather * 2).min(60 * GATHER_LIMIT);
                        }
                    }
                }
                Some(beaten) = OptionFuture::from(beat.as_mut()) => {
                    beat = None;
                    if let Err(error) = beaten {
                        doubt = format!("sending a beat failed: {error:#}");
                        warn!(error = format!("{error:#}"), "sending a beat failed");
                        asked = false;
                    }
                }
                _ = ticks.tick() => tick = true,
            }
            // One at a time; one that is asked for while another is under way comes after it.
            wanted |= tick && look.is_none();
            if wanted && look.is_none() {
                look = Some(self.look(gather));
                wanted = false;
                if garbled == Garbled::Yes {
                    garbled = Garbled::Asked;
                }
            }
            if tick && looked_at.elapsed() > LOOK_LIMIT {
                let why = format!("no read has ended well for {} s{why_not}", looked_at.elapsed().as_secs());
                self.tell(Readiness::NotReady(why));
            }
            if tick && !proved && heard.elapsed() > PROOF_LIMIT {
                self.tell(Readiness::NotReady(doubt.clone()));
            }
            if tick && heard.elapsed() > BEAT_LIMIT {
                // Told twice: after a pause of this very process a beat may be waiting to be read.
                if std::mem::replace(&mut silent, true) {
                    if !proved {
                        // A pooler may have put LISTEN on a session that others use.
                        let _ = link.unlisten().await;
                    }
                    let why = if proved { "LISTEN has gone silent" } else { doubt.as_str() };
                    bail!("{why}: no beat for {} s", heard.elapsed().as_secs());
                }
            } else if tick {
                silent = false;
            }
            if tick && heard.elapsed() > BEAT_EXPECTED && !asked {
                asked = true;
                beat = Some(self.beat(&me));
            }
        }
    }

    /// LISTEN works.
    fn proved(&self) {
        if self.metrics.listener_connects.get() > 0 {
            // What was read meanwhile was told to nobody.
            self.catch_up.recount();
        }
        self.metrics.listener_connects.inc();
        self.readiness.send_replace(Readiness::Ready);
        info!("listening");
    }

    /// Through another connection: its own NOTIFY a session hears even where a pooler would keep all others' from it.
    fn beat(&self, me: &str) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> {
        let (store, me) = (self.store.clone(), me.to_owned());
        Box::pin(async move { store.beat(&me).await })
    }

    fn tell(&self, readiness: Readiness) {
        self.readiness.send_if_modified(|told| {
            let news = *told != readiness;
            *told = readiness;
            news
        });
    }

    fn look(&self, limit: Duration) -> Look {
        let (store, registry, metrics) = (self.store.clone(), self.registry.clone(), self.metrics.clone());
        // From where it stands when this is decided: what is told later may move it past what this is to find.
        let after = registry.position();
        Box::pin(async move {
            // They come first: what a large read takes is no reason to let somebody listen on.
            let (looked, revocations) = store.revocations(&registry.revoked_until()).await?;
            registry.revoke_all(looked, &revocations);
            let head = store
                .stream(&after, limit, |notification| {
                    if registry.publish(&notification) {
                        metrics.published.inc();
                    }
                })
                .await?;
            if registry.advance(head.position.clone(), head.noted.clone()) {
                let noted = store.note_position(&Cursor::new(head.epoch, head.position.clone())).await;
                if let Err(error) = noted {
                    // Costs nothing but a longer read after a crash.
                    warn!(error = format!("{error:#}"), "the position is not noted");
                }
            }
            Ok(head)
        })
    }

    fn publish(&self, notification: &crate::protocol::Notification) {
        if self.registry.publish(notification) {
            self.metrics.published.inc();
        }
    }
}
