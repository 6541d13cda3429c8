//! Our own binary, with a store of its own that leaves nothing behind.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{process, scratch};

const END_LIMIT: Duration = Duration::from_secs(10);
/// How long `execve` may leave a process without a command line.
const EXEC_LIMIT: Duration = Duration::from_secs(1);

/// The binary and a store; on drop its daemon is ended, what it mounted is unmounted, and a
/// process or mount that is left over makes the test fail.
#[derive(Debug)]
pub struct Thaw {
    binary: PathBuf,
    root: PathBuf,
    _directory: Option<TempDir>,
}

impl Thaw {
    /// With a new store. `binary` is `env!("CARGO_BIN_EXE_thaw")` in the binary's own tests.
    ///
    /// # Errors
    /// When the store's directory cannot be made.
    pub fn new(binary: impl Into<PathBuf>) -> Result<Self> {
        let directory = scratch::directory()?;
        Ok(Self {
            binary: binary.into(),
            root: directory.path().join("store"),
            _directory: Some(directory),
        })
    }

    /// With the store at `root`, which is left there.
    #[must_use]
    pub fn at(binary: impl Into<PathBuf>, root: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            root: root.into(),
            _directory: None,
        }
    }

    /// The store.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `thaw --root STORE ARGS…`, ready to be run.
    pub fn command<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--root").arg(&self.root).args(args);
        command
    }

    /// Runs `thaw ARGS…` to its end, whatever that is.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Result<Output> {
        let output = self.command(args).output();
        output.with_context(|| format!("cannot start {}", self.binary.display()))
    }

    /// Runs `thaw ARGS…` and gives back what it printed.
    ///
    /// # Errors
    /// When it fails; the error carries its standard error.
    pub fn run<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Result<String> {
        let output = process::run(&mut self.command(args))?;
        String::from_utf8(output.stdout).context("thaw printed what is not UTF-8")
    }

    /// Process id of the daemon, if there is one.
    #[must_use]
    pub fn daemon(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.root.join("daemon.pid")).ok()?;
        let pid = text.trim().parse().ok()?;
        is_of(pid, &self.real_root()).then_some(pid)
    }

    /// Processes of the store whose command line has `word`: `keeper`, `monitor`.
    #[must_use]
    pub fn processes(&self, word: &str) -> Vec<u32> {
        let has_word = |pid: &u32| {
            let line = command_line(*pid);
            line.split(|byte| *byte == 0)
                .any(|it| it == word.as_bytes())
        };
        let mut all = processes(&self.real_root());
        all.retain(has_word);
        all
    }

    /// By which its processes and mounts name the store: without symbolic links.
    fn real_root(&self) -> PathBuf {
        self.root
            .canonicalize()
            .unwrap_or_else(|_| self.root.clone())
    }

    /// Ends everything and unmounts everything of this store.
    ///
    /// # Errors
    /// Names the processes and mounts that were still there.
    pub fn end(&self) -> Result<()> {
        if self.root.join("daemon.pid").exists() {
            let _ = self.output(["unmount", "--all"]);
            signal(self.daemon(), rustix::process::Signal::TERM);
        }
        let (start, root) = (Instant::now(), self.real_root());
        while !processes(&root).is_empty() && start.elapsed() < END_LIMIT {
            std::thread::sleep(Duration::from_millis(20));
        }
        let (processes, mounts) = (processes(&root), mounts(&root));
        for pid in &processes {
            signal(Some(*pid), rustix::process::Signal::KILL);
        }
        for mount in mounts.iter().rev() {
            let _ = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
        }
        ensure!(
            processes.is_empty() && mounts.is_empty(),
            "left over by thaw: processes {processes:?}, mounts {mounts:?}"
        );
        Ok(())
    }
}

impl Drop for Thaw {
    fn drop(&mut self) {
        let end = self.end();
        // A second panic would hide the first.
        if !std::thread::panicking() {
            end.expect("a store that leaves nothing behind");
        }
    }
}

fn signal(pid: Option<u32>, signal: rustix::process::Signal) {
    let pid = pid
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether the process's command line names the store.
fn is_of(pid: u32, root: &Path) -> bool {
    let root = root.as_os_str().as_encoded_bytes();
    command_line(pid)
        .split(|byte| *byte == 0)
        .any(|word| word.windows(root.len().max(1)).any(|window| window == root))
}

/// The process's command line; empty for kernel threads and zombies. A process in the middle
/// of `execve` has none for a moment (`fs/proc/base.c`, `get_mm_cmdline`: its new memory map
/// is there before its arguments), yet has a program, which the other two have not.
fn command_line(pid: u32) -> Vec<u8> {
    let read = || std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let start = Instant::now();
    loop {
        let line = read();
        let program = || std::fs::read_link(format!("/proc/{pid}/exe")).is_ok();
        if !line.is_empty() || start.elapsed() > EXEC_LIMIT || !program() {
            return line;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn processes(root: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let ours = std::process::id();
    pids.filter(|pid| *pid != ours && is_of(*pid, root))
        .collect()
}

/// Mount points under `root`, parents first.
fn mounts(root: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from);
    points.filter(|point| point.starts_with(root)).collect()
}
