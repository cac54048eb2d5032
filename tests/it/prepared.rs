//! The checked query data in `.sqlx` is what `make prepare` would write: a build without a database
//! believes it.

use std::path::{Path, PathBuf};

use sqlx::{AssertSqlSafe, ConnectOptions, Executor, SqlSafeStr};

use crate::harness::db::TestDb;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Each file of `.sqlx`, by name.
fn files() -> Vec<(String, serde_json::Value)> {
    let mut files: Vec<_> = std::fs::read_dir(root().join(".sqlx"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(path).unwrap();
            (name, serde_json::from_str(&text).unwrap())
        })
        .collect();
    files.sort_by(|one, other| one.0.cmp(&other.0));
    files
}

#[tokio::test]
async fn every_query_is_described_as_the_schema_has_it() {
    let db = TestDb::new().await;
    let options = db
        .options()
        .cell
        .options([("search_path", "cell,control,public")]);
    let mut conn = options.connect().await.unwrap();
    let files = files();
    assert!(files.len() > 50, "{}", files.len());

    let mut stale = Vec::new();
    for (name, data) in files {
        let sql = data["query"].as_str().unwrap().to_owned();
        match conn.describe(AssertSqlSafe(sql).into_sql_str()).await {
            Ok(found)
                if comparable(&serde_json::to_value(&found).unwrap())
                    == comparable(&data["describe"]) => {}
            Ok(_) => stale.push(name),
            Err(error) => stale.push(format!("{name}: {error}")),
        }
    }

    assert_eq!(stale, Vec::<String>::new(), "run `make prepare`");
}

/// A description without the nullability of columns that say themselves whether they may be null: what the
/// server infers of them hangs on the plan it happens to choose.
fn comparable(describe: &serde_json::Value) -> serde_json::Value {
    let mut describe = describe.clone();
    let says_itself: Vec<bool> = describe["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap().contains(['!', '?']))
        .collect();
    for (nullable, says_itself) in describe["nullable"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .zip(says_itself)
    {
        if says_itself {
            *nullable = serde_json::Value::Null;
        }
    }
    describe
}

#[test]
fn no_query_is_kept_that_no_source_holds() {
    let mut sources = String::new();
    collect(&root().join("src"), &mut sources);
    let unused: Vec<_> = files()
        .into_iter()
        .filter(|(_, data)| !sources.contains(&plain(data["query"].as_str().unwrap())))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(unused, Vec::<String>::new(), "run `make prepare`");
}

/// Without what string literals of one query may differ in: escapes and line ends.
fn plain(text: &str) -> String {
    text.replace("\\\"", "\"")
        .replace("\\\n", "\n")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn collect(dir: &Path, sources: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, sources);
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            sources.push_str(&plain(&text));
            sources.push('\n');
        }
    }
}
