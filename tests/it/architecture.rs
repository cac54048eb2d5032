//! Who may name whom: the table of ARCHITECTURE.md in code, compared with what every file of `src` says.

mod source;
mod table;

use std::fmt;
use std::path::{Path, PathBuf};

use self::source::{Named, Source, read};
use self::table::{DERIVES, RESERVED, RESERVED_PATHS, ROOMS, Room, SQL_MACROS, SQL_ROOMS};

/// A breach of the rules.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// Checks one file, named from `src` on.
fn check(file: &str, text: &str) -> Vec<Finding> {
    let module = module_of(file);
    let home = module.join("::");
    let finding = |line: usize, what: String| Finding {
        file: format!("src/{file}"),
        line,
        what,
    };
    let Some(room) = room_of(&home) else {
        return vec![finding(1, format!("{home} is in no room of the table"))];
    };
    let is_in = |rooms: &[&str]| rooms.iter().any(|room| begins_with(&home, room));
    let Source {
        paths,
        macros,
        words,
    } = read(&module, text);

    let mut findings = Vec::new();
    for Named { line, path } in &paths {
        match path.strip_prefix("crate") {
            Some(ours) if ours.is_empty() || ours.starts_with("::") => {
                let ours = ours.trim_start_matches("::");
                if !may_name(room, &module, ours) {
                    findings.push(finding(*line, format!("{} names {ours}", room.name)));
                }
            }
            _ => {
                if room.never.iter().any(|never| begins_with(path, never))
                    && !is_derived(room, path)
                {
                    findings.push(finding(*line, format!("{} names {path}", room.name)));
                }
            }
        }
        let reserved = RESERVED_PATHS
            .iter()
            .find(|(what, _)| begins_with(path, what));
        if reserved.is_some_and(|(_, rooms)| !is_in(rooms)) {
            findings.push(finding(*line, format!("{} says {path}", room.name)));
        }
    }
    for Named { line, path } in &macros {
        if SQL_MACROS.contains(&path.as_str()) && !is_in(SQL_ROOMS) {
            findings.push(finding(*line, format!("{} holds SQL: {path}!", room.name)));
        }
    }
    let last_words = paths.iter().map(|named| Named {
        line: named.line,
        path: named.path.rsplit("::").next().unwrap_or_default().into(),
    });
    for Named { line, path } in words.iter().cloned().chain(last_words) {
        let reserved = RESERVED.iter().find(|(word, _)| *word == path);
        if reserved.is_some_and(|(_, rooms)| !is_in(rooms)) {
            findings.push(finding(line, format!("{} says {path}", room.name)));
        }
        if path == "async" && room.name == "domain" {
            findings.push(finding(line, "domain is async".into()));
        }
    }
    findings.sort_by_key(|finding| finding.line);
    findings
}

/// The module of a file, as segments from the root; the two roots stand for themselves.
fn module_of(file: &str) -> Vec<String> {
    let stem = file.trim_end_matches(".rs");
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    stem.split('/').map(Into::into).collect()
}

fn room_of(module: &str) -> Option<&'static Room> {
    ROOMS
        .iter()
        .filter(|room| begins_with(module, room.name))
        .max_by_key(|room| room.name.len())
}

fn may_name(room: &Room, module: &[String], path: &str) -> bool {
    // The roots declare the rooms; what they call `self` is no path of a room.
    let is_own = begins_with(path, room.name) || begins_with(path, &module.join("::"));
    is_own
        || room
            .may
            .iter()
            .any(|may| *may == "*" || begins_with(path, may))
}

/// A derive may be named in full although its crate may not be used.
fn is_derived(room: &Room, path: &str) -> bool {
    room.name == "domain" && DERIVES.contains(&path)
}

/// Whether the first segments of `path` are those of `prefix`, whose `*` is any one.
fn begins_with(path: &str, prefix: &str) -> bool {
    let mut segments = path.split("::");
    prefix.split("::").all(|wanted| {
        segments
            .next()
            .is_some_and(|one| wanted == "*" || wanted == one)
    })
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_room_names_only_what_the_table_lets_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&src, &mut paths);
    assert!(paths.len() > 100, "only {} files found", paths.len());

    let findings: Vec<String> = paths
        .iter()
        .flat_map(|path| {
            let name = path.strip_prefix(&src).unwrap().to_str().unwrap();
            check(name, &std::fs::read_to_string(path).unwrap())
        })
        .map(|finding| finding.to_string())
        .collect();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

/// Files, what they say, and the line and the words of what must be found first.
const BREACHES: &[(&str, &str, usize, &str)] = &[
    (
        "domain/campaign.rs",
        "\nuse crate::store::Db;",
        2,
        "domain names store::Db",
    ),
    (
        "domain/campaign.rs",
        "use tokio::time;",
        1,
        "domain names tokio::time",
    ),
    (
        "domain/campaign.rs",
        "pub async fn start() {}",
        1,
        "domain is async",
    ),
    (
        "domain/campaign.rs",
        "fn a() { super::super::clock::now() }",
        1,
        "domain names clock::now",
    ),
    (
        "clock.rs",
        "use crate::config::Config;",
        1,
        "clock names config::Config",
    ),
    (
        "crypto/mac.rs",
        "use crate::domain::phone::Phone;",
        1,
        "crypto names domain::phone::Phone",
    ),
    (
        "store/messages.rs",
        "use crate::{clock::Clock, delivery};",
        1,
        "store names delivery",
    ),
    (
        "store/messages.rs",
        "use poem::Request;",
        1,
        "store names poem::Request",
    ),
    (
        "providers/demo.rs",
        "use crate::{\n    domain::ids,\n    store::{Db, StoreError as E},\n};",
        3,
        "providers names store::Db",
    ),
    (
        "jobs/queue/claim.rs",
        "use crate::domain::ids::TenantId;",
        1,
        "jobs::queue names domain::ids::TenantId",
    ),
    (
        "jobs/queue/claim.rs",
        "use super::super::registry::SEND;",
        1,
        "jobs::queue names jobs::registry::SEND",
    ),
    (
        "delivery/begin.rs",
        "use crate::jobs::queue::{Engine, Fence};",
        1,
        "delivery names jobs::queue::Engine",
    ),
    (
        "delivery/begin.rs",
        "use crate::jobs::queue;",
        1,
        "delivery names jobs::queue",
    ),
    (
        "delivery/begin.rs",
        "use crate::jobs::queue::*;",
        1,
        "delivery names jobs::queue::*",
    ),
    (
        "delivery/begin.rs",
        "use crate::jobs::registry::SEND;",
        1,
        "delivery names jobs::registry::SEND",
    ),
    (
        "delivery/mod.rs",
        "mod inner { use super::super::api; }",
        1,
        "delivery names api",
    ),
    (
        "jobs/send_message.rs",
        "fn f() -> crate::api::state::ApiState {}",
        1,
        "jobs names api::state::ApiState",
    ),
    (
        "schedules/mod.rs",
        "use crate::store::messages;",
        1,
        "schedules names store::messages",
    ),
    (
        "api/campaigns.rs",
        "use crate::delivery::Delivery;",
        1,
        "api names delivery::Delivery",
    ),
    (
        "api/campaigns.rs",
        "use crate::providers::twilio::client;",
        1,
        "api names providers::twilio::client",
    ),
    (
        "api/campaigns.rs",
        "use crate::schedules;",
        1,
        "api names schedules",
    ),
    (
        "bridge/mod.rs",
        "use crate::store::{Db, messages};",
        1,
        "bridge names store::messages",
    ),
    (
        "dev/seed.rs",
        "use crate::providers::demo;",
        1,
        "dev names providers::demo",
    ),
    ("api/campaigns.rs", "use crate as product;", 1, "api names "),
    (
        "delivery/begin.rs",
        "fn f() { sqlx::query_as!(Row, \"\") }",
        1,
        "delivery holds SQL: query_as!",
    ),
    (
        "api/campaigns.rs",
        "fn f() { query_file!(\"x.sql\") }",
        1,
        "api holds SQL: query_file!",
    ),
    (
        "delivery/begin.rs",
        "use sqlx::AssertSqlSafe;",
        1,
        "delivery says AssertSqlSafe",
    ),
    (
        "delivery/begin.rs",
        "fn f() { std::env::var(\"HOME\"); }",
        1,
        "delivery says std::env::var",
    ),
    (
        "delivery/begin.rs",
        "use std::{env, fmt};",
        1,
        "delivery says std::env",
    ),
    (
        "dev/postgres/files.rs",
        "use std::env::var_os;",
        1,
        "dev says std::env::var_os",
    ),
    (
        "delivery/begin.rs",
        "/* a /* nested */ one */ fn f() { unsafe {} }",
        1,
        "delivery says unsafe",
    ),
    (
        "delivery/begin.rs",
        "use anyhow::Context;",
        1,
        "delivery says anyhow::Context",
    ),
    ("kitchen.rs", "", 1, "kitchen is in no room of the table"),
];

/// Every rule is broken on purpose, since a check that sees nothing finds nothing.
#[test]
fn planted_breaches_are_found_with_their_line() {
    for &(file, text, line, what) in BREACHES {
        let found = check(file, text);
        let wanted = Finding {
            file: format!("src/{file}"),
            line,
            what: what.into(),
        };
        assert_eq!(found.first(), Some(&wanted), "{text}");
    }
}

#[test]
fn innocent_source_raises_no_alarm() {
    let innocent = [
        (
            "domain/mod.rs",
            "//! See [`crate::store`].\n/* crate::api */ pub(crate) mod ids;",
        ),
        (
            "domain/ids.rs",
            "#[derive(sqlx::Type, poem_openapi::NewType)] struct A(crate::domain::message::Phase);",
        ),
        (
            "domain/phone.rs",
            "const A: &str = \"crate::store \\\" unsafe\"; const B: &str = r#\"use \"crate::api\"\"#; const C: char = '\"';",
        ),
        (
            "domain/phone.rs",
            "impl<'a> A<'a> { fn b(c: char) -> bool { c == '\\'' } }\n// async",
        ),
        (
            "domain/status.rs",
            "mod tests { use super::*; use super::super::ids; }",
        ),
        (
            "store/tx.rs",
            "use super::{Announcement, StoreResult}; fn f() { query!(\"\"); sqlx::query_as!(A, \"\"); }",
        ),
        (
            "delivery/finish.rs",
            "use crate::jobs::queue::{Fence, NewJob, enqueue};",
        ),
        (
            "api/webhooks.rs",
            "use crate::providers::twilio::verify::Signature; use crate::delivery::inbox::accept;",
        ),
        (
            "jobs/registry.rs",
            "use super::queue::Engine; use self::queue::Tuning; use crate::jobs::queue;",
        ),
        (
            "cli/up.rs",
            "use anyhow::Result; use crate::{api, jobs, schedules, providers::demo};",
        ),
        (
            "config.rs",
            "fn f() { if a != b { std::env::var(\"X\"); } }",
        ),
    ];
    for (file, text) in innocent {
        let found: Vec<String> = check(file, text).iter().map(ToString::to_string).collect();
        assert!(found.is_empty(), "{found:?}");
    }
}
