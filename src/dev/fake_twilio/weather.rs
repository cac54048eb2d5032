//! What may go wrong with a request: drawn by chance for all, or scripted for the next ones.

use rand::Rng;
use serde::{Deserialize, Serialize};

/// How the provider behaves from now on. Chances are per mille and exclude each other; times are milliseconds, from and
/// to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weather {
    /// How long a request waits before it is looked at.
    pub before_ms: (u64, u64),
    /// How long the answer waits after the message was taken.
    pub after_ms: (u64, u64),
    /// 429; nothing is taken.
    pub throttled: u32,
    /// What the header `Retry-After` of a 429 says.
    pub retry_after: Option<String>,
    /// Takes the message and answers 500.
    pub lying: u32,
    /// Answers 500 and takes nothing.
    pub failing: u32,
    /// Takes the message and drops the connection.
    pub reset: u32,
    /// Drops the connection and takes nothing.
    pub cut: u32,
    /// Takes the message and never answers.
    pub stalled: u32,
    /// How long a message is missing in lists.
    pub listing_lag_ms: u64,
    /// What it says of messages afterwards.
    pub callbacks: CallbackWeather,
}

/// How status callbacks behave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CallbackWeather {
    /// Between the words of one message.
    pub step_ms: (u64, u64),
    /// How long each callback is on its way; more than a step shuffles them.
    pub delay_ms: (u64, u64),
    /// Callbacks that never leave.
    pub lost: u32,
    /// How often each is sent.
    pub copies: u32,
    /// Messages that end as undelivered.
    pub undelivered: u32,
    /// Kept back until they are asked for.
    pub is_held: bool,
}

impl Default for CallbackWeather {
    fn default() -> Self {
        Self {
            step_ms: (5, 20),
            delay_ms: (0, 5),
            lost: 0,
            copies: 1,
            undelivered: 0,
            is_held: false,
        }
    }
}

/// What one request meets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// Whether the message is taken.
    pub takes: bool,
    /// What is answered.
    pub reply: Reply,
}

/// What is answered, true or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// 201 with the message.
    Created,
    /// An error of the API.
    Error {
        /// The HTTP status.
        status: u16,
        /// The provider's code.
        code: u32,
    },
    /// 429, with this header where there is one.
    Throttled {
        /// `Retry-After`.
        retry_after: Option<String>,
    },
    /// The connection ends without a byte.
    Reset,
    /// Nothing, for ever.
    Stall,
    /// 201 with JSON that names no message.
    NoSid,
    /// A page for people, with this status.
    Html {
        /// The HTTP status.
        status: u16,
    },
    /// 307 to the same address.
    Redirect,
    /// 201 with a body that never ends.
    Endless,
}

impl Act {
    /// What happens on a good day.
    pub const FAIR: Self = Self {
        takes: true,
        reply: Reply::Created,
    };

    /// The message is taken, and this is answered.
    pub fn taken(reply: Reply) -> Self {
        Self { takes: true, reply }
    }

    /// The message is not taken, and this is answered.
    pub fn untaken(reply: Reply) -> Self {
        Self {
            takes: false,
            reply,
        }
    }
}

impl Weather {
    /// What the next request meets.
    pub(super) fn draw(&self, random: &mut impl Rng) -> Act {
        let mut at = random.random_range(0..1000);
        let internal = Reply::Error {
            status: 500,
            code: 20500,
        };
        let throttled = Reply::Throttled {
            retry_after: self.retry_after.clone(),
        };
        let chances = [
            (self.throttled, Act::untaken(throttled)),
            (self.lying, Act::taken(internal.clone())),
            (self.failing, Act::untaken(internal)),
            (self.reset, Act::taken(Reply::Reset)),
            (self.cut, Act::untaken(Reply::Reset)),
            (self.stalled, Act::taken(Reply::Stall)),
        ];
        for (chance, act) in chances {
            if at < chance {
                return act;
            }
            at -= chance;
        }
        Act::FAIR
    }
}

/// A time between both, in milliseconds.
pub(super) fn between((from, to): (u64, u64), random: &mut impl Rng) -> std::time::Duration {
    std::time::Duration::from_millis(random.random_range(from..=to.max(from)))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn chances_exclude_each_other_and_come_true() {
        let weather = Weather {
            throttled: 300,
            lying: 300,
            stalled: 400,
            ..Weather::default()
        };
        let mut random = StdRng::seed_from_u64(1);
        let acts: Vec<Act> = (0..3000).map(|_| weather.draw(&mut random)).collect();
        let share = |wanted: fn(&Act) -> bool| acts.iter().filter(|act| wanted(act)).count();
        assert!((800..1000).contains(&share(|act| matches!(act.reply, Reply::Throttled { .. }))));
        assert!((1100..1300).contains(&share(|act| act.reply == Reply::Stall)));
        assert_eq!(share(|act| *act == Act::FAIR), 0);
        assert_eq!(Weather::default().draw(&mut random), Act::FAIR);
    }
}
