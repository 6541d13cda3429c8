//! Miri and AddressSanitizer, over what they can run.
//!
//! `unsafe` lives in `sys` alone. Miri runs what there makes no system call (the layout of FUSE's
//! messages), and the encodings of `image`; the rest of `sys`, and `mount` on it, is system calls, which
//! AddressSanitizer watches from outside. Each of the two has to find a mistake that is made on purpose
//! before what it does not find means anything.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::command::{has_component, nightly, root, text};

/// A read one byte behind an allocation.
const MISTAKE: &str = include_str!("../../sys/sanitize/mistake.rs");

/// What Miri runs: a package, and words of the names of its tests. Not those that hash much, which take
/// minutes each.
const MIRI: [(&str, &[&str]); 2] = [
    (
        "thaw-image",
        &["extent", "finds_the_chunks", "lies_are", "runs_outside"],
    ),
    ("thaw-sys", &["fuse", "malformed"]),
];

/// Packages whose tests run with AddressSanitizer.
const ADDRESS: [&str; 2] = ["thaw-sys", "thaw-mount"];

/// Runs both; what the toolchain lacks is said, and is a failure.
pub(crate) fn run() -> Result<()> {
    let mut lacking = Vec::new();
    match has_component("miri")? {
        true => miri()?,
        false => lacking.push("miri (rustup component add --toolchain nightly miri rust-src)"),
    }
    address()?;
    if !lacking.is_empty() {
        bail!(
            "not run, because the nightly toolchain lacks it: {}",
            lacking.join(", ")
        );
    }
    println!(
        "sanitize: Miri and AddressSanitizer find nothing, and found what was wrong on purpose"
    );
    Ok(())
}

fn miri() -> Result<()> {
    let dir = mistake()?;
    let mut wrong = nightly()?;
    wrong.args(["miri", "run", "--quiet"]).current_dir(&dir);
    finds(&mut wrong, &target("miri"), "Undefined Behavior")?;
    for (package, tests) in MIRI {
        let mut miri = nightly()?;
        miri.args(["miri", "test", "--locked", "--lib", "-p", package, "--"]);
        miri.args(tests).env("CARGO_TARGET_DIR", target("miri"));
        // Property tests look for the file of earlier failures, and are slow: a few cases each.
        miri.env("MIRIFLAGS", "-Zmiri-disable-isolation");
        run_tests(miri.env("PROPTEST_CASES", "4"), tests)?;
    }
    Ok(())
}

fn address() -> Result<()> {
    let dir = mistake()?;
    let flags = "-Zsanitizer=address";
    let mut wrong = nightly()?;
    wrong.args(["run", "--quiet"]).current_dir(&dir);
    wrong.env("RUSTFLAGS", flags);
    finds(&mut wrong, &target("asan"), "heap-buffer-overflow")?;
    // With a target that is named, build scripts and macros are not instrumented.
    let host = crate::fuzz::host()?;
    for package in ADDRESS {
        let mut test = nightly()?;
        test.args(["test", "--locked", "--lib", "--tests", "--target", &host]);
        test.args(["-p", package]);
        test.env("CARGO_TARGET_DIR", target("asan"));
        run_tests(test.env("RUSTFLAGS", flags), &[])?;
    }
    Ok(())
}

/// Runs tests; fails where there are none, or none for one of `words`: a word that no name has any more would
/// be no failure of cargo's.
fn run_tests(command: &mut Command, words: &[&str]) -> Result<()> {
    let text = text(command);
    println!("$ {text}");
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("it was asked for")?;
    let mut said = String::new();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        said += &line;
        said.push('\n');
    }
    let status = child.wait()?;
    ensure!(status.success(), "{text} failed: {status}");
    let passed = passed(&said);
    ensure!(!passed.is_empty(), "{text} has run no test");
    for word in words {
        let is_named = passed.iter().any(|name| name.contains(word));
        ensure!(is_named, "{text} has run no test that {word:?} names");
    }
    Ok(())
}

/// The names of the tests that have passed, as the harness tells of them.
fn passed(said: &str) -> Vec<&str> {
    said.lines()
        .filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... ok"))
        .collect()
}

fn target(name: &str) -> PathBuf {
    root().join("target").join(name)
}

/// A package that is wrong.
fn mistake() -> Result<PathBuf> {
    let dir = target("mistake");
    fs::create_dir_all(dir.join("src"))?;
    let package = "[package]\nname = \"mistake\"\nedition = \"2024\"\n\n[workspace]\n";
    fs::write(dir.join("Cargo.toml"), package)?;
    fs::write(dir.join("src/main.rs"), MISTAKE)?;
    Ok(dir)
}

/// Runs what is wrong, and fails unless that is found.
fn finds(wrong: &mut Command, target: &Path, words: &str) -> Result<()> {
    println!("$ {}", text(wrong));
    let output = wrong.env("CARGO_TARGET_DIR", target).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && said.contains(words),
        "a read behind an allocation is not found:\n{said}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_passed_are_told_from_those_that_did_not_run() {
        let said = "
running 4 tests
test fuse::abi::tests::the_layout_is_the_kernels ... ok
test fuse::tests::slow ... ignored
test fuse::tests::wrong ... FAILED
test malformed - should panic ... ok

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 60 filtered out; finished in 0.01s
";
        let names = [
            "fuse::abi::tests::the_layout_is_the_kernels",
            "malformed - should panic",
        ];
        assert_eq!(passed(said), names);
        let none = "
running 0 tests

test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 64 filtered out; finished in 0.00s
";
        assert!(passed(none).is_empty());
    }

    #[test]
    fn a_run_without_tests_is_a_failure() {
        let run = |line: &str, words: &[&str]| {
            let mut harness = Command::new("echo");
            run_tests(harness.arg(line), words)
        };
        run("test fuse::one ... ok", &[]).unwrap();
        run("test fuse::one ... ok", &["fuse"]).unwrap();
        let error = run("test fuse::one ... ok", &["fuse", "gone"]).unwrap_err();
        assert!(
            error.to_string().ends_with(r#"no test that "gone" names"#),
            "{error}"
        );
        let error = run("running 0 tests", &[]).unwrap_err();
        assert!(error.to_string().ends_with("has run no test"), "{error}");
        let mut failing = Command::new("false");
        assert!(run_tests(&mut failing, &[]).is_err());
    }
}
