//! Running other programs.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Runs `command` to its end and gives back what it printed.
///
/// # Errors
/// When it cannot be started or fails; the error carries its standard error.
pub fn run(command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| {
        format!("cannot start {program}; `cargo xtask setup` installs what tests need")
    })?;
    if output.status.success() {
        return Ok(output);
    }
    let arguments: Vec<_> = command
        .get_args()
        .map(|word| word.to_string_lossy())
        .collect();
    bail!(
        "{program} {} failed: {}\n{}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
}

/// Makes a program at `path`, mode 0755, that consists of `content` (a script, or a binary).
///
/// Another process writes it. Did this one, then a child that some other test forks in that moment
/// would hold the open file until its own exec, and to start the program would fail with ETXTBSY.
///
/// # Errors
/// When it cannot be written.
pub fn make_program(path: &Path, content: &[u8]) -> Result<()> {
    let mut install = Command::new("install")
        .args(["--mode=0755", "/dev/stdin"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot start install")?;
    let written = match install.stdin.take() {
        Some(mut stdin) => stdin.write_all(content),
        None => Ok(()),
    };
    let status = install.wait()?;
    written.with_context(|| format!("cannot write {}", path.display()))?;
    if !status.success() {
        bail!("cannot make the program {}: {status}", path.display());
    }
    Ok(())
}

/// A child process that is killed and waited for on drop.
#[derive(Debug)]
pub struct Killed(Child);

impl Killed {
    /// Starts `command`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| {
            format!("cannot start {program}; `cargo xtask setup` installs what tests need")
        })?;
        Ok(Self(child))
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended by itself.
    pub fn ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
