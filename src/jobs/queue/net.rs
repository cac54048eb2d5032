//! When to look at everything: a look that starts where the last one ended may have missed something.
//!
//! While anybody holds a snapshot, such a look walks over all that was finished since: millions of entries after a while. It
//! takes a small part of the time all the same, since the longer one took, the later the next one comes.

use std::time::{Duration, Instant};

/// One part in so many of the time, at most.
const PART: u32 = 100;

/// A net below looks that start where the last one ended.
#[derive(Debug)]
pub(super) struct Net {
    thrown_at: Instant,
    took: Duration,
}

impl Net {
    /// Thrown now.
    pub(super) fn new() -> Self {
        Self {
            thrown_at: Instant::now(),
            took: Duration::ZERO,
        }
    }

    /// Whether it is time again: `every` has gone by, and longer where the last one took long.
    pub(super) fn is_due(&self, every: Duration) -> bool {
        self.thrown_at.elapsed() >= every.max(self.took * PART)
    }

    /// A look at everything begins.
    pub(super) fn throw(&mut self) {
        self.thrown_at = Instant::now();
    }

    /// It is over.
    pub(super) fn haul(&mut self) {
        self.took = self.thrown_at.elapsed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_one_took_the_later_the_next_one_comes() {
        let mut net = Net::new();
        assert!(net.is_due(Duration::ZERO));
        assert!(!net.is_due(Duration::from_secs(30)));

        net.throw();
        std::thread::sleep(Duration::from_millis(20));
        net.haul();
        // 2 s from its start.
        assert!(!net.is_due(Duration::from_millis(1)));
    }
}
