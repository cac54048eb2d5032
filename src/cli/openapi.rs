//! `openapi`: the API's document, as it is checked in.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::output::print;
use crate::api::openapi_document;

/// Writes the API's document to standard output.
#[derive(Debug, Args)]
pub(super) struct Openapi {
    /// Compare with a file instead, and end with 1 when it differs.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "openapi/openapi.json")]
    check: Option<PathBuf>,
}

impl Openapi {
    pub(super) fn run(self, json: bool) -> anyhow::Result<()> {
        let document = openapi_document();
        let Some(path) = self.check else {
            println!("{}", document.trim_end());
            return Ok(());
        };
        let kept = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        anyhow::ensure!(
            kept.trim_end() == document.trim_end(),
            "{} is not the document of this version; run `make openapi`",
            path.display()
        );
        print(json, &serde_json::json!({ "is_current": true }), || {
            format!("{} is current", path.display())
        })
    }
}
