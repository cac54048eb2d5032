//! EngageNinja: campaigns by SMS, WhatsApp and email, each message delivered exactly once in effect.
//!
//! The story of one message, room by room:
//!
//! 1. A marketer presses Send. [`api`] loads the campaign, [`domain::campaign`] decides, [`store`] saves, and an
//!    [`ExpandCampaign`](domain::orders::ExpandCampaign) is ordered, all in one transaction.
//! 2. A worker claims that job ([`jobs::queue`]). [`jobs::expand_campaign`] freezes the audience, renders 2,000 people at
//!    a time and hands them to [`delivery::intake`], the one door for messages.
//! 3. [`delivery::release`] lets out what may go now: tenants take turns, then their lanes; a few messages share a
//!    [`SendMessage`](domain::orders::SendMessage) job.
//! 4. For each of a job's messages [`delivery::Delivery::deliver`] *begins* (an attempt is committed before the call),
//!    *calls* one of the [`providers`], and *finishes* (outcome, phase and counts in one commit, with the last one the job too).
//! 5. Killed in between, the job, if it is still there, runs again and begin grants nothing; [`delivery::resolve`] settles the open attempt.
//! 6. What the provider says afterwards is merged by rank in [`delivery::inbox`].
//! 7. Whoever watches gets a new snapshot of the counts.
//!
//! Imports point downwards only: doors ([`api`], [`schedules`]) → [`jobs`] → [`delivery`] → [`providers`], [`store`] →
//! [`domain`].

pub mod domain;

pub mod clock;
pub mod config;
pub mod crypto;
pub mod telemetry;

pub mod providers;
pub mod store;

pub mod delivery;

pub mod jobs;

pub mod live;

pub mod api;
pub mod schedules;

pub mod dev;

pub mod cli;
