//! The workbench: what the command line, the tests and the benches share and no production path needs.

pub mod bench_queue;
pub mod demo;
pub mod fake_twilio;
pub mod figures;
pub mod postgres;
