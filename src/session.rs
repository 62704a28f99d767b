//! One socket's life: catch up, deliver, confirm, close. One task, one `select!`.
//!
//! Subscribe, then read: what is published while the table is read waits in the mailbox, and what the read has seen is then
//! left out. After each batch of frames goes a ping with a number; the pong that echoes it confirms the frames before it,
//! and when the socket still lives two seconds later (a page that reloads answers and is gone) the database is told.

use std::collections::{HashSet, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::OptionFuture;
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes, error::ProtocolError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::confirmations::{Confirmations, Summary};
use crate::metrics::Metrics;
use crate::protocol::{self, CloseCode, Position, UserId};
use crate::registry::{MAX_MAILBOX_BYTES, Mail, Registry, Subscription, Taken};
use crate::store::{Store, Undelivered};

mod metered;
mod receipts;

pub use metered::Metered;
use receipts::{MAX_UNCONFIRMED, Receipts, SETTLE, What};

/// A silent socket is asked for a sign of life this often, give or take a fifth so that sockets don't do it in step.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long pings may go unanswered, and how long a write may make no progress.
const PATIENCE: Duration = Duration::from_secs(10);
/// While one goes unanswered another follows after this: a client may answer only some.
const PING_AGAIN: Duration = Duration::from_secs(3);
/// A ping goes out after so many bytes of frames, so that a slow link confirms what has arrived and need not get it again.
const PING_BYTES: usize = 16 * 1024;
/// How many pongs of ours may wait to be written: a client that pings and does not read is closed.
const MAX_UNWRITTEN_PONGS: u32 = 32;
/// How long the other side may take to close, and to confirm what is under way when this side stops.
const FAREWELL: Duration = Duration::from_secs(2);
/// How many notifications a page of a catch-up has.
const PAGE: i32 = 256;

/// What every session works with.
pub struct Context {
    /// The database.
    pub store: Store,
    /// Where notifications come from.
    pub registry: Arc<Registry>,
    /// Where confirmations go.
    pub confirmations: Arc<Confirmations>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// How far back an opening socket is told what it missed.
    pub replay_window: Duration,
    /// How many of those at most; the rest is told as a number.
    pub replay_limit: i32,
}

/// Limits of the framing layer. `read_buffer_size` is what an idle socket costs most of.
pub fn web_socket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(512)
        .write_buffer_size(16 * 1024)
        // A notification may be larger than any fixed limit; the session bounds what it writes before it flushes.
        .max_write_buffer_size(usize::MAX)
        .max_message_size(Some(protocol::MAX_INBOUND_BYTES))
        .max_frame_size(Some(protocol::MAX_INBOUND_BYTES))
}

/// Serves one socket until it ends, whichever side ends it. Invariant: the handshake is done and the user may listen.
pub fn run<S>(
    socket: WebSocketStream<Metered<S>>,
    user: UserId,
    context: Arc<Context>,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    // Made out here, and closed in a box of its own: what an async function is given or moves it keeps a place for as long as
    // it lives, and ten thousand idle sockets would keep three.
    context.metrics.sockets.inc();
    let mut session = Session::new(socket, user, context);
    async move {
        let end = session.live(&stop).await;
        debug!(user = %session.mail.user(), ?end, "socket ends");
        Box::pin(session.close(end)).await;
        session.context.metrics.sockets.dec();
    }
}

struct Session<S> {
    socket: WebSocketStream<Metered<S>>,
    context: Arc<Context>,
    mail: Subscription,
    /// What a catch-up found and is not written yet.
    backlog: VecDeque<Outgoing>,
    /// A question to the database; nothing but `backlog` is written while it is asked.
    asking: Option<Pin<Box<dyn Future<Output = Found> + Send>>>,
    /// The rest of a catch-up after a lag.
    missing: Option<Missing>,
    /// What the last catch-up has seen: mail visible in it was told or summarized. Gone once the registry is past it.
    seen: Option<Position>,
    receipts: Receipts,
    /// Since when the oldest unanswered ping is out.
    unanswered: Option<Instant>,
    pinged: Instant,
    /// Since when something waits in the socket's buffer and no byte was written.
    unflushed: Option<Instant>,
    /// How many bytes were written when that was looked at last.
    written: u64,
    unwritten_pongs: u32,
    next_idle_ping: Instant,
    /// When [`Self::tick`] ran last.
    ticked: Instant,
}

enum Outgoing {
    Mail(Mail),
    Summary(Utf8Bytes, Box<Summary>),
}

/// A catch-up after a lag: what is visible in `within` and not in `after`, page by page.
struct Missing {
    after: Vec<Position>,
    within: Option<Position>,
    after_id: i64,
    /// Written while the mailbox was filling up: they are on the pages as well.
    told: HashSet<i64>,
}

enum Found {
    Undelivered(Undelivered),
    Page(Position, Vec<protocol::Notification>),
}

#[derive(Debug)]
enum End {
    /// The other side closes or is gone.
    Gone,
    Close(CloseCode),
}

enum Step {
    Flushed(Result<(), Error>),
    Received(Option<Result<Message, Error>>),
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Session<S> {
    fn new(socket: WebSocketStream<Metered<S>>, user: UserId, context: Arc<Context>) -> Self {
        let mail = context.registry.subscribe(user);
        let mut session = Self {
            socket,
            context,
            mail,
            backlog: VecDeque::new(),
            asking: None,
            missing: None,
            seen: None,
            receipts: Receipts::default(),
            unanswered: None,
            pinged: Instant::now(),
            unflushed: None,
            written: 0,
            unwritten_pongs: 0,
            next_idle_ping: idle_ping(),
            ticked: Instant::now(),
        };
        session.ask_for_undelivered();
        session
    }

    async fn live(&mut self, stop: &CancellationToken) -> End {
        loop {
            self.write();
            let deadline = self.deadline();
            let writable = self.may_write();
            let Self { socket, mail, asking, unflushed, .. } = self;
            let end = tokio::select! {
                step = step(socket, unflushed.is_some()) => self.stepped(step),
                Some(found) = OptionFuture::from(asking.as_mut()) => {
                    self.found(found);
                    None
                }
                () = mail.arrived(), if writable => None,
                () = sleep_until(deadline) => self.hear_out().or_else(|| self.tick()),
                () = stop.cancelled() => Some(End::Close(CloseCode::Restarting)),
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Whether mail may go out: all before it is flushed, the window is open, and no catch-up is being read.
    fn may_write(&self) -> bool {
        self.unflushed.is_none() && self.receipts.room() > 0 && self.asking.is_none()
    }

    /// Reads what has arrived, before time is held against the socket: after a pause of this process all its pongs wait here.
    fn hear_out(&mut self) -> Option<End> {
        for _ in 0..MAX_UNCONFIRMED {
            let heard = step(&mut self.socket, self.unflushed.is_some()).now_or_never()?;
            if let Some(end) = self.stepped(heard) {
                return Some(end);
            }
        }
        None
    }

    /// Puts what may go out into the socket's buffer, with pings between; the flush happens in [`step`].
    fn write(&mut self) {
        if self.unflushed.is_some() || self.receipts.room() == 0 {
            return;
        }
        if self.backlog.is_empty() && self.asking.is_none() && self.missing.is_none() {
            self.take_mail();
        }
        if self.backlog.is_empty() && self.asking.is_none() && self.missing.is_some() {
            self.ask_for_page();
        }

        let mut bytes = 0;
        let mut since_ping = 0;
        while self.receipts.room() > 0
            && bytes < MAX_MAILBOX_BYTES
            && let Some(outgoing) = self.backlog.pop_front()
        {
            let (frame, what) = match outgoing {
                Outgoing::Mail(Mail { id, slot, xid, frame }) => (frame, What::Notification { id, slot, xid }),
                Outgoing::Summary(frame, summary) => (frame, What::Summary(summary)),
            };
            bytes += frame.len();
            since_ping += frame.len();
            self.feed(Message::Text(frame));
            self.receipts.sent(what);
            self.context.metrics.frames.inc();
            if since_ping >= PING_BYTES {
                self.ping();
                since_ping = 0;
            }
        }
        if self.backlog.is_empty() {
            self.backlog = VecDeque::new();
        }
        if since_ping > 0 {
            self.ping();
        }
    }

    /// Moves mail into the backlog, without what a catch-up has told; a lag becomes a catch-up.
    fn take_mail(&mut self) {
        // Asked before the mailbox: what is published from here on is invisible in `seen`, but what waits may be visible.
        let past = self.seen.as_ref().is_some_and(|seen| self.context.registry.position().covers(seen));
        match self.mail.take(self.receipts.room()) {
            Taken::Mail(mail) => {
                let seen = self.seen.as_ref();
                let fresh = mail.into_iter().filter(|mail| !seen.is_some_and(|seen| seen.sees(mail.xid)));
                self.backlog.extend(fresh.map(Outgoing::Mail));
            }
            Taken::Lagged(from) => {
                self.context.metrics.lags.inc();
                let after = [Some((*from).clone()), self.seen.take()].into_iter().flatten().collect();
                let told = self.receipts.told();
                self.missing = Some(Missing { after, within: None, after_id: 0, told });
            }
            Taken::Nothing if past => self.seen = None,
            Taken::Nothing => {}
        }
    }

    fn ask_for_undelivered(&mut self) {
        let (context, user) = (self.context.clone(), self.mail.user().clone());
        self.asking = Some(Box::pin(async move {
            // What another socket of the user has confirmed this moment need not be told again.
            context.confirmations.settle().await;
            Found::Undelivered(
                insistently(|| context.store.undelivered(&user, context.replay_window, context.replay_limit)).await,
            )
        }));
    }

    fn ask_for_page(&mut self) {
        let Some(missing) = &self.missing else { return };
        let (after, within, after_id) = (missing.after.clone(), missing.within.clone(), missing.after_id);
        let (context, user) = (self.context.clone(), self.mail.user().clone());
        self.asking = Some(Box::pin(async move {
            let within = match within {
                Some(within) => within,
                None => insistently(|| context.store.position()).await,
            };
            let page = insistently(|| context.store.missed(&user, &after, &within, after_id, PAGE)).await;
            Found::Page(within, page)
        }));
    }

    fn found(&mut self, found: Found) {
        self.asking = None;
        match found {
            Found::Undelivered(found) => {
                let hello = protocol::hello_frame(self.mail.user(), found.unread, &found.server_time);
                self.feed(Message::Text(hello));
                self.backlog.extend(found.notifications.iter().map(|n| Outgoing::Mail(Mail::new(n, true))));
                if found.more > 0 {
                    let before = found.notifications.first().map_or(i64::MAX, |oldest| oldest.id);
                    let summary = Summary { user: self.mail.user().clone(), within: found.position.clone(), before };
                    self.backlog.push_back(Outgoing::Summary(protocol::more_frame(found.more), Box::new(summary)));
                }
                self.seen = Some(found.position);
            }
            Found::Page(within, page) => {
                let Some(missing) = &mut self.missing else {
                    return;
                };
                let fresh = page.iter().filter(|n| !missing.told.contains(&n.id));
                self.backlog.extend(fresh.map(|n| Outgoing::Mail(Mail::new(n, false))));
                match page.last() {
                    Some(last) => (missing.after_id, missing.within) = (last.id, Some(within)),
                    None => (self.missing, self.seen) = (None, Some(within)),
                }
            }
        }
    }

    fn stepped(&mut self, step: Step) -> Option<End> {
        let now = Instant::now();
        match step {
            Step::Flushed(Ok(())) => {
                self.unflushed = None;
                self.unwritten_pongs = 0;
                if self.receipts.is_awaited() && self.unanswered.is_none() {
                    self.unanswered = Some(now);
                }
                None
            }
            Step::Flushed(Err(_)) | Step::Received(None) => Some(End::Gone),
            Step::Received(Some(Ok(message))) => match message {
                Message::Text(text) if protocol::is_client_frame(&text) => None,
                Message::Text(_) | Message::Binary(_) => Some(End::Close(CloseCode::BadFrame)),
                Message::Pong(echo) => {
                    if self.receipts.pong(&echo, now) {
                        self.next_idle_ping = idle_ping();
                        // A later ping may still be on its way: this one shows that the other side answers.
                        self.unanswered = self.receipts.is_awaited().then_some(now);
                    }
                    None
                }
                Message::Close(_) => Some(End::Gone),
                Message::Ping(_) => {
                    // The answer is in the buffer already.
                    self.unflushed.get_or_insert(now);
                    self.unwritten_pongs += 1;
                    (self.unwritten_pongs > MAX_UNWRITTEN_PONGS).then_some(End::Close(CloseCode::TooSlow))
                }
                Message::Frame(_) => None,
            },
            Step::Received(Some(Err(error))) => Some(match error {
                Error::Capacity(_) => End::Close(CloseCode::TooBig),
                Error::Utf8(_) => End::Close(CloseCode::NotUtf8),
                Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Gone,
                Error::Protocol(_) => End::Close(CloseCode::Malformed),
                _ => End::Gone,
            }),
        }
    }

    /// Does what time brings. Returns why the socket ends if it does.
    fn tick(&mut self) -> Option<End> {
        let now = Instant::now();
        self.ticked = now;
        let written = self.socket.get_ref().written();
        if written != self.written {
            // A slow link makes progress: neither it nor a ping behind what it carries is late.
            self.written = written;
            if self.unflushed.is_some() {
                self.unflushed = Some(now);
                self.unanswered = self.unanswered.map(|_| now);
            }
        }
        if self.unflushed.is_some_and(|since| now >= since + PATIENCE) {
            self.context.metrics.stuck_sockets.inc();
            return Some(End::Close(CloseCode::TooSlow));
        }
        if self.unanswered.is_some_and(|since| now >= since + PATIENCE) {
            self.context.metrics.stuck_sockets.inc();
            return Some(End::Close(CloseCode::NoPong));
        }
        self.note(now);
        self.receipts.forget(|xid| self.mail.is_past(xid));
        let again = self.unanswered.is_some() && now >= self.pinged + PING_AGAIN;
        if (again || now >= self.next_idle_ping) && self.unflushed.is_none() {
            self.ping();
        }
        if now >= self.next_idle_ping {
            self.next_idle_ping = idle_ping();
        }
        None
    }

    /// Leaves confirmations that have settled by `now`.
    fn note(&mut self, now: Instant) {
        let confirmations = &self.context.confirmations;
        self.receipts.settle(now, |what| match what {
            What::Notification { id, slot, .. } => confirmations.delivered(*id, *slot),
            What::Summary(summary) => confirmations.summarized((**summary).clone()),
        });
    }

    /// When [`Self::tick`] has something to do.
    fn deadline(&self) -> Instant {
        [
            self.receipts.deadline(self.ticked),
            self.unflushed.map(|since| since + PATIENCE),
            self.unanswered.map(|since| since + PATIENCE),
            (self.unanswered.is_some() && self.unflushed.is_none()).then(|| self.pinged + PING_AGAIN),
        ]
        .into_iter()
        .flatten()
        .fold(self.next_idle_ping, Instant::min)
    }

    fn ping(&mut self) {
        self.pinged = Instant::now();
        let payload = self.receipts.ping();
        self.feed(Message::Ping(payload.to_vec().into()));
    }

    /// Puts a message into the socket's buffer, which takes any amount: it is asked only when the one before is flushed.
    fn feed(&mut self, message: Message) {
        // An error here comes again with the flush.
        let _ = self.socket.start_send_unpin(message);
        self.unflushed.get_or_insert_with(Instant::now);
    }

    /// Ends the socket so that the other side learns why.
    async fn close(&mut self, end: End) {
        if let End::Close(CloseCode::Restarting) = end
            && !self.drain().await
        {
            return;
        }
        let _ = timeout(FAREWELL, async {
            if let End::Close(code) = end {
                let _ = self.socket.close(Some(code.frame())).await;
            }
            // Polled to the end, or the closing handshake stays half done. Then this side closes first, and what the other
            // side still sends is read away: closing over unread bytes is a reset, and the reason would be lost with it.
            while let Some(Ok(_)) = self.socket.next().await {}
            let stream = self.socket.get_mut();
            let _ = stream.shutdown().await;
            let mut rest = [0; 512];
            while let Ok(1..) = stream.read(&mut rest).await {}
        })
        .await;
    }

    /// This instance stops: waits for pongs that are under way, counts them at once, and leaves when its turn comes, so that
    /// thousands of sockets don't come back in one instant. Returns whether the other side is still there.
    async fn drain(&mut self) -> bool {
        let sockets = self.context.metrics.sockets.get() as f64;
        let turn = Duration::from_secs_f64(fastrand::f64() * (sockets / 2_000.0).min(3.0));
        let gone = timeout(FAREWELL, async {
            while !self.receipts.is_confirmed() {
                let step = step(&mut self.socket, self.unflushed.is_some()).await;
                if self.stepped(step).is_some() {
                    return true;
                }
            }
            false
        })
        .await;
        if gone == Ok(true) {
            return false;
        }
        self.note(Instant::now() + SETTLE);
        sleep(turn).await;
        true
    }
}

/// Flushes while something is unflushed and reads all the while. Cancel safe: both are polled, and nothing is held between.
async fn step<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<Metered<S>>, unflushed: bool) -> Step {
    poll_fn(|cx| {
        if unflushed && let Poll::Ready(flushed) = socket.poll_flush_unpin(cx) {
            return Poll::Ready(Step::Flushed(flushed));
        }
        socket.poll_next_unpin(cx).map(Step::Received)
    })
    .await
}

/// Asks until the database answers: the socket stays open meanwhile, and nothing is told out of turn.
async fn insistently<T, Q: Future<Output = anyhow::Result<T>>>(question: impl Fn() -> Q) -> T {
    loop {
        match question().await {
            Ok(answer) => return answer,
            Err(error) => warn!(error = format!("{error:#}"), "catch-up failed, asking again"),
        }
        sleep(Duration::from_millis(500 + fastrand::u64(..1000))).await;
    }
}

fn idle_ping() -> Instant {
    Instant::now() + PING_INTERVAL.mul_f64(0.8 + 0.4 * fastrand::f64())
}
