//! The schema `control`: who may sign in, and which cell a tenant lives in.

pub mod api_keys;
pub mod directory;
pub mod memberships;
pub mod sessions;
pub mod users;
