//! The `ip` program, in batches.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::container::ContainerError;

/// Runs the lines of `batch`; in a network namespace where one is named.
pub(super) fn batch(action: &str, netns: Option<&str>, batch: &str) -> Result<(), ContainerError> {
    let mut command = Command::new("ip");
    if let Some(name) = netns {
        command.args(["-netns", name]);
    }
    feed(action, command.args(["-batch", "-"]), batch)
}

/// Runs a command with `input` as its standard input.
pub(super) fn feed(action: &str, command: &mut Command, input: &str) -> Result<(), ContainerError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |message: String| ContainerError::Network {
        action: action.to_owned(),
        message,
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("{program}: {error} (is it installed?)")))?;
    // What it does not read it does not need: its exit status tells.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|error| failed(format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().next().unwrap_or_default();
    Err(failed(format!("{program}: {line}")))
}
