//! When to look at everything: a look that starts where the last one ended may have missed something.
//!
//! While anybody holds a snapshot, such a look walks over all that was finished since: millions of entries after a while. It
//! takes a small part of the time all the same, since the longer one took, the later the next one comes.

use std::time::{Duration, Instant};

/// It waits for so many times what it should, at most.
const EVERY_MAX: u32 = 20;

/// A net below looks that start where the last one ended.
#[derive(Debug)]
pub struct Net {
    part: u32,
    thrown_at: Option<Instant>,
    took: Duration,
}

impl Net {
    /// To be thrown at once, and later for one part in `part` of the time at most.
    pub fn new(part: u32) -> Self {
        Self {
            part,
            thrown_at: None,
            took: Duration::ZERO,
        }
    }

    /// Whether it is time again: `every` has gone by, and longer where the last one took long. A process that stood still
    /// meanwhile took long as well, so that there is an end to that.
    pub fn is_due(&self, every: Duration) -> bool {
        let wait = every.max((self.took * self.part).min(every * EVERY_MAX));
        self.thrown_at.is_none_or(|at| at.elapsed() >= wait)
    }

    /// A look at everything begins.
    pub fn throw(&mut self) {
        self.thrown_at = Some(Instant::now());
    }

    /// It is over, and may have failed.
    pub fn haul(&mut self) {
        let took = self.thrown_at.map(|thrown_at| thrown_at.elapsed());
        self.haul_after(took.unwrap_or_default());
    }

    /// It is over and took so long, which is less than until it was noticed.
    pub fn haul_after(&mut self, took: Duration) {
        self.took = took;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_one_took_the_later_the_next_one_comes() {
        let mut net = Net::new(100);
        assert!(net.is_due(Duration::from_secs(30)), "none was thrown yet");

        net.throw();
        assert!(!net.is_due(Duration::from_secs(30)));
        assert!(net.is_due(Duration::ZERO));

        net.haul_after(Duration::from_secs(1));
        assert!(!net.is_due(Duration::from_secs(10)), "a hundred seconds");
        assert!(net.is_due(Duration::ZERO));
        std::thread::sleep(Duration::from_millis(25));
        assert!(
            net.is_due(Duration::from_millis(1)),
            "twenty times, at most"
        );
        net.throw();
        net.haul();
        assert!(!net.is_due(Duration::from_secs(30)));
    }
}
