//! What happens later.

pub mod queue;
