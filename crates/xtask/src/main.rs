//! The workspace's own commands, run as `cargo xtask COMMAND`.
//!
//! | command | does |
//! |---|---|
//! | `setup` | installs the Debian packages that tests and bench run |
//! | `test` | setup, then everything that must hold before a change lands |
//! | `demo` | one real image, cold by a full pull and cold by thaw |
//! | `bench` | cold starts against containerd, medians as a table and as JSON |
//! | `fmt` | formats the workspace |
//!
//! This is the first thing that is built on a fresh machine, so it depends on next to nothing and
//! does its work through the tools that are there: cargo, apt-get, the kernel's text files.

mod command;
mod leaks;
mod setup;
mod test;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::command::cargo;

const USAGE: &str = "usage: cargo xtask COMMAND

  setup          install what tests and bench need (Debian packages; as root)
  test           setup, format, lints, architecture, build, tests, documentation, licences
  demo           start one real image cold, by a full pull and by thaw, side by side
  bench [ARGS]   compare cold starts with containerd; see `cargo xtask bench --help`
  fmt            format the workspace";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    match command.as_str() {
        "setup" => setup::run(),
        "test" => test::run(),
        "demo" => demo(),
        "bench" => bench(&rest),
        "fmt" => command::run(cargo().args(["fmt", "--all"])),
        "" | "help" | "-h" | "--help" => {
            println!("{USAGE}");
            Ok(())
        }
        other => bail!("no command {other:?}\n{USAGE}"),
    }
}

/// Shows the main job on a real image, with a release build.
fn demo() -> Result<()> {
    setup::run()?;
    let packages = ["-p", "thaw", "-p", "thaw-bench"];
    command::run(
        cargo()
            .args(["build", "--release", "--locked"])
            .args(packages),
    )?;
    command::run(
        cargo()
            .args(["run", "--release", "--locked", "--quiet"])
            .args(["-p", "thaw-bench", "--", "demo"]),
    )
}

/// The bench measures a release build, by a program of its own.
fn bench(args: &[String]) -> Result<()> {
    setup::run()?;
    command::run(
        cargo()
            .args(["run", "--release", "--locked", "--quiet"])
            .args(["-p", "thaw-bench", "--", "compare"])
            .args(args),
    )
}
