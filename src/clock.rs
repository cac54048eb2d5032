//! The one clock of the process.
//!
//! Statements ask `app_now()`, Rust asks [`Clock`]; both are real time plus one offset, which only tests and
//! `development` may set, so that a lease, a hold and a window expire together when a test moves on.

pub mod answer;
pub mod net;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// Real time plus the offset of the database it was read from. Clones share the offset.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    offset_micros: Arc<AtomicI64>,
}

impl Clock {
    /// The current instant, moved by the offset.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that asks the system"
    )]
    pub fn now(&self) -> DateTime<Utc> {
        Utc::now() + self.offset()
    }

    /// How far this clock is from real time.
    pub fn offset(&self) -> TimeDelta {
        TimeDelta::microseconds(self.offset_micros.load(Ordering::Relaxed))
    }

    /// Moves every clone of this clock.
    pub fn set_offset(&self, offset: TimeDelta) {
        let micros = offset.num_microseconds().unwrap_or(i64::MAX);
        self.offset_micros.store(micros, Ordering::Relaxed);
    }

    /// Time since the machine started, suspend included: what a deadline between commit and call is
    /// measured with. `Instant` stops while the machine sleeps.
    #[expect(
        clippy::expect_used,
        reason = "CLOCK_BOOTTIME exists on every Linux we run on"
    )]
    pub fn boottime() -> Duration {
        #[cfg(target_os = "linux")]
        let id = nix::time::ClockId::CLOCK_BOOTTIME;
        #[cfg(not(target_os = "linux"))]
        let id = nix::time::ClockId::CLOCK_MONOTONIC;
        nix::time::clock_gettime(id)
            .expect("the boot clock can be read")
            .into()
    }
}
