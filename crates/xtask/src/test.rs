//! Everything that must hold before a change lands, in the order in which it fails cheapest.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::command::{self, cargo, find};
use crate::leaks::Machine;
use crate::setup;

/// Runs all of it.
pub(crate) fn run() -> Result<()> {
    let start = Instant::now();
    setup::run()?;
    command::run(cargo().args(["fmt", "--all", "--check"]))?;
    command::run(
        cargo()
            .args(["clippy", "--workspace", "--all-targets", "--locked"])
            .args(["--", "-D", "warnings"]),
    )?;
    command::run(
        cargo()
            .args(["doc", "--workspace", "--no-deps", "--locked"])
            .args(["--document-private-items"])
            // Private items are documented too, so links to them lead somewhere.
            .env(
                "RUSTDOCFLAGS",
                "-D warnings -A rustdoc::private-intra-doc-links",
            ),
    )?;
    deny()?;
    // End-to-end tests run the binary, also those that lie in other crates.
    command::run(cargo().args(["build", "--workspace", "--locked"]))?;
    let before = Machine::now();
    let counts = tests()?;
    let leaks = before.check();
    println!(
        "test: {} passed, {} failed, {} ignored in {} s",
        counts.passed,
        counts.failed,
        counts.ignored,
        start.elapsed().as_secs()
    );
    if counts.failed > 0 || !counts.complete {
        bail!("tests failed: see above");
    }
    leaks
}

fn deny() -> Result<()> {
    if find("cargo-deny").is_none() {
        println!("skipped: licences and advisories, because cargo-deny is not installed");
        return Ok(());
    }
    command::run(cargo().args(["deny", "--locked", "check", "bans", "licenses", "sources"]))
}

/// What the test programs counted.
#[derive(Debug, Default, PartialEq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Every test program came to its end without a failure.
    complete: bool,
}

fn tests() -> Result<Counts> {
    let mut command = cargo();
    // Most of a test is waiting: for links that are slow, readers that are denied, what is frozen.
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        command.env("RUST_TEST_THREADS", (3 * processors).to_string());
    }
    command.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
    println!("$ {}", command::text(&command));
    count(&mut command)
}

/// Runs a command that is to run `wanted` tests: fewer are not what they seem.
pub(crate) fn run_some(command: &mut Command, wanted: u64) -> Result<()> {
    println!("$ {}", command::text(command));
    let counts = count(command)?;
    if counts.failed > 0 || !counts.complete {
        bail!("tests failed: see above");
    }
    if counts.passed != wanted {
        bail!("{} tests passed, {wanted} were to be run", counts.passed);
    }
    Ok(())
}

/// Runs `command`, passes its output on, and adds up the `test result:` lines in it.
fn count(command: &mut Command) -> Result<Counts> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command::text(command)))?;
    let mut counts = Counts::default();
    let stdout = child.stdout.take().context("no standard output")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("cannot read what the tests print")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        counts.add(&line);
    }
    counts.complete = child.wait()?.success();
    Ok(counts)
}

impl Counts {
    /// Reads `test result: ok. 12 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        let words: Vec<&str> = result.split([' ', ';']).collect();
        for pair in words.windows(2) {
            let field = match pair[1] {
                "passed" => &mut self.passed,
                "failed" => &mut self.failed,
                "ignored" => &mut self.ignored,
                _ => continue,
            };
            *field += pair[0].parse::<u64>().unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_add_up() {
        let mut counts = Counts::default();
        counts.add("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out");
        counts.add("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured");
        counts.add("test leaks::tests::sees_what_is_there ... ok");
        let expected = Counts {
            passed: 15,
            failed: 2,
            ignored: 1,
            complete: false,
        };
        assert_eq!(counts, expected);
    }

    #[test]
    fn tests_that_are_not_there_have_not_passed() {
        let say = |passed: u64| {
            let mut says = Command::new("echo");
            says.arg(format!("test result: ok. {passed} passed; 0 failed"));
            run_some(&mut says, 2)
        };
        say(2).unwrap();
        say(0).unwrap_err();
    }

    #[test]
    fn a_program_that_dies_is_not_complete() {
        let mut dies = Command::new("sh");
        dies.args(["-c", "echo 'test result: ok. 1 passed; 0 failed'; exit 101"]);
        let counts = count(&mut dies).unwrap();
        assert_eq!((counts.passed, counts.complete), (1, false));
    }
}
