//! The workspace's own commands, run as `cargo xtask COMMAND`.
//!
//! | command | does |
//! |---|---|
//! | `setup` | installs the Debian packages that tests, demo and bench run |
//! | `test` | setup, then everything that must hold before a change lands |
//! | `demo` | a real image from a real registry, started cold by full pull and by thaw |
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

  setup          install what tests, demo and bench need (Debian packages; as root)
  test           setup, format, lints, architecture, build, tests, documentation, licences
  demo           start a real image cold by full pull and by thaw, side by side
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
        "demo" => bench("demo", &rest),
        "bench" => bench("compare", &rest),
        "fmt" => command::run(cargo().args(["fmt", "--all"])),
        "" | "help" | "-h" | "--help" => {
            println!("{USAGE}");
            Ok(())
        }
        other => bail!("no command {other:?}\n{USAGE}"),
    }
}

/// Demo and bench measure the release build, through the bench crate's own program.
fn bench(subcommand: &str, args: &[String]) -> Result<()> {
    setup::run()?;
    command::run(cargo().args(["build", "--release", "--locked", "-p", "thaw"]))?;
    command::run(
        cargo()
            .args(["run", "--release", "--locked", "--quiet"])
            .args(["-p", "thaw-bench", "--", subcommand])
            .args(args),
    )
}
