//! `cargo xtask guest`: the program on other kernels than this machine's, in small virtual machines.
//!
//! ```text
//! Debian's kernel package ─▶ vmlinuz, modules ─▶ initramfs ─┐
//! thaw, crun, busybox, test images ─────────────▶ ext4 disk ─┴▶ qemu ─▶ serial console ─▶ checks
//! ```
//!
//! A guest starts images by whatever way its kernel takes, gives its space back, and runs functions:
//! `guest/steps.sh`. Where images start lazily another one has systemd keep the daemon:
//! `guest/systemd.sh`. What they print is held against what must be. Packages are unpacked below `target/guest`, never installed,
//! but for qemu itself. With `/dev/kvm` a guest takes some ten seconds.

mod kernel;
mod machine;
mod root;
mod systemd;

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::command;
use crate::setup;
use kernel::Kernel;
use machine::Guest;

/// Kernels of Debian 12: its own, and the newer one.
const DEFAULT: [&str; 2] = ["linux-image-amd64", "linux-image-6.12-amd64"];

/// What must be in the output of a step, and what must not.
struct Expected {
    step: &'static str,
    there: &'static [&'static str],
}

/// Of the function host.
const FUNCTIONS: Expected = Expected {
    step: "functions",
    there: &[
        "it answers",
        "1 frozen",
        "it goes on",
        "ran out of memory",
        "another answers",
        "code 0",
        "0 mounts",
        "0 groups",
    ],
};

const EXPECTED: [Expected; 8] = [
    Expected {
        step: "run",
        there: &["read from the second layer", "code 0"],
    },
    Expected {
        step: "run again",
        there: &["read from the second layer", "code 0"],
    },
    Expected {
        step: "detached",
        there: &["from inside", "running", "full", "code 0"],
    },
    Expected {
        step: "many layers",
        there: &["layer 127", "129 names", "code 0"],
    },
    Expected {
        step: "implied parents",
        there: &["700 5:6", "1 names", "code 0"],
    },
    Expected {
        step: "links across layers",
        there: &["from the first layer", "3 links", "code 0"],
    },
    Expected {
        step: "accelerate",
        there: &["working set", "code 0"],
    },
    Expected {
        step: "gc",
        there: &["gave back", "code 0", "0 left", "0 mounts"],
    },
];

/// Boots a guest for each kernel: names of Debian packages, or files that hold one.
pub(crate) fn run(kernels: &[String]) -> Result<()> {
    setup::run_with(&setup::GUEST)?;
    let kernels: Vec<&str> = match kernels.is_empty() {
        true => DEFAULT.to_vec(),
        false => kernels.iter().map(String::as_str).collect(),
    };
    let dir = command::root().join("target/guest");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let disk = root::disk(&dir)?;
    let mut summary = String::new();
    for name in kernels {
        let kernel = Kernel::get(name, &dir)?;
        let guest = Guest {
            kernel: &kernel,
            disk: &disk,
            dir: &dir,
        };
        let way = guest.boot("steps", "", check)?;
        summary.push_str(&format!("  Linux {}: {way}\n", kernel.version));
        if way.contains("lazily") {
            guest.boot("systemd", systemd::ARGUMENTS, systemd::check)?;
            summary.push_str("    and by systemd's units\n");
        }
    }
    println!("guest: all steps went as they must\n{summary}");
    Ok(())
}

/// The ways that a guest takes one after the other: that of its kernel, and the one that all have.
const WAYS: [&str; 2] = ["auto", "directories"];

/// Holds what a guest said against what it must say. Answers with how images start there.
fn check(said: &str) -> Result<String> {
    let doctor = section(said, "doctor").context("it did not get to its first step")?;
    let way = doctor.lines().find(|line| line.starts_with("images "));
    let way = way.context("doctor does not say how images start")?;
    for way in WAYS {
        for Expected { step, there } in &EXPECTED {
            hold(said, &format!("{way}: {step}"), there)?;
        }
    }
    hold(said, FUNCTIONS.step, FUNCTIONS.there)?;
    // A start is lazy where doctor says so, and by directories it is none.
    let lazy = ("read from the second layer", "ended with 0");
    let refused = ("leave out --pull lazy", "ended with 125");
    let starts_lazily = way.contains("lazily");
    if starts_lazily {
        dead_keeper(section(said, "dead keeper").context("it did not get to \"dead keeper\"")?)?;
    }
    for (step, is_lazy) in [("auto: lazy", starts_lazily), ("directories: lazy", false)] {
        let said = section(said, step).unwrap_or_default();
        let wanted = if is_lazy { lazy } else { refused };
        ensure!(
            said.contains(wanted.0) && said.contains(wanted.1),
            "{step}: not as doctor says:\n{said}"
        );
    }
    let ran = section(said, "directories: run").unwrap_or_default();
    ensure!(
        ran.contains("unpacked into directories"),
        "not by directories:\n{ran}"
    );
    ensure!(section(said, "end").is_some(), "it did not get to its end");
    Ok(way.to_owned())
}

/// Whether all of `there` was said in the step.
fn hold(said: &str, step: &str, there: &[&str]) -> Result<()> {
    let said = section(said, step).with_context(|| format!("it did not get to {step:?}"))?;
    for wanted in there {
        ensure!(
            said.contains(wanted),
            "{step}: {wanted:?} is not in\n{said}"
        );
    }
    Ok(())
}

/// What the dead keeper had is asked again where the kernel can, and refused where it cannot (before
/// Linux 6.9): then the reader may fail, and it may not, for the kernel reads ahead. It ends at any
/// rate, and what is read later is right.
fn dead_keeper(said: &str) -> Result<()> {
    let comes_again = said.contains("its waiting reads come again") && said.contains("reader 0");
    let was_denied = ["reader 0", "reader 1"].iter().any(|it| said.contains(it))
        && said.contains("its waiting reads were denied")
        && !said.contains("denied=0");
    ensure!(
        (comes_again || was_denied) && said.contains("read again: 0") && said.contains("code 0"),
        "dead keeper: the reads did not end as they must:\n{said}"
    );
    Ok(())
}

/// What was printed in a step: between its line and that of the next.
fn section<'a>(said: &'a str, step: &str) -> Option<&'a str> {
    let (_, rest) = said.split_once(&format!("== {step}\n"))?;
    Some(
        rest.split_once("\n== ")
            .map_or(rest, |(section, _)| section),
    )
}

/// A program's standard output.
fn output(program: &mut std::process::Command) -> Result<String> {
    let text = command::text(program);
    let output = program
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {text}"))?;
    ensure!(output.status.success(), "{text} failed: {}", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("{text} printed what is no text"))
}

/// Makes a directory anew.
fn fresh(dir: &Path) -> Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("cannot empty {}", dir.display()))?;
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_apart() {
        let said = "boot\n== doctor\nimages start lazily\n== auto: run\nx\ncode 0\n== end\n";
        assert_eq!(section(said, "auto: run"), Some("x\ncode 0"));
        assert_eq!(section(said, "gc"), None);
        assert!(check(said).unwrap_err().to_string().contains("\"read from"));
    }
}
