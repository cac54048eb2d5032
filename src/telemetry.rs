//! Logs and metrics: every name is listed here once.

/// Batches that lost a deadlock; stays 0 while every writer keeps the order.
pub const DEADLOCK_TOTAL: &str = "engageninja_deadlock_total";
/// Attempts by the state they ended in.
pub const ATTEMPTS_TOTAL: &str = "engageninja_attempts_total";
/// Attempts parked because nobody closed them.
pub const PARKED_TOTAL: &str = "engageninja_parked_total";
/// Messages let out of the backlog.
pub const RELEASED_TOTAL: &str = "engageninja_released_total";
