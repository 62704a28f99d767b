//! How much a client may say: so many messages a second, and so many at once. What answers something of ours (pongs to our pings,
//! acknowledgements) is not counted.

use tokio::time::Instant;

use super::End;
use crate::protocol::CloseCode;

/// A bucket of messages, filled again as time passes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    per_second: f32,
    burst: f32,
    left: f32,
    at: Instant,
}

impl Pace {
    /// So many a second, and so many at once after a silence.
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second: per_second as f32, burst: burst as f32, left: burst as f32, at: Instant::now() }
    }

    /// One more message has come; why the socket ends if it is one too many.
    pub(super) fn step(&mut self, now: Instant) -> Option<End> {
        let since = now.saturating_duration_since(self.at).as_secs_f32();
        self.left = (self.left + since * self.per_second).min(self.burst) - 1.0;
        self.at = now;
        (self.left < 0.0).then_some(End::Close(CloseCode::TooMany))
    }

    /// The last one does not count.
    pub(super) fn forgive(&mut self) {
        self.left = (self.left + 1.0).min(self.burst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_and_then_a_steady_pace() {
        let mut pace = Pace::new(10, 20);
        let start = pace.at;
        for _ in 0..20 {
            assert!(pace.step(start).is_none());
        }
        assert!(pace.step(start).is_some());
        pace.forgive();
        for tenth in 1..=50 {
            assert!(pace.step(start + Duration::from_millis(101) * tenth).is_none(), "{tenth}");
        }
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| pace.step(later).is_none()).count(), 20, "no more than a burst gathers");
    }
}
