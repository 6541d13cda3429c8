//! What is known of a container: `state.json` in its directory, replaced whole and never edited.
//! Only the process that is responsible for a container writes it: who made it, then its monitor.
//! What it says of running processes is checked against the kernel when it is read.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

use jiff::Timestamp;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::network::{BridgeConfig, Endpoint};
use super::options::{Options, Protocol, Signal};
use super::span::Spans;
use super::{ContainerError, ContainerId};

/// A container, as its `state.json` has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Its id.
    pub id: ContainerId,
    /// Its name, which no other container has.
    pub name: String,
    /// The image, as the user named it.
    pub image: String,
    /// When it was made.
    pub created: Timestamp,
    /// How far it is, as was last written; see [`State::status`].
    pub phase: Phase,
    /// What the user asked for.
    pub options: Options,
    /// What belongs to the machine.
    pub settings: Settings,
    /// Where its root filesystem is mounted, once it is prepared.
    #[serde(default)]
    pub rootfs: Option<PathBuf>,
    /// Its place in the network, once it has one.
    #[serde(default)]
    pub endpoint: Option<Endpoint>,
    /// Ports that the host listens on for it, once it runs.
    #[serde(default)]
    pub published: Vec<Published>,
    /// The signal that asks it to end.
    pub stop_signal: Signal,
    /// What its monitor did to start it.
    #[serde(default)]
    pub spans: Spans,
}

/// A port of the host that leads to one of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The host's address and port.
    pub host: SocketAddr,
    /// The container's port.
    pub container: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// How this machine runs containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The OCI runtime: a path, or a name in `PATH`; crun or runc where there is none.
    pub runtime: Option<String>,
    /// Directory for what does not survive a reboot.
    pub run_dir: PathBuf,
    /// The bridge of [`Network::Bridge`](super::Network::Bridge).
    pub bridge: BridgeConfig,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            runtime: None,
            run_dir: PathBuf::from("/run/thaw"),
            bridge: BridgeConfig::default(),
        }
    }
}

/// How far a container is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum Phase {
    /// It is made, and not started yet.
    Created {
        /// Who will start it, or remove it.
        owner: ProcessId,
    },
    /// It runs.
    Running {
        /// Its first process.
        init: ProcessId,
        /// That process's parent.
        monitor: ProcessId,
        /// When it was started.
        started: Timestamp,
    },
    /// It ended, or could not be started.
    Exited {
        /// When it was started, if it was.
        started: Option<Timestamp>,
        /// When it ended.
        finished: Timestamp,
        /// Its exit code; 128 + N after signal N.
        code: u8,
        /// Whether the kernel killed a process of it for want of memory.
        #[serde(default)]
        out_of_memory: bool,
        /// Whether what it may write was used up then.
        #[serde(default)]
        disk_full: bool,
        /// The most bytes of memory that it had; `None` where the kernel does not count them.
        #[serde(default)]
        peak_memory: Option<u64>,
    },
}

/// How a container is: its phase, checked against the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is made, and not started yet.
    Created,
    /// It runs.
    Running,
    /// It ended.
    Exited {
        /// Its exit code.
        code: u8,
    },
    /// It is gone, and so is who should have said how it ended.
    Dead,
}

impl State {
    /// How the container is now.
    #[must_use]
    pub fn status(&self) -> Status {
        match &self.phase {
            Phase::Created { owner } if owner.is_alive() => Status::Created,
            Phase::Running { init, monitor, .. } if init.is_alive() || monitor.is_alive() => {
                Status::Running
            }
            Phase::Created { .. } | Phase::Running { .. } => Status::Dead,
            Phase::Exited { code, .. } => Status::Exited { code: *code },
        }
    }

    /// Whether anything of it may still run.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.status(), Status::Created | Status::Running)
    }

    /// Reads the state of the container in `dir`.
    pub(super) fn read(dir: &Path) -> Result<Self, ContainerError> {
        let path = dir.join("state.json");
        let text = fs::read(&path).map_err(ContainerError::file("read", &path))?;
        serde_json::from_slice(&text).map_err(|source| ContainerError::Damaged { path, source })
    }

    /// Replaces the state of the container in `dir`. No start waits for the disk: see [`State::settle`].
    pub(super) fn write(&self, dir: &Path) -> Result<(), ContainerError> {
        self.write_with(dir, |_| Ok(()))
    }

    /// The same, so that a power cut leaves the old state or the new.
    pub(super) fn write_durably(&self, dir: &Path) -> Result<(), ContainerError> {
        self.write_with(dir, File::sync_data)
    }

    /// Makes durable what was written, in the background: without that, a power cut may leave an empty file.
    pub(super) fn settle(dir: &Path) {
        let path = dir.join("state.json");
        let sync = move || File::open(&path).and_then(|file| file.sync_all());
        if let Err(error) = thread::Builder::new().spawn(sync) {
            tracing::debug!(%error, "the state is not made durable");
        }
    }

    fn write_with(&self, dir: &Path, sync: Sync) -> Result<(), ContainerError> {
        let path = dir.join("state.json");
        let text = serde_json::to_vec_pretty(self).map_err(|source| ContainerError::Damaged {
            path: path.clone(),
            source,
        })?;
        replace(&path, &text, sync)
    }
}

/// Makes a directory for what does not survive a reboot, which is ours alone, below one that [lets others pass](open_run_dir).
pub(super) fn make_run_dir(run_dir: &Path, name: &str) -> Result<PathBuf, ContainerError> {
    let dir = run_dir.join(name);
    let make = |dir: &Path, mode| DirBuilder::new().recursive(true).mode(mode).create(dir);
    make(run_dir, 0o711)
        .and_then(|()| make(&dir, 0o700))
        .map_err(ContainerError::file("make directory", &dir))?;
    open_run_dir(run_dir).map_err(ContainerError::file("open to others", run_dir))?;
    Ok(dir)
}

/// Lets others pass through the directory for what does not survive a reboot, if it is there and ours: the socket for them may
/// lie in it. They do not see what else does.
///
/// # Errors
/// Those of the system.
pub fn open_run_dir(run_dir: &Path) -> io::Result<()> {
    let metadata = match fs::metadata(run_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let mut permissions = metadata.permissions();
    let mode = permissions.mode();
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if !is_ours || mode & 0o011 == 0o011 {
        return Ok(());
    }
    permissions.set_mode(mode | 0o011);
    fs::set_permissions(run_dir, permissions)
}

/// What is done to a file before it takes the place of another.
pub(super) type Sync = fn(&File) -> io::Result<()>;

/// Replaces a file so that a reader finds the old content or the new.
pub(super) fn replace(path: &Path, content: &[u8], sync: Sync) -> Result<(), ContainerError> {
    let new = path.with_extension("new");
    File::create(&new)
        .and_then(|mut file| file.write_all(content).and_then(|()| sync(&file)))
        .map_err(ContainerError::file("write", &new))?;
    fs::rename(&new, path).map_err(ContainerError::file("replace", path))
}

/// A process, told from a later one with the same number by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since the machine did (proc(5), `stat`, field 22).
    pub start: u64,
    /// Of which boot of the machine: after a reset another process may have both. 0: not known.
    #[serde(default)]
    pub boot: u64,
}

/// A part of this boot's id (random(4)); 0 where it cannot be read.
fn this_boot() -> u64 {
    static BOOT: OnceLock<u64> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits = text.trim().replace('-', "");
        let first = digits.get(..16);
        first
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .unwrap_or(0)
    })
}

impl ProcessId {
    /// This process.
    #[must_use]
    pub fn own() -> Self {
        let pid = rustix::process::getpid();
        Self::of(pid).unwrap_or(Self {
            pid: pid.as_raw_nonzero().get(),
            start: 0,
            boot: this_boot(),
        })
    }

    /// The process with that number; `None` where there is none.
    #[must_use]
    pub fn of(pid: Pid) -> Option<Self> {
        let pid = pid.as_raw_nonzero().get();
        let (_, start) = stat(pid)?;
        let boot = this_boot();
        Some(Self { pid, start, boot })
    }

    /// Whether it still runs. A zombie does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let is_of_this_boot = self.boot == 0 || self.boot == this_boot();
        let found = stat(self.pid).filter(|_| is_of_this_boot);
        found.is_some_and(|(state, start)| start == self.start && !matches!(state, 'Z' | 'X'))
    }
}

/// State and start time of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses, and may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn others_pass_through_the_run_directory_and_no_further() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let below = make_run_dir(&run, "network").unwrap();
        assert_eq!((mode(&run), mode(&below)), (0o711, 0o700));
        // As an earlier version made it, or where the umask is narrow.
        fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).unwrap();
        make_run_dir(&run, "tty").unwrap();
        assert_eq!(mode(&run), 0o711);
        fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).unwrap();
        open_run_dir(&run).unwrap();
        assert_eq!(mode(&run), 0o755);
        open_run_dir(&dir.path().join("none")).unwrap();
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = ProcessId::own();
        assert!(own.is_alive());
        let other = ProcessId {
            start: own.start + 1,
            ..own
        };
        assert!(!other.is_alive());
        let before = ProcessId {
            boot: own.boot ^ 1,
            ..own
        };
        assert!(own.boot != 0 && !before.is_alive(), "of another boot");
        let mut child = Command::new("/bin/true").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let id = ProcessId::of(pid);
        child.wait().unwrap();
        assert!(id.is_none_or(|id| !id.is_alive()));
        assert_eq!(ProcessId::of(pid), None);
    }
}
