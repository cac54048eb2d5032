//! How long things may take before somebody else acts: one struct with one scale.
//!
//! Tests run the same rules faster; production refuses a scale other than 1.

use std::time::Duration;

/// Every wait of the message path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Holds {
    /// A call may start at most this long after its permission was asked for.
    pub begin_to_call: Duration,
    /// Connecting to a provider.
    pub connect: Duration,
    /// One whole call. `begin_to_call + call` stays below `deadline`.
    pub call: Duration,
    /// An attempt's owner is finished with it, one way or the other, by then.
    pub deadline: Duration,
    /// The first look at an attempt that nobody closed.
    pub first_look: Duration,
    /// How long a message waits while a like call is live.
    pub busy: Duration,
    /// How long a released message may lie before its slot goes back.
    pub slot: Duration,
    /// How long the release leader's term lasts without a renewal.
    pub term: Duration,
    /// How long a job's lease lasts without a renewal.
    pub lease: Duration,
    /// After the deadline: the looks at the provider that follow the first one.
    pub looks: [Duration; 3],
    /// Between two looks when none of these is due, and after one that told nothing.
    pub look_again: Duration,
    /// Two empty look-ups that prove anything lie this far apart. Longer than a whole attempt, so that a process that lost
    /// its lock before the first is through with its call by the second.
    pub look_apart: Duration,
    /// After the deadline: before then nothing is judged not sent.
    pub not_sent: Duration,
    /// The same where a restart of the database freed the owner's lock and perhaps not its death.
    pub not_sent_after_restart: Duration,
    /// After signing: AWS refuses the signature of a request that is so old.
    pub signature: Duration,
    /// After the start: without a verdict by then, a person decides.
    pub unresolved: Duration,
    /// The same for emails, whose events take longer.
    pub unresolved_email: Duration,
    /// How long a sender is left alone after the provider refused its account.
    pub halt: Duration,
}

impl Holds {
    /// The values of production.
    pub const REAL: Self = Self {
        begin_to_call: Duration::from_secs(5),
        connect: Duration::from_secs(3),
        call: Duration::from_secs(10),
        deadline: Duration::from_secs(20),
        first_look: Duration::from_secs(25),
        busy: Duration::from_secs(30),
        slot: Duration::from_mins(1),
        term: Duration::from_secs(3),
        lease: Duration::from_secs(30),
        looks: [
            Duration::from_secs(30),
            Duration::from_mins(2),
            Duration::from_mins(10),
        ],
        look_again: Duration::from_mins(1),
        look_apart: Duration::from_mins(1),
        not_sent: Duration::from_mins(2),
        not_sent_after_restart: Duration::from_mins(10),
        signature: Duration::from_mins(16),
        unresolved: Duration::from_mins(30),
        unresolved_email: Duration::from_hours(1),
        halt: Duration::from_mins(5),
    };

    /// All of them, `scale` times as long.
    #[must_use]
    pub fn scaled(self, scale: f64) -> Self {
        let times = |hold: Duration| hold.mul_f64(scale);
        Self {
            begin_to_call: times(self.begin_to_call),
            connect: times(self.connect),
            call: times(self.call),
            deadline: times(self.deadline),
            first_look: times(self.first_look),
            busy: times(self.busy),
            slot: times(self.slot),
            term: times(self.term),
            lease: times(self.lease),
            looks: self.looks.map(times),
            look_again: times(self.look_again),
            look_apart: times(self.look_apart),
            not_sent: times(self.not_sent),
            not_sent_after_restart: times(self.not_sent_after_restart),
            signature: times(self.signature),
            unresolved: times(self.unresolved),
            unresolved_email: times(self.unresolved_email),
            halt: times(self.halt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_over_before_its_deadline_at_any_scale() {
        for scale in [1.0, 0.1, 0.05] {
            let holds = Holds::REAL.scaled(scale);
            assert!(holds.begin_to_call + holds.call < holds.deadline);
            assert!(holds.deadline < holds.first_look);
            assert!(holds.deadline < holds.look_apart);
        }
    }
}
