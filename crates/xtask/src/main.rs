//! The workspace's own commands, run as `cargo xtask COMMAND`.
//!
//! | command | does |
//! |---|---|
//! | `setup` | installs the Debian packages that tests and bench run |
//! | `test` | setup, then everything that must hold before a change lands |
//! | `demo` | one real image, cold by a full pull and cold by thaw |
//! | `bench` | cold starts against containerd, medians as a table and as JSON |
//! | `chaos` | kills, faulty registry and full disk under readers, for minutes |
//! | `fuzz` | all fuzz targets, in turns |
//! | `sanitize` | Miri and AddressSanitizer over what they can run |
//! | `guest` | the program on other kernels, in virtual machines |
//! | `fmt` | formats the workspace |
//!
//! This is the first thing that is built on a fresh machine, so it depends on next to nothing and
//! does its work through the tools that are there: cargo, apt-get, the kernel's text files.

mod command;
mod fuzz;
mod guest;
mod leaks;
mod sanitize;
mod setup;
mod test;

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::command::{cargo, root};

const USAGE: &str = "usage: cargo xtask COMMAND

  setup          install what tests and bench need (Debian packages; as root)
  test           setup, format, lints, architecture, build, tests, documentation, licences
  demo           start one real image cold, by a full pull and by thaw, side by side
  bench [ARGS]   compare cold starts with containerd; see `cargo xtask bench --help`
  bench micro [FILE]   what a mount costs: faults, warm reads, memory, indexing
  bench functions [FILE]   what the function host adds: invocations, cold starts, memory
  chaos [--minutes N] [--seed N]   trouble of all kinds under readers that compare every byte
  fuzz [--minutes N] [NAME...]   all fuzz targets, or those whose names begin so, in turns (nightly)
  sanitize       Miri and AddressSanitizer over what they can run (nightly)
  guest [KERNEL...]    run the program on other kernels, in virtual machines: Debian packages
                 [default: linux-image-amd64 linux-image-6.12-amd64], or files of such
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
        "demo" => bench(&["demo".to_owned()]),
        "bench"
            if rest
                .first()
                .is_some_and(|word| word == "micro" || word == "functions") =>
        {
            bench(&rest)
        }
        "bench" => bench(&[&["compare".to_owned()], rest.as_slice()].concat()),
        "chaos" => chaos(&rest),
        "fuzz" => fuzz::run(&rest),
        "sanitize" => sanitize::run(),
        "guest" => guest::run(&rest),
        "fmt" => command::run(cargo().args(["fmt", "--all"])),
        "" | "help" | "-h" | "--help" => {
            println!("{USAGE}");
            Ok(())
        }
        other => bail!("no command {other:?}\n{USAGE}"),
    }
}

/// Runs the program that shows and measures, beside a release build of what it measures.
fn bench(args: &[String]) -> Result<()> {
    setup::run()?;
    let release = ["--release", "--locked"];
    let packages = ["-p", "thaw", "-p", "thaw-bench"];
    command::run(cargo().arg("build").args(release).args(packages))?;
    // Not by `cargo run`: for another choice of packages it would build everything anew.
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let program = root().join(target).join("release/thaw-bench");
    command::run(Command::new(program).args(args).current_dir(root()))
}

/// Runs the test of everything at once for as long as is asked, and shows what it counted.
fn chaos(args: &[String]) -> Result<()> {
    let mut test = cargo();
    let mut minutes: u64 = 1;
    for pair in args.chunks(2) {
        match pair {
            [flag, value] if flag == "--minutes" => {
                minutes = value.parse().context("--minutes wants a whole number")?;
            }
            [flag, value] if flag == "--seed" => {
                let seed: u64 = value.parse().context("--seed wants a whole number")?;
                test.env("THAW_CHAOS_SEED", seed.to_string());
            }
            _ => bail!("chaos takes --minutes N and --seed N\n{USAGE}"),
        }
    }
    let seconds: u64 = minutes * 60;
    setup::run()?;
    test.env("THAW_CHAOS_SECONDS", seconds.to_string());
    test.args(["test", "--workspace", "--locked", "--test", "deaths", "--"]);
    test::run_some(test.args(["--nocapture", "chaos::"]), 2)
}
