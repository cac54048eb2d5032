//! `migrate`: brings the schema up to this version, or says what that would do.

use clap::Args;
use serde::Serialize;

use super::installation::database_options;
use super::output::print;
use crate::config::Config;
use crate::store::migrate::{self, Pending};

/// Brings the schema up to this version.
#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// Say what is missing and change nothing; ends with 1 when something is.
    #[arg(long)]
    check: bool,
}

#[derive(Serialize)]
struct Answer {
    schema: &'static str,
    version: i64,
    description: String,
}

fn answers(pending: &[Pending]) -> Vec<Answer> {
    pending
        .iter()
        .map(|p| Answer {
            schema: p.schema,
            version: p.version,
            description: p.description.clone(),
        })
        .collect()
}

fn lines(answers: &[Answer]) -> String {
    let lines = answers
        .iter()
        .map(|a| format!("{} {} {}", a.schema, a.version, a.description));
    lines.collect::<Vec<_>>().join("\n")
}

impl Migrate {
    pub(super) async fn run(self, config: &Config, json: bool) -> anyhow::Result<()> {
        let options = database_options(config)?;
        if self.check {
            let difference = migrate::check(&options.control, &options.cell).await?;
            if let Some((schema, version)) = difference.newer {
                anyhow::bail!("schema {schema} is at {version}, which this version does not know");
            }
            let pending = answers(&difference.pending);
            print(json, &pending, || match pending.len() {
                0 => "the schema is up to date".into(),
                _ => lines(&pending),
            })?;
            anyhow::ensure!(pending.is_empty(), "run `engageninja migrate`");
            return Ok(());
        }
        let applied = answers(&migrate::migrate(&options.control, &options.cell).await?);
        print(json, &applied, || match applied.len() {
            0 => "the schema is up to date".into(),
            _ => lines(&applied),
        })
    }
}
