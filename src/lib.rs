//! EngageNinja: campaigns by SMS, WhatsApp and email, each message delivered exactly once in effect.

pub mod domain;

pub mod clock;
pub mod config;
pub mod crypto;
pub mod telemetry;

pub mod store;

pub mod jobs;

pub mod api;

pub mod dev;
