//! Cold starts of real images from a real registry, compared in one run.
//!
//! A cold start begins with the command and ends with the first good HTTP answer, on a machine
//! that holds nothing of the image. For each run a contender gets a freshly made ext4 (deleting
//! big trees slows an old one for minutes), all page caches are dropped, and the registry's blobs
//! are read back into memory, because the registry's disk is not under test. The registry lies in
//! a network namespace behind a link of 1 Gbit/s with a round trip of 2 ms.
//!
//! A daemon that a node would have running is running before the clock starts.
//!
//! `micro` measures what a mount costs, on the small image; `functions` what the function host does.

mod bounds;
mod compare;
mod containerd;
mod contender;
mod demo;
mod disk;
mod functions;
mod host;
mod micro;
mod pages;
mod report;
mod thaw;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

const USAGE: &str =
    "usage: cargo xtask bench [--runs N] [--image web|ml|all] [--json FILE] [--check]

  --runs N        measured runs of each contender and image (3)
  --image NAME    web: a small web service; ml: TensorFlow, over 500 MB; all: both (all)
  --json FILE     also write every run as JSON
  --check         end with an error where a bound is missed that the project sets itself";

/// What to compare.
#[derive(Debug)]
struct Arguments {
    runs: usize,
    images: Vec<&'static str>,
    json: Option<PathBuf>,
    check: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("compare") => {}
        Some("demo") => return demo::run(),
        Some("functions") => return functions::run(words.next().map(PathBuf::from).as_deref()),
        Some("micro") => {
            let micro = micro::run("web")?;
            micro.print();
            if let Some(path) = words.next() {
                std::fs::write(&path, serde_json::to_string_pretty(&micro)?)
                    .with_context(|| format!("cannot write {path}"))?;
            }
            return Ok(());
        }
        Some(other) => bail!("no command {other:?}\n{USAGE}"),
        None => bail!("{USAGE}"),
    }
    match parse(words)? {
        Some(arguments) => compare::run(&arguments),
        None => {
            println!("{USAGE}");
            Ok(())
        }
    }
}

/// `None` when help is asked for.
fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Arguments>> {
    let mut arguments = Arguments {
        runs: 3,
        images: vec!["web", "ml"],
        json: None,
        check: false,
    };
    while let Some(word) = words.next() {
        if word == "--help" || word == "-h" {
            return Ok(None);
        }
        if word == "--check" {
            arguments.check = true;
            continue;
        }
        let value = words
            .next()
            .with_context(|| format!("{word} needs a value\n{USAGE}"))?;
        match word.as_str() {
            "--runs" => arguments.runs = value.parse().context("--runs takes a number")?,
            "--json" => arguments.json = Some(value.into()),
            "--image" => {
                arguments.images = match value.as_str() {
                    "web" => vec!["web"],
                    "ml" => vec!["ml"],
                    "all" => vec!["web", "ml"],
                    other => bail!("no image {other:?}\n{USAGE}"),
                };
            }
            other => bail!("no option {other:?}\n{USAGE}"),
        }
    }
    ensure!(arguments.runs > 0, "--runs takes a number above 0");
    Ok(Some(arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<Option<Arguments>> {
        parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_read_or_refused() {
        let arguments = words("--runs 5 --check --image ml --json out.json")
            .unwrap()
            .unwrap();
        assert_eq!((arguments.runs, arguments.images), (5, vec!["ml"]));
        assert_eq!(arguments.json, Some("out.json".into()));
        assert!(arguments.check);
        assert!(words("--help").unwrap().is_none());
        for wrong in [
            "--runs",
            "--runs 0",
            "--runs x",
            "--image none",
            "--fast yes",
        ] {
            assert!(words(wrong).is_err(), "{wrong}");
        }
    }
}
