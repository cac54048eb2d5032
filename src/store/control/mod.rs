//! The schema `control`: who may sign in, and which cell a tenant lives in.

pub mod api_keys;
pub mod audit;
pub mod directory;
pub mod history;
pub mod idempotency;
pub mod invitations;
pub mod login_throttle;
pub mod memberships;
pub mod sessions;
pub mod users;
