//! The processes that are killed and stopped, and start again.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::harness::program::Started;

/// What no process may ever have to say.
const ALARMS: [&str; 3] = ["deadlock", "went out twice", "were forgotten"];

/// A place for a process: one that runs or stands still, or the next one on its way.
pub(super) struct Member {
    alarms: Vec<String>,
    make: Box<dyn Fn() -> Command + Send>,
    process: Option<Started>,
    next: Option<JoinHandle<Started>>,
    wakes_at: Option<Instant>,
    waker: Option<JoinHandle<()>>,
}

impl Member {
    /// Starts a process, which the same command starts again.
    pub(super) fn start(make: impl Fn() -> Command + Send + 'static) -> Self {
        let mut member = Self {
            alarms: Vec::new(),
            make: Box::new(make),
            process: None,
            next: None,
            wakes_at: None,
            waker: None,
        };
        member.start_next();
        member
    }

    fn start_next(&mut self) {
        if let Some(process) = self.process.take() {
            self.note_alarms(&process.into_log());
        }
        self.forget_stop();
        self.next = Some(tokio::spawn(Started::new((self.make)())));
    }

    fn note_alarms(&mut self, log: &str) {
        let is_alarm = |line: &&str| {
            line.contains(" ERROR ") && ALARMS.iter().any(|alarm| line.contains(alarm))
        };
        let alarms = log.lines().filter(is_alarm).map(str::to_owned);
        self.alarms.extend(alarms);
    }

    /// Waits until the one that is starting is there.
    pub(super) async fn arrive(&mut self) {
        if let Some(next) = self.next.take() {
            self.process = Some(next.await.unwrap());
        }
    }

    /// Whether one is there to be hurt.
    pub(super) async fn is_there(&mut self) -> bool {
        if self.next.as_ref().is_some_and(JoinHandle::is_finished) {
            self.arrive().await;
        }
        self.process.is_some()
    }

    fn forget_stop(&mut self) {
        self.wakes_at = None;
        if let Some(waker) = self.waker.take() {
            waker.abort();
        }
    }

    /// Kills it, also when it stands still, and starts the next one.
    pub(super) async fn kill(&mut self) {
        // Before its number is somebody else's.
        self.forget_stop();
        if let Some(process) = &mut self.process {
            process.signal(Signal::SIGKILL);
            process.ended().await;
            self.start_next();
        }
    }

    /// Lets it stand still for a while, unless it does already. It goes on in time, though the stage be busy with a crash: a
    /// stop that is meant to end before a hold must.
    pub(super) fn stop_for(&mut self, length: Duration) {
        if let Some(process) = self.process.as_ref().filter(|_| self.wakes_at.is_none()) {
            process.signal(Signal::SIGSTOP);
            let (pid, at) = (Pid::from_raw(process.pid()), Instant::now() + length);
            self.wakes_at = Some(at);
            self.waker = Some(tokio::spawn(async move {
                tokio::time::sleep_until(at).await;
                let _ = kill(pid, Signal::SIGCONT);
            }));
        }
    }

    /// When it goes on, if it stands still.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.wakes_at
    }

    /// Lets it go on when its time has come.
    pub(super) fn wake_if_due(&mut self, now: Instant) {
        if let Some(process) = &self.process
            && self.wakes_at.is_some_and(|at| at <= now)
        {
            process.signal(Signal::SIGCONT);
            self.forget_stop();
        }
    }

    /// Ends it in order. Answers with what all processes of this place had to say that none may.
    pub(super) async fn end(mut self) -> Vec<String> {
        self.arrive().await;
        if let Some(process) = self.process.take() {
            let log = process.stop().await;
            self.note_alarms(&log);
        }
        self.alarms
    }
}
