//! How fast a transfer goes.
//!
//! Invariants: the rate covers about the last [`WINDOW`], so that a stall shows.

use std::collections::VecDeque;
use std::time::Duration;

/// What the rate is measured over.
pub const WINDOW: Duration = Duration::from_secs(3);
const SAMPLE_EVERY: Duration = Duration::from_millis(200);

/// Recent samples of one transfer.
#[derive(Debug, Default)]
pub struct Rate {
    samples: VecDeque<(Duration, u64)>,
}

impl Rate {
    /// Notes that `done_bytes` had moved at `now`.
    pub fn sample(&mut self, done_bytes: u64, now: Duration) {
        if self.samples.back().is_some_and(|(at, _)| now.saturating_sub(*at) < SAMPLE_EVERY) {
            return;
        }
        self.samples.push_back((now, done_bytes));
        while self.samples.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Bytes per second; `None` while too little is known.
    pub fn bytes_per_second(&self, done_bytes: u64, now: Duration) -> Option<u64> {
        let (at, then) = *self.samples.front()?;
        let elapsed_ms = u64::try_from(now.saturating_sub(at).as_millis()).ok()?;
        if elapsed_ms < 300 {
            return None;
        }
        Some(done_bytes.saturating_sub(then).saturating_mul(1000) / elapsed_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_follows_a_stall() {
        let mut rate = Rate::default();
        let at = Duration::from_millis;
        assert_eq!(rate.bytes_per_second(0, at(0)), None);
        for tick in 0..=10 {
            rate.sample(tick * 500_000, at(tick * 500));
        }
        assert_eq!(rate.bytes_per_second(5_000_000, at(5000)), Some(1_000_000));
        rate.sample(5_000_000, at(9000));
        assert_eq!(rate.bytes_per_second(5_000_000, at(9000)), Some(0));
    }
}
