//! What runs a bundle: an OCI runtime, by its command line.
//!
//! `run` and `exec` return as soon as the process is started (`--detach`), and the process is left
//! to the nearest subreaper above: the monitor, which is its parent from then on. So no runtime
//! process stays beside the container, its start is a definite moment, and its exit status comes from
//! the kernel. What the runtime itself has to say goes to a log file, for its standard error is
//! the container's.

use std::env;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Pid;
use serde::Deserialize;
use thaw_mount::begin_with_our_first_limit;

use super::options::Signal;
use super::{ContainerError, ContainerId};

/// An OCI runtime. The process that `run` and `exec` start is a child of the nearest subreaper.
pub trait Runtime: fmt::Debug + Send + Sync {
    /// Creates the container of a bundle and starts its first process.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`] and [`ContainerError::NotExecutable`] where the program is to
    /// blame, else [`ContainerError::Runtime`]. Nothing is left then.
    fn run(&self, id: &ContainerId, bundle: &Path, io: ProcessIo) -> Result<Pid, ContainerError>;

    /// Starts one more process in a running container. `process` is a file with a `process` object
    /// of the runtime-spec; its directory takes the files that belong to the call.
    ///
    /// # Errors
    /// See [`Runtime::run`].
    fn exec(&self, id: &ContainerId, process: &Path, io: ProcessIo) -> Result<Pid, ContainerError>;

    /// Sends a signal to the first process.
    ///
    /// # Errors
    /// [`ContainerError::Runtime`], also where it is not running.
    fn kill(&self, id: &ContainerId, signal: Signal) -> Result<(), ContainerError>;

    /// Kills what still runs and forgets the container. One that is not there is no error.
    ///
    /// # Errors
    /// [`ContainerError::Runtime`].
    fn delete(&self, id: &ContainerId) -> Result<(), ContainerError>;
}

/// What a process has as standard input, output and error.
#[derive(Debug)]
pub struct ProcessIo {
    /// Standard input.
    pub stdin: Stdio,
    /// Standard output.
    pub stdout: Stdio,
    /// Standard error.
    pub stderr: Stdio,
    /// A Unix socket that receives the terminal's other end (runc's `--console-socket`); the
    /// three others are not used by the process then.
    pub console: Option<PathBuf>,
}

/// crun, runc, and what else has their command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuncLike {
    program: PathBuf,
    root: PathBuf,
    /// Whether the version 2 hierarchy of a hybrid layout is kept out of its sight.
    hide_unified: bool,
}

/// Where a hybrid layout of control groups has its version 2 hierarchy.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

impl RuncLike {
    /// The runtime `choice` (a path, or a name in `PATH`), or else crun, or else runc: crun starts
    /// a container in a fifth of the time. Its own state lies in `root`, which should not survive
    /// a reboot.
    ///
    /// # Errors
    /// [`ContainerError::NoRuntime`] where there is none.
    pub fn find(choice: Option<&str>, root: &Path) -> Result<Self, ContainerError> {
        let names = choice.map_or_else(|| vec!["crun", "runc"], |choice| vec![choice]);
        let program = names.into_iter().find_map(in_path);
        let wanted = || choice.unwrap_or("crun").to_owned();
        let program = program.ok_or_else(|| ContainerError::NoRuntime(wanted()))?;
        // They do not read each other's state.
        let name = program.file_name().unwrap_or_default();
        Ok(Self {
            root: root.join(name),
            hide_unified: name == "crun" && has_unified_controllers(),
            program,
        })
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Has the program, its libraries and what else it needs read into the page cache, in the
    /// background: cold, that is 20 ms of a start. Whether it works is seen when it is run.
    pub(super) fn warm(self) {
        let work = move || {
            let mut command = self.command(None);
            command.arg("--version");
            let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
            quiet.stderr(Stdio::null()).status().ok();
        };
        let thread = std::thread::Builder::new().name("warm-runtime".to_owned());
        if let Err(error) = thread.spawn(work) {
            tracing::debug!(%error, "the runtime is not warmed");
        }
    }

    fn command(&self, log: Option<&Path>) -> Command {
        let mut command = if self.hide_unified {
            let mut command = Command::new("unshare");
            let script = format!("umount {UNIFIED} && exec \"$@\"");
            command.args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                &script,
                "sh",
            ]);
            command.arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        begin_with_our_first_limit(&mut command);
        command.arg("--root").arg(&self.root);
        if let Some(log) = log {
            command.args(["--log-format", "json", "--log"]).arg(log);
        }
        command
    }

    /// Runs a command that starts a process; its files lie in `dir`.
    fn start(
        &self,
        action: &'static str,
        dir: &Path,
        io: ProcessIo,
        finish: impl FnOnce(&mut Command),
    ) -> Result<Pid, ContainerError> {
        let (log, pid) = (dir.join("runtime.log"), dir.join("pid"));
        for path in [&log, &pid] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(ContainerError::file("remove", path)(error));
                }
                _ => {}
            }
        }
        let mut command = self.command(Some(&log));
        command.args([action, "--detach", "--pid-file"]).arg(&pid);
        if let Some(console) = &io.console {
            command.arg("--console-socket").arg(console);
        }
        finish(&mut command);
        command.stdin(io.stdin).stdout(io.stdout).stderr(io.stderr);
        let status = command
            .status()
            .map_err(ContainerError::file("execute", &self.program))?;
        if !status.success() {
            let message = last_message(&log).unwrap_or_else(|| status.to_string());
            return Err(self.error(action, message));
        }
        let text = fs::read_to_string(&pid).map_err(ContainerError::file("read", &pid))?;
        let number = text.trim().parse().ok().and_then(Pid::from_raw);
        number.ok_or_else(|| self.error(action, format!("no process id: {:?}", text.trim())))
    }

    fn quiet(&self, action: &'static str, arguments: &[&str]) -> Result<(), ContainerError> {
        let mut command = self.command(None);
        let output = command
            .arg(action)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(ContainerError::file("execute", &self.program))?;
        if output.status.success() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(self.error(action, message))
    }

    fn error(&self, action: &'static str, message: String) -> ContainerError {
        let name = self.program.file_name().unwrap_or_default();
        ContainerError::Runtime {
            runtime: name.to_string_lossy().into_owned(),
            action,
            message,
        }
    }
}

impl Runtime for RuncLike {
    fn run(&self, id: &ContainerId, bundle: &Path, io: ProcessIo) -> Result<Pid, ContainerError> {
        let result = self.start("run", bundle, io, |command| {
            command.arg("--bundle").arg(bundle).arg(id.as_str());
        });
        result.map_err(|error| blame(error, &bundle.join("config.json"), "/process/args/0"))
    }

    fn exec(&self, id: &ContainerId, process: &Path, io: ProcessIo) -> Result<Pid, ContainerError> {
        let dir = process.parent().unwrap_or(Path::new("/"));
        let result = self.start("exec", dir, io, |command| {
            command.arg("--process").arg(process).arg(id.as_str());
        });
        result.map_err(|error| blame(error, process, "/args/0"))
    }

    fn kill(&self, id: &ContainerId, signal: Signal) -> Result<(), ContainerError> {
        self.quiet("kill", &[id.as_str(), &signal.number().to_string()])
    }

    fn delete(&self, id: &ContainerId) -> Result<(), ContainerError> {
        if !self.root.join(id.as_str()).exists() {
            return Ok(());
        }
        self.quiet("delete", &["--force", id.as_str()])
    }
}

/// Tells errors of the program to be run from those of the runtime. Runtimes say so in words only.
fn blame(error: ContainerError, document: &Path, program: &str) -> ContainerError {
    let ContainerError::Runtime { message, .. } = &error else {
        return error;
    };
    let text = message.to_ascii_lowercase();
    let about_program = ["executable", "exec:", "exec ", "execve"]
        .iter()
        .any(|word| text.contains(word));
    if !about_program {
        return error;
    }
    let document: Option<serde_json::Value> = fs::read(document)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    let program = document
        .as_ref()
        .and_then(|document| document.pointer(program)?.as_str())
        .unwrap_or_default()
        .to_owned();
    let message = message.clone();
    if text.contains("not found") || text.contains("no such file") {
        return ContainerError::NotFound { program, message };
    }
    let not_executable = [
        "permission denied",
        "not permitted",
        "exec format error",
        "is a directory",
    ];
    if not_executable.iter().any(|words| text.contains(words)) {
        return ContainerError::NotExecutable { program, message };
    }
    error
}

/// One line of a runtime's log.
#[derive(Debug, Deserialize)]
struct LogLine {
    msg: String,
}

/// The last thing a runtime wrote to its log, without its own file and line.
fn last_message(log: &Path) -> Option<String> {
    let text = fs::read_to_string(log).ok()?;
    let line = text.lines().rfind(|line| !line.is_empty())?;
    let parsed: Result<LogLine, _> = serde_json::from_str(line);
    Some(parsed.map_or_else(|_| line.to_owned(), |line| line.msg))
}

/// Whether the version 2 hierarchy of a hybrid layout has controllers. crun refuses to run then,
/// although it would not use them; in a mount namespace without that hierarchy it does run. (Who
/// mounts those controllers in version 1, as systemd does, saves the 3 ms that this takes.)
fn has_unified_controllers() -> bool {
    fs::read_to_string(Path::new(UNIFIED).join("cgroup.controllers"))
        .is_ok_and(|controllers| !controllers.trim().is_empty())
}

fn in_path(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}
