//! Whatever others can make go wrong thousands of times a second is logged at most once in ten seconds, with how often it was.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long nothing more is said.
const PAUSE: Duration = Duration::from_secs(10);

/// One thing that may go wrong often.
#[derive(Default)]
pub struct Seldom(Mutex<Said>);

#[derive(Default)]
struct Said {
    at: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// It went wrong once more. Returns how often since it was said last, where it is to be said now.
    pub fn again(&self) -> Option<u64> {
        let said = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.unsaid += 1;
        let now = said.at.is_none_or(|at| at.elapsed() >= PAUSE);
        now.then(|| {
            said.at = Some(Instant::now());
            std::mem::take(&mut said.unsaid)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_often_is_said_once_with_how_often() {
        let seldom = Seldom::default();
        assert_eq!(seldom.again(), Some(1));
        assert!((0..1000).all(|_| seldom.again().is_none()));
        if let Ok(mut said) = seldom.0.lock() {
            said.at = said.at.and_then(|at| at.checked_sub(PAUSE));
        }
        assert_eq!(seldom.again(), Some(1001));
    }
}
