//! `fake`: stand-ins for the providers, for trying the product and for tests with processes of their own.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;

use super::output::print;
use super::signals::Signals;
use crate::config::Config;
use crate::dev::fake_twilio::{ACCOUNT_SID, AUTH_TOKEN, FakeOptions, FakeTwilio, account_sid};

/// Stand-ins for the providers.
#[derive(Debug, Subcommand)]
pub(super) enum FakeCommand {
    /// Twilio's API for messages on this machine: takes what it is sent and calls back, sends nothing.
    Twilio(Twilio),
}

/// How the fake is started; it listens at `--listen`.
#[derive(Debug, Args)]
pub(super) struct Twilio {
    /// Append every message it takes to a file, a line of JSON each.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// How many accounts it has, ending in 1, 2 and so on, all with the same token.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=99))]
    accounts: u8,
    /// What its chances are drawn from.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl FakeCommand {
    pub(super) async fn run(self, config: &Config, json: bool) -> anyhow::Result<()> {
        let Self::Twilio(Twilio {
            ledger,
            accounts,
            seed,
        }) = self;
        let signals = Signals::listen()?;
        let options = FakeOptions {
            listen: config.listen,
            ledger_file: ledger,
            seed,
            ..FakeOptions::default()
        };
        let fake = FakeTwilio::start_with(options).await.with_context(|| {
            format!(
                "cannot listen on {}, or cannot write the ledger; choose another address with --listen",
                config.listen
            )
        })?;
        for number in 1..=accounts {
            fake.add_account(&account_sid(number), AUTH_TOKEN);
        }
        let value =
            json!({ "url": fake.url(), "account_sid": ACCOUNT_SID, "auth_token": AUTH_TOKEN });
        print(json, &value, || {
            format!(
                "a fake Twilio on {}; account {ACCOUNT_SID}, token {AUTH_TOKEN}; PUT /fake/weather, GET /fake/ledger",
                fake.url()
            )
        })?;
        signals.end.cancelled().await;
        Ok(())
    }
}
