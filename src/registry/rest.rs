//! While very many frames go out, a socket that was just written to rests, and what comes for it meanwhile goes in one write:
//! to the kernel a write costs more than the frames in it. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How many frames go out is counted over this.
const WINDOW: Duration = Duration::from_millis(10);
/// For each frame that goes out in one of these a socket rests so long: with 1,000 frames a second 5 ms, with 20,000 the most.
const PER_FRAME: Duration = Duration::from_micros(500);
/// It rests no longer than for so many: 100 ms.
const MOST: usize = 200;
/// A shorter one is none. So often it is looked whose rest is over.
pub const TICK: Duration = Duration::from_millis(5);

/// Who rests, of whatever `T` is.
pub struct Rests<T> {
    window: Instant,
    /// How many frames have gone out since `window`, and how long a socket rests by the window before.
    frames: usize,
    before: Duration,
    /// Until when, and who. In order, or nearly: the rest grows and shrinks.
    held: VecDeque<(Instant, T)>,
    /// Whether a frame has gone out since that was asked last.
    busy: bool,
}

impl<T> Rests<T> {
    /// Nobody does.
    pub fn new() -> Self {
        Self { window: Instant::now(), frames: 0, before: Duration::ZERO, held: VecDeque::new(), busy: false }
    }

    /// So many frames go out; returns how long a socket is to rest between two writes, if it is.
    pub fn count(&mut self, frames: usize, now: Instant) -> Option<Duration> {
        let rest = |frames: usize| PER_FRAME * frames.min(MOST) as u32;
        if now >= self.window + WINDOW {
            self.before = if now < self.window + 2 * WINDOW { rest(self.frames) } else { Duration::ZERO };
            (self.window, self.frames) = (now, 0);
        }
        self.frames = self.frames.saturating_add(frames);
        self.busy = true;
        Some(self.before.max(rest(self.frames))).filter(|rest| *rest >= TICK)
    }

    /// Someone rests; returns whether nobody did.
    pub fn hold(&mut self, until: Instant, who: T) -> bool {
        self.held.push_back((until, who));
        self.held.len() == 1
    }

    /// Takes those whose rest is over: all, where no frame has gone out since the last time. `None`: nobody rests.
    pub fn over(&mut self, now: Instant) -> Option<Vec<T>> {
        if self.held.is_empty() {
            self.held = VecDeque::new();
            return None;
        }
        let over = match std::mem::take(&mut self.busy) {
            true => self.held.iter().take_while(|(until, _)| now >= *until).count(),
            false => self.held.len(),
        };
        Some(self.held.drain(..over).map(|(_, who)| who).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_frames_let_nobody_rest_and_many_do_until_they_end() {
        let (mut rests, start) = (Rests::<()>::new(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let most = Duration::from_millis(100);
        for second in 0..5 {
            assert_eq!(rests.count(9, at(1_000 * second)), None);
        }
        assert_eq!(rests.count(1, at(5_000)), None);
        assert_eq!(rests.count(20, at(5_001)), Some(21 * PER_FRAME));
        assert_eq!(rests.count(usize::MAX, at(5_002)), Some(most));
        assert_eq!(rests.count(1, at(5_010)), Some(most), "as in the window before");
        assert_eq!(rests.count(1, at(5_020)), None);
    }

    #[test]
    fn whoever_rests_is_called_when_it_is_over_or_nothing_more_goes_out() {
        let (mut rests, start) = (Rests::new(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(rests.over(at(0)), None::<Vec<&str>>);
        assert!(rests.hold(at(50), "a"));
        assert!(!rests.hold(at(60), "b") && !rests.hold(at(61), "c"));
        rests.count(1, at(10));
        assert_eq!(rests.over(at(10)), Some(vec![]));
        rests.count(1, at(50));
        assert_eq!(rests.over(at(50)), Some(vec!["a"]));
        assert_eq!(rests.over(at(55)), Some(vec!["b", "c"]), "nothing has gone out since");
        assert_eq!(rests.over(at(60)), None);
    }
}
