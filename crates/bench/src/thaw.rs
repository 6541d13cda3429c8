//! Ourselves, in three ways: by a full pull, lazily with nothing recorded, lazily with a recorded
//! working set.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Result, ensure};
use thaw_testkit::process;
use thaw_testkit::thaw::Thaw as Program;

use crate::contender::{Contender, Node};

const CONTAINER: &str = "bench";

/// How the image gets here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// All of it, before the start.
    Full,
    /// What is read, with no more than `thaw accelerate` finds without starting anything.
    Lazy,
    /// What is read, with what one observed start read streamed ahead.
    Recorded,
}

/// `thaw`, in one way.
#[derive(Debug)]
pub(crate) struct Thaw(pub(crate) Way);

impl Way {
    /// The working set's profile.
    fn profile(self) -> &'static str {
        match self {
            Self::Full => "none",
            Self::Lazy => "default",
            Self::Recorded => "recorded",
        }
    }
}

impl Contender for Thaw {
    fn name(&self) -> &'static str {
        match self.0 {
            Way::Full => "thaw full",
            Way::Lazy => "thaw lazy",
            Way::Recorded => "thaw recorded",
        }
    }

    fn prepare(&mut self, reference: &str) -> Result<()> {
        let mut args = vec!["accelerate", "--profile", self.0.profile()];
        match self.0 {
            Way::Full => return Ok(()),
            Way::Lazy => {}
            Way::Recorded => args.extend(["--record", "--ready", "http://:8080/", "--net", "host"]),
        }
        args.push(reference);
        let anywhere = Program::new(binary()?)?;
        anywhere.run(plain(reference).into_iter().chain(args))?;
        anywhere.end()
    }

    fn node(&self, disk: &Path) -> Result<Box<dyn Node>> {
        let program = Program::at(binary()?, disk.join("store"));
        Ok(Box::new(ThawNode {
            program,
            way: self.0,
            running: false,
        }))
    }
}

/// A store of its own.
#[derive(Debug)]
pub(crate) struct ThawNode {
    program: Program,
    way: Way,
    running: bool,
}

impl ThawNode {
    fn thaw(&self, reference: &str, args: &[&str]) -> Result<()> {
        let words = plain(reference).into_iter().chain(args.iter().copied());
        // The monitor keeps standard streams open: they must not be pipes that we wait for.
        let mut command = self.program.command(words);
        let status = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "thaw {} failed: {status}", args.join(" "));
        Ok(())
    }
}

impl Node for ThawNode {
    fn ready(&mut self, reference: &str) -> Result<()> {
        self.thaw(reference, &["--quiet", "images"])
    }

    fn pull(&mut self, reference: &str) -> Result<()> {
        match self.way {
            Way::Full => self.thaw(reference, &["--quiet", "pull", reference]),
            Way::Lazy | Way::Recorded => Ok(()),
        }
    }

    fn run(&mut self, reference: &str, port: u16) -> Result<()> {
        self.running = true;
        let (port, pull) = match self.way {
            Way::Full => (format!("PORT={port}"), "full"),
            Way::Lazy | Way::Recorded => (format!("PORT={port}"), "lazy"),
        };
        let profile = self.way.profile();
        let how = [
            "--quiet", "run", "--detach", "--name", CONTAINER, "--net", "host",
        ];
        let what = [
            "--env",
            &port,
            "--pull",
            pull,
            "--profile",
            profile,
            reference,
        ];
        self.thaw(reference, &[&how[..], &what[..]].concat())
    }

    fn stop(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.running) {
            return Ok(());
        }
        process::run(&mut self.program.command(["rm", "--force", CONTAINER])).map(drop)
    }
}

impl Drop for ThawNode {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// The program beside this one.
pub(crate) fn binary() -> Result<PathBuf> {
    let own: PathBuf = std::env::current_exe()?;
    let binary = own.with_file_name("thaw");
    ensure!(
        binary.is_file(),
        "{} is not built; use cargo xtask bench",
        binary.display()
    );
    Ok(binary)
}

/// The flag that lets the bench's registry be spoken to without TLS.
pub(crate) fn plain(reference: &str) -> [&str; 2] {
    let host = reference.split('/').next().unwrap_or_default();
    ["--plain-http", host]
}
