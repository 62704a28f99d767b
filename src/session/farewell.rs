//! How a socket ends: at once with a reason, or, when this instance stops, one after the other.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::receipts::SETTLE;
use super::wire::{Connection, FAREWELL};
use super::{Dialect, End, Session};
use crate::metrics::Code;
use crate::protocol::{CloseCode, Told};

impl<S: Connection> Session<S> {
    /// Ends the socket so that the other side learns why.
    pub(super) async fn close(&mut self, end: End) {
        let end = match end {
            End::Close(CloseCode::Restarting) => self.drain().await,
            end => end,
        };
        let code = match end {
            End::Gone => None,
            End::Close(code) => Some(code),
        };
        // (Whoever reloads a page leaves a socket behind that was hardly there.)
        if matches!(self.dialect, Dialect::Plain { .. })
            && self.greeted
            && !self.known
            && self.intake.mail().opened().elapsed() >= SETTLE
        {
            self.renew_cursor();
        }
        if let Some(code) = code {
            self.context.metrics.closes.get_or_create(&Code { code: code.number() }).inc();
        }
        self.wire.close(code).await;
    }

    /// This instance stops: nothing new is told; confirmations that are under way are waited for and count at once, since it is this
    /// side that ends the socket; and it ends when its turn comes, so that thousands don't come back in one instant. Returns
    /// how it ends: the other side may be quicker.
    async fn drain(&mut self) -> End {
        // A hundred sockets or more leave over five seconds, a few at once.
        let crowd = self.context.metrics.sockets.get() as f64;
        let spread = |longest: f64| Duration::from_secs_f64(fastrand::f64() * longest.min(crowd * longest / 100.0));
        if self.greeted
            && let Dialect::Cursors(_) = self.dialect
        {
            self.tell(&Told::Restarting { after: spread(10.0).as_secs_f64() });
        }
        if self.ping_due().is_some() {
            // Nothing follows that could share it.
            self.ping();
        }
        let (turn, last) = (Instant::now() + spread(5.0), Instant::now() + FAREWELL);
        loop {
            let now = Instant::now();
            let done = now >= last || (self.receipts.is_confirmed() && self.wire.is_flushed());
            if done && now >= turn {
                break;
            }
            let until = if done { turn } else { last };
            if let Ok(heard) = timeout_at(until, self.wire.step()).await
                && let Some(end) = self.heard(heard)
            {
                self.note(Instant::now());
                return end;
            }
        }
        self.note(Instant::now() + SETTLE);
        if let Dialect::Plain { .. } = self.dialect {
            self.renew_cursor();
        }
        End::Close(CloseCode::Restarting)
    }
}
