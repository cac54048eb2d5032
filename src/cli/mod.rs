//! The command line: one binary, a file per command.
//!
//! Answers go to standard output, logs to standard error. Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 69 the
//! database does not answer, 78 the configuration or the schema is not as it must be.

mod bench;
mod campaign;
mod data_dir;
mod doctor;
mod fake;
mod installation;
mod key;
mod message;
mod migrate;
mod openapi;
mod output;
mod parts;
mod queue;
mod scheduler;
mod send;
mod serve;
mod signals;
mod tenant;
mod timeline;
mod up;
mod user;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, Surroundings};
use crate::dev::postgres::LaunchError;
use crate::store::StoreError;
use crate::store::migrate::MigrateError;
use crate::store::startup::StartupRefusal;
use crate::telemetry::{self, LogTarget, TelemetryError};

use self::installation::Misconfigured;

/// Campaigns by SMS, WhatsApp and email, each message delivered exactly once in effect.
#[derive(Debug, Parser)]
#[command(name = "engageninja", version, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    config: Config,

    /// Answer in JSON, one value a line.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything in one process, with a PostgreSQL of its own and a demo tenant.
    Up(up::Up),
    /// The API and its page.
    Serve(serve::Serve),
    /// Carries out jobs; any number of these, anywhere.
    Worker(worker::WorkerCommand),
    /// Orders jobs by time; several may run, each tick fires once.
    Scheduler(scheduler::Scheduler),
    /// Brings the schema up to this version.
    Migrate(migrate::Migrate),
    /// Writes the API's document.
    Openapi(openapi::Openapi),
    /// Tenants.
    #[command(subcommand)]
    Tenant(tenant::TenantCommand),
    /// People who sign in.
    #[command(subcommand)]
    User(user::UserCommand),
    /// Keys of a tenant's programs.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Campaigns, from a file of contacts and a template.
    #[command(subcommand)]
    Campaign(campaign::CampaignCommand),
    /// Sends one message to one address.
    Send(Box<send::Send>),
    /// Database servers: one that was promoted or restored sends nothing until it is released.
    #[command(subcommand)]
    Timeline(timeline::TimelineCommand),
    /// Messages of which nobody knows whether they were sent.
    #[command(subcommand)]
    Message(message::MessageCommand),
    /// Queues and dead jobs.
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Looks at an installation, names each fault and says the mend.
    Doctor(doctor::Doctor),
    /// Stand-ins for the providers.
    #[command(subcommand)]
    Fake(fake::FakeCommand),
    /// Measures this machine's speed on a database of the bench's own.
    Bench(bench::Bench),
}

impl Cli {
    /// Runs the command to its end. A failure is one line on standard error.
    pub async fn run(self) -> ExitCode {
        match self.dispatch().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("engageninja: {}", one_line(&error));
                ExitCode::from(exit_code(&error))
            }
        }
    }

    async fn dispatch(self) -> anyhow::Result<()> {
        let Self {
            config,
            json,
            command,
        } = self;
        let colors = !Surroundings::read().no_color;
        // `up` shows a block for people and logs to a file, see there.
        if !matches!(command, Command::Up(_)) {
            let format = config.log_format.parse().map_err(anyhow::Error::msg)?;
            telemetry::init_log(&config.log, format, LogTarget::Stderr { colors })?;
        }
        match command {
            Command::Up(command) => Box::pin(command.run(config, json)).await,
            Command::Serve(command) => Box::pin(command.run(&config, json)).await,
            Command::Worker(command) => Box::pin(command.run(&config, json)).await,
            Command::Scheduler(command) => Box::pin(command.run(&config, json)).await,
            Command::Migrate(command) => command.run(&config, json).await,
            Command::Openapi(command) => command.run(json),
            Command::Tenant(command) => command.run(&config, json).await,
            Command::User(command) => command.run(&config, json).await,
            Command::Key(command) => command.run(&config, json).await,
            Command::Campaign(command) => command.run(&config, json).await,
            Command::Send(command) => command.run(&config, json).await,
            Command::Timeline(command) => command.run(&config, json).await,
            Command::Message(command) => command.run(&config, json).await,
            Command::Queue(command) => command.run(&config, json).await,
            Command::Doctor(command) => Box::pin(command.run(&config, json)).await,
            Command::Fake(command) => command.run(&config, json).await,
            Command::Bench(command) => command.run(&config, json).await,
        }
    }
}

/// The error and its causes, without line breaks.
fn one_line(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain() {
        let text = cause.to_string().replace('\n', " ");
        // Some errors tell their cause themselves.
        if !told.contains(&text) {
            let colon = if told.is_empty() { "" } else { ": " };
            told.push_str(colon);
            told.push_str(&text);
        }
    }
    told
}

/// `EX_UNAVAILABLE` and `EX_CONFIG` of sysexits.h.
const UNAVAILABLE: u8 = 69;
const CONFIG: u8 = 78;

fn exit_code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(code_of).unwrap_or(1)
}

/// The code of one cause, if it has one of its own.
fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    let code = |is_unavailable| if is_unavailable { UNAVAILABLE } else { CONFIG };
    if let Some(refusal) = cause.downcast_ref::<StartupRefusal>() {
        return Some(code(refusal.is_unavailable()));
    }
    if let Some(error) = cause.downcast_ref::<MigrateError>() {
        return Some(code(matches!(error, MigrateError::Unavailable(_))));
    }
    if let Some(error) = cause.downcast_ref::<StoreError>() {
        return matches!(error, StoreError::Unavailable(_)).then_some(UNAVAILABLE);
    }
    let is_config =
        cause.is::<Misconfigured>() || cause.is::<LaunchError>() || cause.is::<TelemetryError>();
    is_config.then_some(CONFIG)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_missing_database_and_a_wrong_setting_have_codes_of_their_own() {
        let cases = [
            (anyhow::Error::from(StartupRefusal::OtherMacKey), CONFIG),
            (StartupRefusal::Unavailable("x".into()).into(), UNAVAILABLE),
            (
                StoreError::Unavailable(sqlx::Error::PoolTimedOut).into(),
                UNAVAILABLE,
            ),
            (
                MigrateError::Unavailable(sqlx::Error::PoolClosed).into(),
                UNAVAILABLE,
            ),
            (MigrateError::Faults("x".into()).into(), CONFIG),
            (LaunchError::NoBinaries.into(), CONFIG),
            (Misconfigured("x".into()).into(), CONFIG),
            (anyhow::anyhow!("x"), 1),
        ];
        for (error, code) in cases {
            let error = error.context("around it");
            assert_eq!(exit_code(&error), code, "{error:#}");
        }
    }

    #[test]
    fn a_failure_is_one_line_that_says_each_cause_once() {
        let error = anyhow::anyhow!("two\nlines").context("around it");
        assert_eq!(one_line(&error), "around it: two lines");
    }
}
