//! What can go wrong with a container, and the exit code that says it.

use std::io;
use std::path::{Path, PathBuf};

use thaw_cache::FileError;

use super::parse::ParseError;

/// Why a container cannot be made, started or reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// A value in an option or in the image's configuration is no good.
    #[error(transparent)]
    Value(#[from] ParseError),
    /// A file or directory of the store, the host or the root filesystem.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A directory is not removed, or not measured.
    #[error(transparent)]
    Tree(#[from] FileError),
    /// A call that concerns no file.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A file that should be ours does not hold what it should.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        source: serde_json::Error,
    },
    /// Neither the image nor the user says what to run.
    #[error("no command: the image has neither entrypoint nor command, so give one")]
    NoCommand,
    /// No such user or group in the image.
    #[error("unknown {what} {name:?}: it is not in the image's {file}")]
    UnknownUser {
        /// `user` or `group`.
        what: &'static str,
        /// The name.
        name: String,
        /// The file that was searched.
        file: &'static str,
    },
    /// A file of the image is not what it should be.
    #[error("the image's {path} is {reason}")]
    ImageFile {
        /// Path inside the image.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The path of a `-v` is not there.
    #[error("volume source {} does not exist: make it first, or give a volume's name", .0.display())]
    VolumeMissing(PathBuf),
    /// The program is not in the container.
    #[error("{program:?} is not in the container: {message}")]
    NotFound {
        /// What should have been run.
        program: String,
        /// The runtime's words.
        message: String,
    },
    /// The program cannot be executed.
    #[error("{program:?} cannot be executed: {message}")]
    NotExecutable {
        /// What should have been run.
        program: String,
        /// The runtime's words.
        message: String,
    },
    /// No such OCI runtime is there.
    #[error("no container runtime: {0} is not in PATH; install crun or runc, or name another one")]
    NoRuntime(String),
    /// The runtime failed.
    #[error("{runtime} {action} failed: {message}")]
    Runtime {
        /// Its program.
        runtime: String,
        /// What it should have done.
        action: &'static str,
        /// Its words.
        message: String,
    },
    /// The network could not be set up.
    #[error("cannot {action}: {message}")]
    Network {
        /// What was tried.
        action: String,
        /// Why it failed.
        message: String,
    },
    /// A published port is taken.
    #[error("cannot listen on {address}")]
    Publish {
        /// The host's address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// No container has that name or id.
    #[error("no container {0:?}: `thaw ps --all` lists them")]
    Unknown(String),
    /// More than one id begins like that.
    #[error("{0:?} fits more than one container: give more of its id")]
    Ambiguous(String),
    /// Another container has that name.
    #[error("the name {name:?} is taken by container {id}: remove that one, or choose another")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        id: String,
    },
    /// It is not running.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// It is running.
    #[error("container {0} is running: stop it first, or remove it by force")]
    StillRunning(String),
    /// It does not go away.
    #[error(
        "container {0} did not end after SIGKILL: it may hang in the kernel; look at its state with ps"
    )]
    Stuck(String),
    /// The detached monitor died before it said whether the container runs.
    #[error("the container's monitor ended early: see {}", log.display())]
    Monitor {
        /// What it wrote.
        log: PathBuf,
    },
    /// Who served the container's image died before anybody else held it.
    #[error("nobody serves the container's image any more: {why}; start it again")]
    Unserved {
        /// Why there is nobody.
        why: String,
    },
    /// The detached monitor could not start the container.
    #[error("{message}")]
    Start {
        /// Its words.
        message: String,
        /// Its exit code.
        code: u8,
    },
}

impl ContainerError {
    /// The exit code of a `run` that fails with this error, as Docker has it: 127 where the
    /// program is not there, 126 where it cannot be executed, 125 for all else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            Self::Start { code, .. } => *code,
            _ => 125,
        }
    }

    /// For `map_err` on what concerns a file.
    pub(super) fn file<E: Into<io::Error>>(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            action,
            path,
            source: source.into(),
        }
    }

    /// For `map_err` on other system calls.
    pub(super) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            action,
            source: source.into(),
        }
    }
}
