//! One job that looks at several messages: it is completed with the last of them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What a job has left to look at.
#[derive(Debug)]
pub(super) struct Errand<J> {
    job: J,
    left: AtomicUsize,
    comes_again: AtomicBool,
}

impl<J: Copy> Errand<J> {
    pub(super) fn new(job: J, messages: usize) -> Self {
        Self {
            job,
            left: AtomicUsize::new(messages),
            comes_again: AtomicBool::new(false),
        }
    }

    /// One of the messages needs the job no more: it is begun, or will not be. Answers the job for whoever says so last, who
    /// completes it. What became of the others may be stored later: once a message is begun it needs no job.
    pub(super) fn is_over(&self) -> Option<J> {
        let is_last = self.left.fetch_sub(1, Ordering::AcqRel) == 1;
        (is_last && !self.comes_again.load(Ordering::Acquire)).then_some(self.job)
    }

    /// Of one of them the database said nothing: the job comes again, and nobody completes it.
    pub(super) fn has_no_answer(&self) {
        self.comes_again.store(true, Ordering::Release);
        self.left.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_message_completes_the_job() {
        let errand = Errand::new((), 3);
        let completes = [(); 3].map(|()| errand.is_over().is_some());
        assert_eq!(completes, [false, false, true]);
    }

    #[test]
    fn a_job_that_comes_again_is_completed_by_nobody() {
        let errand = Errand::new((), 3);
        errand.has_no_answer();
        assert!(errand.is_over().is_none());
        assert!(errand.is_over().is_none());
    }
}
