//! As whom the server runs: it refuses to be root.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::Privileges;
use super::error::{Doing, LaunchError};
use super::files::{self, Binaries};

/// The user that root's server runs as, by name or, where the name is missing, by number.
const UNPRIVILEGED: (&str, u32) = ("nobody", 65534);

/// A settled way to run.
#[derive(Debug, Clone, Copy)]
pub(super) enum RunsAs {
    Same,
    Namespace { uid: u32 },
    Other { uid: u32, gid: u32 },
}

/// How PostgreSQL shall run here. Root tries a namespace, which containers often forbid.
pub(super) fn choose_user(
    wanted: Option<Privileges>,
    base: &Path,
    found: &Binaries,
) -> Result<RunsAs, LaunchError> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(RunsAs::Same);
    }
    let (uid, gid) = nix::unistd::User::from_name(UNPRIVILEGED.0)
        .ok()
        .flatten()
        .map_or((UNPRIVILEGED.1, UNPRIVILEGED.1), |user| {
            (user.uid.as_raw(), user.gid.as_raw())
        });
    let namespace = RunsAs::Namespace { uid };
    let other = RunsAs::Other { uid, gid };
    match wanted {
        Some(Privileges::Same) => return Ok(RunsAs::Same),
        Some(Privileges::Namespace) => return Ok(namespace),
        Some(Privileges::Drop) => return Ok(other),
        None => {}
    }
    // Databases made for the other user stay with it.
    if base.metadata().is_ok_and(|known| known.uid() == uid) {
        return Ok(other);
    }
    files::make_private_dir(base).doing(|| format!("make {}", base.display()))?;
    let mut probe = Command::new("test");
    probe.arg("-w").arg(base).arg("-a").arg("-x");
    probe.arg(found.dir.join("postgres"));
    become_user(&mut probe, namespace);
    if probe.status().is_ok_and(|status| status.success()) {
        return Ok(namespace);
    }
    // Only an empty directory is given up for a link to one that the other user can reach.
    let _ = std::fs::remove_dir(base);
    Ok(other)
}

#[cfg_attr(
    target_os = "linux",
    expect(
        unsafe_code,
        reason = "what runs between fork and exec: system calls without allocation"
    )
)]
pub(super) fn become_user(command: &mut Command, runs_as: RunsAs) {
    match runs_as {
        RunsAs::Same => {}
        RunsAs::Other { uid, gid } => {
            command.uid(uid).gid(gid);
        }
        #[cfg(not(target_os = "linux"))]
        RunsAs::Namespace { .. } => {}
        #[cfg(target_os = "linux")]
        RunsAs::Namespace { uid } => {
            let map = format!("{uid} 0 1");
            // SAFETY: the closure makes system calls only; what it writes was allocated before the fork.
            unsafe {
                command.pre_exec(move || enter_namespace(map.as_bytes()));
            }
        }
    }
}

/// Shows us, who are root, as another user to ourselves and our children.
#[cfg(target_os = "linux")]
fn enter_namespace(map: &[u8]) -> io::Result<()> {
    use nix::fcntl::{OFlag, open};
    use nix::sys::stat::Mode;

    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)?;
    // Without giving up setgroups the kernel takes no map of groups.
    let writes: [(&std::ffi::CStr, &[u8]); 3] = [
        (c"/proc/self/setgroups", b"deny"),
        (c"/proc/self/uid_map", map),
        (c"/proc/self/gid_map", map),
    ];
    for (path, text) in writes {
        let file = open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        nix::unistd::write(&file, text)?;
    }
    Ok(())
}
