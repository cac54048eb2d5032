//! `doctor`: looks at an installation, names each fault and says the mend in one line.
//!
//! It changes nothing, and looks on after a fault as long as there is something to ask.

use std::path::Path;

use chrono::TimeDelta;
use clap::Args;
use nix::sys::statvfs::statvfs;
use serde::Serialize;

use super::installation::{database_options, expectations, keys};
use super::output::{print, table};
use crate::clock::Clock;
use crate::config::Config;
use crate::store::startup::{StartupRefusal, examine};
use crate::store::{Db, StoreResult, SystemTx, checkup, schedules};

/// A scheduler ticks every second.
const TICKS_WITHIN: TimeDelta = TimeDelta::minutes(1);
/// Free bytes of a disk below which writes may fail soon.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// Campaigns read at once.
const CAMPAIGNS_MAX: i64 = 200;

/// Looks at an installation, names each fault and says the mend. Exit code 1 when there is a fault.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Also compare the counts of every campaign of the last year with its messages.
    #[arg(long)]
    recount: bool,
}

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    /// Nothing fails by it today.
    Warn,
    Fault,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    state: State,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Doctor {
    pub(super) async fn run(self, config: &Config, json: bool) -> anyhow::Result<()> {
        let findings = self.look(config).await?;
        let faults = findings
            .iter()
            .filter(|finding| finding.state == State::Fault)
            .count();
        print(json, &findings, || shown(&findings))?;
        anyhow::ensure!(faults == 0, "{faults} of {} checks failed", findings.len());
        Ok(())
    }

    async fn look(&self, config: &Config) -> anyhow::Result<Vec<Finding>> {
        let mut findings = vec![disk(&config.data_dir), public_url(config)];
        let options = match database_options(config) {
            Ok(options) => options,
            Err(refusal) => {
                findings.push(refused("database", &refusal));
                return Ok(findings);
            }
        };
        let expected = match keys(config).and_then(|keys| expectations(config, &keys)) {
            Ok(expected) => expected,
            Err(error) => {
                findings.push(split("keys", &format!("{error:#}")));
                return Ok(findings);
            }
        };
        let db = Db::new(&options, Clock::default());
        let examined = match examine(&db, &options, &expected).await {
            Ok(examined) => examined,
            Err(refusal) => {
                findings.push(refused("database", &refusal));
                return Ok(findings);
            }
        };
        findings.push(fine("database", "it answers"));
        let has_schema = examined.iter().any(|one| one.check != "migrations");
        findings.extend(examined.iter().map(|one| match &one.result {
            Ok(()) => fine(one.check, "as it must be"),
            Err(refusal) => refused(one.check, refusal),
        }));
        if has_schema {
            findings.extend(ask(&db).await?);
        }
        if has_schema && self.recount {
            findings.push(recount(&db).await?);
        }
        Ok(findings)
    }
}

/// What only a database with our schema can tell.
async fn ask(db: &Db) -> StoreResult<Vec<Finding>> {
    // System: an operator looks at what all tenants share.
    let mut tx = db.system().begin().await?;
    let mut findings = schema(&mut tx).await?;
    findings.push(leader(&mut tx).await?);
    findings.push(scheduler(&mut tx).await?);
    findings.push(dead_jobs(&mut tx).await?);
    Ok(findings)
}

fn fine(check: &'static str, detail: impl Into<String>) -> Finding {
    Finding {
        check,
        state: State::Ok,
        detail: detail.into(),
        mend: None,
    }
}

fn found(check: &'static str, state: State, detail: impl Into<String>, mend: &str) -> Finding {
    Finding {
        check,
        state,
        detail: detail.into(),
        mend: Some(mend.to_owned()),
    }
}

/// What refuses a start says itself what to do, behind its last semicolon.
fn refused(check: &'static str, refusal: &StartupRefusal) -> Finding {
    split(check, &refusal.to_string())
}

fn split(check: &'static str, text: &str) -> Finding {
    let (detail, mend) = text
        .rsplit_once("; ")
        .unwrap_or((text, "see the log of the database"));
    found(check, State::Fault, detail, mend)
}

/// What providers call, and what cookies depend on.
fn public_url(config: &Config) -> Finding {
    if config.public_url.is_some() {
        return fine("public_url", "it is set");
    }
    found(
        "public_url",
        State::Warn,
        "ENGAGENINJA_PUBLIC_URL is not set, so that no real channel can be used",
        "set it to the https address that browsers and providers reach this installation by",
    )
}

/// The disk below the data directory, or below where it would be made.
fn disk(data_dir: &Path) -> Finding {
    let absolute = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let room = absolute.ancestors().find_map(|path| {
        statvfs(path)
            .ok()
            .map(|room| (path.display().to_string(), room))
    });
    let Some((path, room)) = room else {
        return found(
            "disk",
            State::Fault,
            format!("{} cannot be looked at", absolute.display()),
            "give this user access to the data directory, or name another with --data-dir",
        );
    };
    let free = room.blocks_available() * room.fragment_size();
    let detail = format!("{} MiB free at {path}", free >> 20);
    if free >= FREE_BYTES_MIN {
        return fine("disk", detail);
    }
    found(
        "disk",
        State::Fault,
        detail,
        "make room there, or move the data directory with --data-dir",
    )
}

async fn schema(tx: &mut SystemTx) -> StoreResult<Vec<Finding>> {
    let (short, broken): (Vec<_>, Vec<_>) = checkup::list_schema_faults(tx)
        .await?
        .into_iter()
        .partition(|fault| fault.fault.starts_with("fewer than 8 weeks"));
    let named = |faults: &[checkup::SchemaFault]| {
        let each = faults.iter().map(|f| format!("{}: {}", f.fault, f.object));
        each.collect::<Vec<_>>().join(", ")
    };
    let partitions = if short.is_empty() {
        fine("partitions", "at least 8 weeks ahead")
    } else {
        found(
            "partitions",
            State::Fault,
            named(&short),
            "run `engageninja migrate`, and keep a scheduler and a worker running, which do it hourly",
        )
    };
    let rules = if broken.is_empty() {
        fine("schema", "no rule is broken")
    } else {
        found(
            "schema",
            State::Fault,
            named(&broken),
            "undo what was changed by hand; the schema is changed by `engageninja migrate` alone",
        )
    };
    Ok(vec![partitions, rules])
}

async fn leader(tx: &mut SystemTx) -> StoreResult<Finding> {
    Ok(if checkup::has_leader(tx).await? {
        fine("leader", "a worker leads the release")
    } else {
        found(
            "leader",
            State::Fault,
            "no worker leads the release, so that nothing is let out",
            "start `engageninja worker`",
        )
    })
}

async fn scheduler(tx: &mut SystemTx) -> StoreResult<Finding> {
    let rows = schedules::list_schedules(tx).await?;
    let last = rows.iter().filter_map(|row| row.fired_at).max();
    let now = checkup::read_clock(tx).await?;
    let mend = "start `engageninja scheduler`, or `engageninja worker --with scheduler`";
    let Some(last) = last else {
        let detail = "no schedule has ever fired";
        return Ok(found("scheduler", State::Fault, detail, mend));
    };
    if now - last > TICKS_WITHIN {
        let detail = format!("no schedule has fired since {last:.0}");
        return Ok(found("scheduler", State::Fault, detail, mend));
    }
    let paused: Vec<&str> = rows
        .iter()
        .filter(|row| !row.is_enabled)
        .map(|row| row.id.as_str())
        .collect();
    if paused.is_empty() {
        return Ok(fine("scheduler", format!("last fired {last:.0}")));
    }
    let detail = format!("paused: {}", paused.join(", "));
    let mend = "unpause them at POST /api/ops/schedules/…/unpause when the reason is gone";
    Ok(found("scheduler", State::Warn, detail, mend))
}

async fn dead_jobs(tx: &mut SystemTx) -> StoreResult<Finding> {
    let dead = checkup::count_dead_jobs(tx).await?;
    if dead == 0 {
        return Ok(fine("dead_jobs", "none"));
    }
    let mend = "look at them with `engageninja queue dead`, mend the cause, then `engageninja queue retry`";
    Ok(found(
        "dead_jobs",
        State::Warn,
        format!("{dead} jobs were given up"),
        mend,
    ))
}

/// Compares campaign by campaign, each in one statement, so that nothing has to stand still.
async fn recount(db: &Db) -> StoreResult<Finding> {
    let (mut after, mut campaigns, mut wrong) = (None, 0, Vec::new());
    loop {
        let mut tx = db.system().begin().await?;
        let page = checkup::list_started(&mut tx, after, CAMPAIGNS_MAX).await?;
        drop(tx);
        let Some(last) = page.last() else {
            break;
        };
        after = Some(*last);
        for (tenant_id, id) in page {
            let mut tx = db.system().begin().await?;
            campaigns += 1;
            for one in checkup::recount(&mut tx, tenant_id, id).await? {
                wrong.push(format!(
                    "campaign {id}: {} is {}, its rows say {}",
                    one.word, one.counted, one.rows
                ));
            }
        }
    }
    if wrong.is_empty() {
        return Ok(fine("counts", format!("{campaigns} campaigns add up")));
    }
    let mend = "the messages are right and the numbers are not: report this line, and trust GET /api/messages";
    Ok(found("counts", State::Fault, wrong.join(", "), mend))
}

fn shown(findings: &[Finding]) -> String {
    let row = |finding: &Finding| {
        let state = match finding.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fault => "FAULT",
        };
        let text = match &finding.mend {
            Some(mend) => format!("{}; {mend}", finding.detail),
            None => finding.detail.clone(),
        };
        vec![finding.check.to_owned(), state.to_owned(), text]
    };
    let rows: Vec<_> = findings.iter().map(row).collect();
    table(&["check", "state", "what was found, and the mend"], &rows)
}
