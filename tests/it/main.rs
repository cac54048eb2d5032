//! The one integration binary: each further one would be another 100 MB to link.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]
#![expect(
    unreachable_pub,
    reason = "nothing of a test binary can be reached from outside; the stories share by `pub`"
)]

mod harness;

mod api_conventions;
mod architecture;
mod authz_matrix;
mod campaign_command;
mod campaign_counts;
mod campaign_pace;
mod campaign_switches;
mod campaigns_api;
mod catalogue;
mod changed_paces;
mod commands;
mod contact_changes;
mod contacts_api;
mod delivery;
mod docs_script;
mod doctor;
mod due_campaigns;
mod events_api;
mod fake_twilio;
mod idempotency;
mod imports;
mod injected_failure;
mod jobs_twice;
mod keys;
mod killed_serve;
mod launcher;
mod lists_api;
mod live_numbers;
mod members;
mod message_path;
mod messages_api;
mod migrate;
mod openapi;
mod ops_api;
mod orphans;
mod parked;
mod plans;
mod prepared;
mod quarantine;
mod queue_conformance;
mod retries;
mod row_level_security;
mod schedules;
mod search_api;
mod senders_api;
mod sessions;
mod settings;
mod startup;
mod stats_api;
mod templates_api;
mod tenants;
mod thousand_readers;
mod up;
mod webhooks;
mod whole_way;
