//! Miri and AddressSanitizer, over what they can run.
//!
//! `unsafe` lives in `sys` alone. Miri runs what there makes no system call (the layout of FUSE's
//! messages), and the encodings of `image`; the rest of `sys`, and `mount` on it, is system calls, which
//! AddressSanitizer watches from outside. Each of the two has to find a mistake that is made on purpose
//! before what it does not find means anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::command::{self, has_component, nightly, root, text};

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

/// Packages whose unit tests run with AddressSanitizer.
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
        command::run(miri.env("PROPTEST_CASES", "4"))?;
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
    let mut test = nightly()?;
    // With a target that is named, build scripts and macros are not instrumented.
    test.args([
        "test",
        "--locked",
        "--lib",
        "--target",
        &crate::fuzz::host()?,
    ]);
    for package in ADDRESS {
        test.args(["-p", package]);
    }
    test.env("CARGO_TARGET_DIR", target("asan"));
    command::run(test.env("RUSTFLAGS", flags))
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
