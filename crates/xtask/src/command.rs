//! Running other programs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The cargo that runs us, at the root of the workspace.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The cargo of the nightly toolchain, at the root of the workspace.
///
/// # Errors
/// Where there is none.
pub(crate) fn nightly() -> Result<Command> {
    let there = rustup(["run", "nightly", "cargo", "--version"])?.is_some();
    ensure!(
        there,
        "no nightly toolchain: rustup toolchain install nightly"
    );
    let mut command = Command::new("rustup");
    command
        .args(["run", "nightly", "cargo"])
        .current_dir(root());
    // That of the toolchain that runs us.
    command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    Ok(command)
}

/// Whether the nightly toolchain has a component.
pub(crate) fn has_component(name: &str) -> Result<bool> {
    let list = rustup(["component", "list", "--toolchain", "nightly"])?.unwrap_or_default();
    let installed = |line: &str| line.starts_with(name) && line.ends_with("(installed)");
    Ok(list.lines().any(installed))
}

/// What rustup says; `None` if that is a failure.
fn rustup<const N: usize>(args: [&str; N]) -> Result<Option<String>> {
    let output = Command::new("rustup").args(args).output();
    let output = output.context("cannot start rustup, which knows where a nightly toolchain is")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(output.status.success().then_some(said))
}

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Runs `command` to its end, with our own standard streams.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("$ {}", text(command));
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", text(command)))?;
    ensure!(status.success(), "{} failed: {status}", text(command));
    Ok(())
}

/// The command as one would type it.
pub(crate) fn text(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str());
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Where `program` is, among the directories of `PATH` and those that only root has there.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}
