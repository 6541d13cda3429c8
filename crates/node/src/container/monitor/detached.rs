//! A monitor that is a process of its own.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;

use rustix::stdio::{dup2_stderr, dup2_stdout};
use serde::{Deserialize, Serialize};

use super::streams::read_all;
use super::{Revive, Started, Wanted, monitor};
use crate::container::log::LogWriter;
use crate::container::{Container, ContainerError, State};

/// What a detached monitor says to the one who started it: one JSON object on its standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Started(Started),
    Failed { message: String, code: u8 },
}

/// Starts a prepared container under a monitor of its own, and returns when it runs. `program` is
/// the command whose arguments lead to [`run_detached`] with the container's directory. The monitor
/// ends when the container has ended and that is written down: a caller that lives on has to wait
/// for it.
///
/// # Errors
/// [`ContainerError::Start`] with what the monitor says, [`ContainerError::Monitor`] when it dies.
pub fn detach(
    container: &Container,
    program: &mut Command,
) -> Result<(Started, Child), ContainerError> {
    /// More than any word that is said.
    const MAX_WORD: u64 = 1 << 20;
    let log = container.dir().join("monitor.log");
    let errors = OpenOptions::new().create(true).append(true).open(&log);
    let errors = errors.map_err(ContainerError::file("open", &log))?;
    let mut child = program
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .current_dir("/")
        .spawn()
        .map_err(ContainerError::system("start the container's monitor"))?;
    let heard = child
        .stdout
        .take()
        .map(|pipe| read_all(pipe.into(), MAX_WORD));
    let word = heard.and_then(Result::ok);
    match word.and_then(|word| serde_json::from_slice(&word).ok()) {
        Some(Word::Started(started)) => Ok((started, child)),
        Some(Word::Failed { message, code }) => {
            // It is about to end: no zombie is left to a caller that lives on.
            let _ = child.wait();
            Err(ContainerError::Start { message, code })
        }
        None => {
            let _ = child.kill();
            let _ = child.wait();
            Err(ContainerError::Monitor { log })
        }
    }
}

/// The life of a detached monitor: starts the container in `dir`, says so on standard output,
/// keeps its log until it ends, then calls `ended` with its last state. `revive` is called when its
/// image has lost daemon and keeper.
///
/// Standard error should be a file, as [`detach`] makes it.
pub fn run_detached(
    dir: &Path,
    revive: Revive,
    ended: impl FnOnce(&Container, &State),
) -> ExitCode {
    // A session of its own: no terminal's signals. It fails only where we lead one already.
    let _ = rustix::process::setsid();
    let result = supervise(dir, revive);
    if let Err(error) = &result {
        let word = Word::Failed {
            message: chain(error),
            code: error.exit_code(),
        };
        say(&word);
    }
    if let Ok(container) = Container::open(dir)
        && let Ok(state) = container.state()
    {
        ended(&container, &state);
    }
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => ExitCode::from(error.exit_code()),
    }
}

fn supervise(dir: &Path, revive: Revive) -> Result<u8, ContainerError> {
    let container = Container::open(dir)?;
    let _alone = container.alone()?;
    let state = container.state()?;
    let wanted = Wanted {
        tty: state.options.process.tty,
        stdin: false,
        output: false,
        log: Some(Arc::new(LogWriter::open(dir)?)),
    };
    monitor(&container, state, wanted, revive, |started| {
        say(&Word::Started(started.clone()));
    })
}

/// Says the one word, and closes standard output, for which the caller waits.
fn say(word: &Word) {
    if let Ok(text) = serde_json::to_vec(word) {
        let _ = io::stdout().write_all(&text);
        let _ = io::stdout().flush();
    }
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = dup2_stdout(&null);
        if rustix::termios::isatty(io::stderr()) {
            let _ = dup2_stderr(&null);
        }
    }
}

/// An error and its causes on one line.
fn chain(error: &ContainerError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
