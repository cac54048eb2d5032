//! How long a job rests after it failed.

use std::time::Duration;

use rand::Rng;

/// A curve of growing random waits: anything between nothing and `min(cap, base × 2^(attempt - 1))`.
///
/// Full jitter, so that what failed together does not come back together. Computed once and stored as the
/// job's `run_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The bound after the first attempt.
    pub base: Duration,
    /// The bound that is never exceeded.
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            cap: Duration::from_mins(5),
        }
    }
}

impl Backoff {
    /// Of jobs under which the database went away: it is back soon, and nothing may be wrong with them. A lock of a worker
    /// that died is held for as long as its last statement runs, 10 minutes at most, which all tries together outlast.
    pub(super) const CUT_OFF: Self = Self {
        base: Duration::from_millis(250),
        cap: Duration::from_secs(10),
    };

    /// The longest wait after `attempt`, which counts from 1.
    pub fn bound(&self, attempt: i16) -> Duration {
        let doublings = u32::try_from(attempt - 1).unwrap_or(0).min(31);
        self.base
            .checked_mul(1 << doublings)
            .unwrap_or(self.cap)
            .min(self.cap)
    }

    /// The wait after `attempt`, drawn anew.
    pub fn delay(&self, attempt: i16) -> Duration {
        self.bound(attempt).mul_f64(rand::rng().random::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_cap() {
        let backoff = Backoff::default();
        for (attempt, secs) in [
            (0, 1),
            (1, 1),
            (2, 2),
            (5, 16),
            (9, 256),
            (10, 300),
            (i16::MAX, 300),
        ] {
            assert_eq!(backoff.bound(attempt), Duration::from_secs(secs));
        }
    }

    #[test]
    fn the_delay_stays_within_the_bound_and_varies() {
        let backoff = Backoff::default();
        let delays: Vec<_> = (0..100).map(|_| backoff.delay(4)).collect();
        assert!(delays.iter().all(|delay| *delay <= backoff.bound(4)));
        assert!(delays.iter().any(|delay| *delay != delays[0]));
    }
}
