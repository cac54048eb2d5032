//! What a durable queue is: one suite, run against the engine on a real database.
//!
//! Leases are short here and the fallback polls far apart, so that what is meant to be told is told and not
//! found by chance.

mod bad_jobs;
mod child;
mod crew;
mod death;
mod incoming;
mod one_at_a_time;
mod order;
mod outage;
mod size;
mod stopping;
mod timing;
