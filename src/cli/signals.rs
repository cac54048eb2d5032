//! The two signals of a program that runs: the first asks it to end in order, the second ends it at once.

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Heard signals; clones hear the same.
#[derive(Debug, Clone)]
pub(super) struct Signals {
    /// Cancelled by the first.
    pub(super) end: CancellationToken,
    /// Cancelled by the second.
    pub(super) now: CancellationToken,
}

impl Signals {
    /// Listens from now on, for SIGTERM and Ctrl-C.
    pub(super) fn listen() -> Result<Self> {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let signals = Self {
            end: CancellationToken::new(),
            now: CancellationToken::new(),
        };
        let heard = signals.clone();
        tokio::spawn(async move {
            for token in [heard.end, heard.now] {
                either(&mut terminate, &mut interrupt).await;
                token.cancel();
            }
        });
        Ok(signals)
    }
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}
