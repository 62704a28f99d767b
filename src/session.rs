//! One socket's life: catch up, deliver, confirm, close. One task, one `select!`.
//!
//! After frames goes a ping with a number, a few times a second at most; the pong that echoes it confirms the frames before
//! it, and when the socket still lives two seconds later (a page that reloads answers and is gone) the database is told. A
//! client that keeps cursors confirms by giving one back.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::OptionFuture;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tracing::debug;

use crate::auth::{Auth, Identity};
use crate::catch_up::CatchUp;
use crate::confirmations::Confirmations;
use crate::metrics::Metrics;
use crate::protocol::{self, Asked, CloseCode, Cursor, Read, Resume, Resumed, Told};
use crate::registry::Registry;
use crate::seldom::Seldom;
use crate::store::{Delivered, Marked, Opened, Opening, Page, Store};

mod door;
mod farewell;
mod inbound;
mod intake;
mod pace;
mod progress;
mod receipts;
mod stay;
mod strikes;
mod wire;

pub use door::first_message;
pub use inbound::{Inbound, Incoming};
use intake::{Intake, Outgoing, Question};
pub use pace::Pace;
use receipts::{MAX_UNCONFIRMED, Receipts, SETTLE, What};
use stay::{Checking, Stay};
pub use strikes::Strikes;
pub use wire::{Connection, Heard, PATIENCE, UNREAD_LIMIT, Wire};

/// A silent socket is asked for a sign of life this often, give or take a fifth so that sockets don't do it in step.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// While one goes unanswered another follows after this: a client may answer only some.
const PING_AGAIN: Duration = Duration::from_secs(3);
/// About so many bytes of frames are taken from the mailbox and written before those are flushed, unless one frame alone has more:
/// more than the kernel takes at once, and little beside the mailbox.
const MAX_BATCH_BYTES: usize = 64 * 1024;
/// Frames that follow each other share a ping, which goes out so long after the one before: a ping for each costs as much as the
/// frame. After a pause the first frame's goes with it.
const PING_PAUSE: Duration = Duration::from_millis(250);
/// It goes out sooner after so many bytes of frames, so that a slow link confirms what has arrived and need not get it again.
/// They are fewer frames than may be unconfirmed.
const PING_BYTES: usize = 16 * 1024;
/// How long a client that keeps cursors may give none back while as much is unconfirmed as may be.
const ACK_PATIENCE: Duration = Duration::from_secs(30);
/// At least one of so many frames brings a cursor, and the last one that is written.
const CURSOR_EVERY: u64 = 32;

/// What every session works with.
pub struct Context {
    /// Where notifications come from.
    pub registry: Arc<Registry>,
    /// Where what was missed comes from.
    pub catch_up: Arc<CatchUp>,
    /// Where confirmations go.
    pub confirmations: Arc<Confirmations>,
    /// Where what was read is noted.
    pub inbox: Store,
    /// Clients that answer nothing.
    pub strikes: Strikes,
    /// What credentials are worth.
    pub auth: Arc<Auth>,
    /// How much clients may say.
    pub pace: Pace,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Requests to the inbox, from sockets and over HTTP, that the database did not answer.
    pub failures: Seldom,
}

/// Who a socket is for, and how it speaks.
pub struct Client {
    /// Whose it is, and until when.
    pub identity: Identity,
    /// How it speaks.
    pub dialect: Dialect,
}

/// How a client speaks.
pub enum Dialect {
    /// Knows nothing of us: it is told what its device has not had, and answers pings.
    Plain {
        /// Its device.
        device: Arc<str>,
        /// Whether it brought that itself, and so keeps it.
        returning: bool,
    },
    /// Keeps cursors, and gives them back.
    Cursors(After),
}

/// From where a client that keeps cursors wants to go on.
pub enum After {
    /// It has none.
    Nothing,
    /// From here.
    Cursor(Box<Cursor>),
    /// From something that is no cursor.
    Unknown,
}

/// Serves one socket until it ends, whichever side ends it. Invariant: the handshake is done and the user may listen.
pub fn run<S>(wire: Wire<S>, client: Client, context: Arc<Context>) -> impl Future<Output = ()> + Send
where
    S: Connection + Send,
{
    // Made out here, and closed in a box of its own: what an async function is given or moves it keeps a place for as long as
    // it lives, and ten thousand idle sockets would keep three.
    context.metrics.sockets.inc();
    context.metrics.sockets_opened.inc();
    let mut session = Session::new(wire, client, context);
    async move {
        let end = session.live().await;
        debug!(user = %session.intake.user(), ?end, "socket ends");
        Box::pin(session.close(end)).await;
        session.context.metrics.sockets.dec();
    }
}

struct Session<S> {
    wire: Wire<S>,
    context: Arc<Context>,
    dialect: Dialect,
    intake: Intake,
    /// A question to the database; nothing but what was read before is written while it is asked.
    asking: Option<Pin<Box<dyn Future<Output = Found> + Send>>>,
    /// What is being marked as read, and what is to be marked after it.
    marking: Option<Pin<Box<dyn Future<Output = anyhow::Result<Marked>> + Send>>>,
    reads: VecDeque<Read>,
    /// How long it may stay, and what is being found out about that.
    stay: Stay,
    checking: Option<Checking>,
    /// How much it may say.
    pace: Pace,
    /// Answers to what the client asked, behind something that is not written yet.
    unwritten_answers: u32,
    receipts: Receipts,
    /// Since when the oldest unanswered ping is out.
    unanswered: Option<Instant>,
    pinged: Instant,
    /// How many bytes of frames were written since.
    unpinged: usize,
    next_idle_ping: Instant,
    /// When [`Self::tick`] ran last.
    ticked: Instant,
    /// Since when as much is unconfirmed as may be.
    full: Option<Instant>,
    /// Whether it has had its hello.
    greeted: bool,
    /// Whether something is only assumed to be told, since the client never answered.
    assumed: bool,
    /// Whether the client has been told that it is live.
    told_live: bool,
    /// Whether the device's row has been given one, and so the device is known.
    known: bool,
    /// Whether it is open since the time in which a silent socket is asked for a sign of life.
    stayed: bool,
    /// Whether a fresh cursor is owed, to a client that keeps them or to the device's row.
    cursor_due: bool,
    /// When the oldest row was created of the live frames that wait for the flush.
    unflushed: Option<i64>,
}

enum Found {
    Opened(Opened),
    Page(Page),
}

#[derive(Debug)]
enum End {
    /// The other side has closed, or the connection broke.
    Gone,
    Close(CloseCode),
}

impl<S: Connection> Session<S> {
    fn new(wire: Wire<S>, client: Client, context: Arc<Context>) -> Self {
        let Client { identity: Identity { user, staff, standing }, dialect } = client;
        let by_pong = matches!(dialect, Dialect::Plain { .. });
        let origin = (!by_pong).then(|| fastrand::u64(..));
        let mail = context.registry.subscribe(user, origin);
        if let Some(staff) = &staff {
            mail.belongs_to_staff(staff.clone());
        }
        let now = Instant::now();
        Self {
            wire,
            dialect,
            intake: Intake::new(mail),
            asking: None,
            marking: None,
            reads: VecDeque::new(),
            stay: Stay::new(standing, staff, context.auth.recheck()),
            checking: None,
            pace: context.pace,
            unwritten_answers: 0,
            receipts: Receipts::new(by_pong),
            unanswered: None,
            pinged: now - PING_PAUSE,
            unpinged: 0,
            next_idle_ping: idle_ping(),
            ticked: now,
            full: None,
            greeted: false,
            assumed: false,
            told_live: by_pong,
            known: false,
            stayed: false,
            cursor_due: false,
            unflushed: None,
            context,
        }
    }

    async fn live(&mut self) -> End {
        let mut alarm = pin!(sleep_until(self.deadline()));
        loop {
            self.write();
            self.intake.mail().owes(self.receipts.oldest());
            let deadline = self.deadline();
            if deadline < alarm.deadline() || alarm.is_elapsed() {
                // It may ring too early, and is set then: to set it for each frame costs more than to send one.
                alarm.as_mut().reset(deadline);
            }
            let Self { wire, intake, asking, marking, checking, .. } = self;
            let end = tokio::select! {
                heard = wire.step() => self.heard(heard),
                Some(found) = OptionFuture::from(asking.as_mut()) => self.found(found),
                Some(marked) = OptionFuture::from(marking.as_mut()) => {
                    self.marked(marked);
                    None
                }
                Some(checked) = OptionFuture::from(checking.as_mut()) => self.checked(checked),
                () = intake.mail().arrived() => self.summoned(),
                () = alarm.as_mut() => {
                    if Instant::now() >= deadline { self.hear_out().or_else(|| self.tick()) } else { None }
                }
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// What ends the socket and comes by way of the mailbox.
    fn summoned(&self) -> Option<End> {
        let mail = self.intake.mail();
        if self.stay.is_ended_by(mail.revoked()) {
            Some(End::Close(CloseCode::Unauthorized))
        } else {
            mail.is_stopping().then_some(End::Close(CloseCode::Restarting))
        }
    }

    /// Whether mail may go out: all before it is flushed, the window is open, and no catch-up is being read.
    fn may_write(&self) -> bool {
        self.wire.is_flushed() && self.receipts.room() > 0 && self.asking.is_none()
    }

    /// Reads what has arrived, before time is held against the socket: after a pause of this process all its pongs wait here.
    fn hear_out(&mut self) -> Option<End> {
        for _ in 0..MAX_UNCONFIRMED {
            let heard = self.wire.step().now_or_never()?;
            if let Some(end) = self.heard(heard) {
                return Some(end);
            }
        }
        None
    }

    /// Puts what may go out into the socket's buffer, with pings between.
    fn write(&mut self) {
        if self.may_write() {
            if self.intake.refill(self.receipts.room(), MAX_BATCH_BYTES, &mut self.receipts) {
                self.context.metrics.lags.inc();
                self.cursor_due = true;
            }
            if let Some(question) = self.intake.question() {
                self.asking = Some(self.ask(question));
            }
        }
        if !self.wire.is_flushed() {
            return;
        }
        if self.greeted {
            for news in self.intake.mail().take_news() {
                self.wire.feed(OpCode::Data(Data::Text), news.as_bytes());
            }
        }
        let mut bytes = 0;
        while self.receipts.room() > 0
            && bytes < MAX_BATCH_BYTES
            && let Some(outgoing) = self.intake.next()
        {
            let (frame, what) = match &outgoing {
                Outgoing::Mail(mail) => {
                    let row = Delivered { id: mail.id, slot: mail.slot, created: mail.created, live: mail.live };
                    mail.written.inc();
                    if mail.live {
                        self.unflushed = Some(self.unflushed.map_or(mail.created, |oldest| oldest.min(mail.created)));
                    }
                    (&mail.frame, What::Notification(row, mail.xid))
                }
                Outgoing::Summary(frame, summary) => {
                    self.context.metrics.summaries.inc();
                    (frame, What::Summary(summary.clone()))
                }
            };
            bytes += frame.len();
            self.unpinged += frame.len();
            self.receipts.sent(what);
            self.cursor_due = true;
            let last = self.receipts.room() == 0 || bytes >= MAX_BATCH_BYTES || self.intake.is_empty();
            let last = last || self.receipts.count().is_multiple_of(CURSOR_EVERY);
            if last && let (Dialect::Cursors(_), Some(cursor)) = (&self.dialect, self.cursor()) {
                let frame = protocol::with_cursor(frame, &cursor.token(self.intake.user()));
                self.wire.feed(OpCode::Data(Data::Text), frame.as_bytes());
            } else {
                self.wire.feed(OpCode::Data(Data::Text), frame.as_bytes());
            }
            if self.unpinged >= PING_BYTES {
                self.ping();
            }
        }
        if self.ping_due().is_some_and(|due| Instant::now() >= due) {
            self.ping();
        }
        if self.receipts.room() == 0 {
            self.full.get_or_insert_with(Instant::now);
        }
        if !self.told_live
            && self.intake.is_live()
            && let Some(cursor) = self.cursor()
        {
            self.told_live = true;
            self.tell(&Told::Live { cursor: cursor.token(self.intake.user()) });
        }
    }

    fn ask(&mut self, question: Question) -> Pin<Box<dyn Future<Output = Found> + Send>> {
        let context = self.context.clone();
        match question {
            Question::Page(gap) => Box::pin(async move { Found::Page(context.catch_up.missed(gap).await) }),
            Question::Opening => {
                let user = self.intake.user().clone();
                let opening = match &self.dialect {
                    Dialect::Plain { device, .. } => {
                        let after = self.strike_key().and_then(|key| self.context.strikes.told(&key));
                        self.assumed = after.is_some();
                        // Who only looks on is no device of the user's.
                        let device = (!self.stay.observes()).then(|| device.clone());
                        Opening { user, device, after, pages: false }
                    }
                    Dialect::Cursors(_) => Opening { user, device: None, after: self.own_cursor(), pages: true },
                };
                Box::pin(async move {
                    // What another socket of the user has confirmed this moment need not be told again.
                    context.confirmations.settle().await;
                    Found::Opened(context.catch_up.opened(opening).await)
                })
            }
        }
    }

    fn found(&mut self, found: Found) -> Option<End> {
        self.asking = None;
        match found {
            Found::Page(page) => self.intake.paged(page),
            Found::Opened(opened) => {
                // It has subscribed, and now the table says whether it may: what is revoked from here on reaches its mailbox.
                if let Some(revoked) = opened.revoked {
                    self.intake.mail().revoke(revoked);
                    // Of staff it is not the credential's.
                    if !self.stay.observes() && self.stay.is_ended_by(Some(revoked)) {
                        return Some(End::Close(CloseCode::Unauthorized));
                    }
                }
                let (unread, server_time, resume) = (opened.unread, opened.server_time.clone(), opened.resume);
                let begin = self.intake.opened(opened, self.own_cursor(), &self.receipts);
                self.cursor_due = true;
                if std::mem::replace(&mut self.greeted, true) {
                    return None;
                }
                let resumed = match &self.dialect {
                    Dialect::Plain { .. } => None,
                    Dialect::Cursors(After::Unknown) => Some(Resumed::new(Resume::Gap, &begin, self.intake.user())),
                    Dialect::Cursors(_) => Some(Resumed::new(resume, &begin, self.intake.user())),
                };
                let hello = protocol::hello_frame(self.intake.user(), unread, &server_time, resumed);
                self.wire.feed(OpCode::Data(Data::Text), hello.as_bytes());
            }
        }
        None
    }

    fn heard(&mut self, heard: Heard) -> Option<End> {
        let now = Instant::now();
        match heard {
            Heard::Nothing => self.pace.step(now),
            Heard::Gone => Some(End::Gone),
            Heard::Refused(code) => Some(End::Close(code)),
            Heard::Flushed => {
                self.unwritten_answers = 0;
                if let Some(created) = self.unflushed.take() {
                    let metrics = &self.context.metrics;
                    metrics.commit_to_frame.observe(metrics.clock.age(created));
                }
                if self.receipts.is_awaited() && self.unanswered.is_none() {
                    self.unanswered = Some(now);
                }
                None
            }
            Heard::Pong(echo) => {
                if self.receipts.pong(&echo, now) {
                    self.next_idle_ping = idle_ping();
                    // A later ping may still be on its way: this one shows that the other side answers.
                    self.unanswered = self.receipts.is_awaited().then_some(now);
                    if let Dialect::Plain { .. } = self.dialect {
                        self.full = None;
                    }
                    if let Some(key) = self.strike_key() {
                        self.context.strikes.forget(&key);
                    }
                    if std::mem::take(&mut self.assumed) {
                        // It does answer: what was only assumed to be told is told after all.
                        self.intake.reopen();
                    }
                    return None;
                }
                self.pace.step(now)
            }
            Heard::Text(text) => match Asked::decode(&text) {
                Some(asked) => self.pace.step(now).or_else(|| self.asked(asked, now)),
                None => Some(End::Close(CloseCode::BadFrame)),
            },
            Heard::Binary(_) => Some(End::Close(CloseCode::BadFrame)),
        }
    }

    /// Does what time brings. Returns why the socket ends if it does.
    fn tick(&mut self) -> Option<End> {
        let now = Instant::now();
        self.ticked = now;
        if let Some(end) = self.stay(now) {
            return Some(end);
        }
        if self.wire.made_progress(now) {
            self.unanswered = self.unanswered.map(|_| now);
        }
        let late = |since: Option<Instant>, patience| since.is_some_and(|since| now >= since + patience);
        let unanswered = late(self.unanswered, PATIENCE);
        let unread = self.wire.stuck_at().is_some_and(|at| now >= at);
        // Who reads nothing can answer nothing.
        let stuck = if unread || (unanswered && !self.wire.is_flushed()) || late(self.full, ACK_PATIENCE) {
            Some(CloseCode::TooSlow)
        } else {
            unanswered.then_some(CloseCode::NoPong)
        };
        if let Some(code) = stuck {
            if code == CloseCode::NoPong
                && let Some(key) = self.strike_key()
                && self.context.strikes.add(key, self.cursor())
            {
                self.context.metrics.unanswering.inc();
            }
            return Some(End::Close(code));
        }
        let noted = self.note(now);
        self.receipts.forget(self.intake.is_live(), |xid| self.intake.mail().is_past(xid));
        if self.cursor_due && self.wire.is_flushed() && (noted || self.says_more()) {
            self.cursor_due = !self.renew_cursor();
        }
        let again = self.unanswered.is_some() && now >= self.pinged + PING_AGAIN;
        let idle = now >= self.next_idle_ping;
        let due = self.ping_due().is_some_and(|due| now >= due);
        if (again || idle || due) && self.wire.is_flushed() {
            self.ping();
        }
        if idle {
            self.next_idle_ping = idle_ping();
            self.stayed = true;
            self.cursor_due |= matches!(self.dialect, Dialect::Cursors(_));
        }
        None
    }

    /// Leaves confirmations that have settled by `now`, and says whether there were any. Who only looks on confirms for nobody.
    fn note(&mut self, now: Instant) -> bool {
        let (confirmations, observes) = (&self.context.confirmations, self.stay.observes());
        self.receipts.settle(now, |what| match what {
            _ if observes => {}
            What::Notification(row, _) => confirmations.delivered(*row),
            What::Summary(summary) => confirmations.summarized((**summary).clone()),
        })
    }

    /// What a client that should answer pings is known by when it does not.
    fn strike_key(&self) -> Option<strikes::Client> {
        match &self.dialect {
            Dialect::Plain { device, returning: true } if !self.stay.observes() => {
                Some((self.intake.user().clone(), device.clone()))
            }
            // It could be anybody's: another device of the user must not be taken for it.
            Dialect::Plain { .. } | Dialect::Cursors(_) => None,
        }
    }

    /// When [`Self::tick`] has something to do.
    fn deadline(&self) -> Instant {
        [
            self.receipts.deadline(self.ticked),
            self.stay.deadline(self.checking.is_some()),
            self.wire.stuck_at(),
            self.unanswered.map(|since| since + PATIENCE),
            self.full.map(|since| since + ACK_PATIENCE),
            (self.cursor_due && self.says_more()).then(|| self.ticked + SETTLE),
            self.ping_due().filter(|_| self.wire.is_flushed()),
            (self.unanswered.is_some() && self.wire.is_flushed()).then(|| self.pinged + PING_AGAIN),
        ]
        .into_iter()
        .flatten()
        .fold(self.next_idle_ping, Instant::min)
    }

    /// Whether a cursor would say more than the last one though nothing was noted since: a device's sees nothing that is not. A device
    /// that was told nothing yet is noted when it stays, or leaves: ten thousand that open at once have something better to wait for.
    fn says_more(&self) -> bool {
        match &self.dialect {
            Dialect::Cursors(_) => true,
            Dialect::Plain { .. } if self.known => self.receipts.is_settled(),
            Dialect::Plain { .. } => self.receipts.count() > 0 || self.stayed,
        }
    }

    /// When the ping goes out that covers what was written last; `None`: it has.
    fn ping_due(&self) -> Option<Instant> {
        (self.unpinged > 0).then(|| self.pinged + PING_PAUSE)
    }

    fn ping(&mut self) {
        self.pinged = Instant::now();
        self.unpinged = 0;
        let payload = self.receipts.ping();
        self.wire.feed(OpCode::Control(Control::Ping), &payload);
    }

    fn tell(&mut self, told: &Told<'_>) {
        self.wire.feed(OpCode::Data(Data::Text), told.frame().as_bytes());
    }
}

fn idle_ping() -> Instant {
    Instant::now() + PING_INTERVAL.mul_f64(0.8 + 0.4 * fastrand::f64())
}
