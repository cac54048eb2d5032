//! The message path when something goes wrong, or much happens at once.

mod begin;
mod brands;
mod cancel;
mod chaos;
mod cut_off;
mod expansion;
mod failover;
mod feedback;
mod hung;
mod ids;
mod leader;
mod lifted;
mod look_ups;
mod model;
mod opt_out;
mod outage;
mod pace;
mod pause;
mod reconcile_provider;
mod settle;
mod snapshots;
mod status;
mod suspend;
mod twilio;
mod wakes;
