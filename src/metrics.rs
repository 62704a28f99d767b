//! Counts for operators, in the text format of Prometheus at `/metrics`. No user ids, and no label a stranger can invent.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Why a socket was closed.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct Code {
    /// The close code: there are few.
    pub code: u16,
}

/// One field a figure; its help text is its documentation.
#[derive(Default)]
pub struct Metrics {
    registry: Registry,
    /// Sockets open now.
    pub sockets: Gauge,
    /// Notification frames written to sockets.
    pub frames: Counter,
    /// Notifications noted as delivered.
    pub confirmed: Counter,
    /// Payloads on the channel that could not be decoded.
    pub malformed_payloads: Counter,
    /// Notifications published, by whatever way they came.
    pub published: Counter,
    /// Times a mailbox was full and the session read on from the table.
    pub lags: Counter,
    /// Catch-ups of sockets, one for each opening and each page.
    pub catch_ups: Counter,
    /// Questions to the database that answered them, many in one.
    pub catch_up_reads: Counter,
    /// Times the listener connected.
    pub listener_connects: Counter,
    /// Whether this instance is the relay.
    pub relay: Gauge,
    /// Whether it is, and tells for the writers what they commit.
    pub relay_busy: Gauge,
    /// Sockets that this side closed, by close code.
    pub closes: Family<Code, Counter>,
    /// Sockets closed whose client never answers, and is not told the same again.
    pub unanswering: Counter,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut new = Self { registry: Registry::with_prefix("notifier"), ..Self::default() };
        let r = &mut new.registry;
        r.register("sockets", "Sockets open now", new.sockets.clone());
        r.register("frames", "Notification frames written to sockets", new.frames.clone());
        r.register("confirmed", "Notifications noted as delivered", new.confirmed.clone());
        r.register(
            "malformed_payloads",
            "Payloads on the channel that could not be decoded",
            new.malformed_payloads.clone(),
        );
        r.register("published", "Notifications published on this instance", new.published.clone());
        r.register("lags", "Times a mailbox was full and the session read on from the table", new.lags.clone());
        r.register("catch_ups", "Catch-ups of sockets: openings and pages", new.catch_ups.clone());
        r.register("catch_up_reads", "Questions to the database that answered catch-ups", new.catch_up_reads.clone());
        r.register("listener_connects", "Times the listener connected", new.listener_connects.clone());
        r.register("relay", "1 on the instance that is the relay", new.relay.clone());
        r.register(
            "relay_busy",
            "1 on the relay while it tells for the writers what they commit, 0 while they NOTIFY themselves",
            new.relay_busy.clone(),
        );
        r.register("closes", "Sockets that this side closed, by close code", new.closes.clone());
        r.register(
            "unanswering",
            "Sockets closed whose client never answers pings and is not told the same again",
            new.unanswering.clone(),
        );
        new
    }

    /// The figures as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
