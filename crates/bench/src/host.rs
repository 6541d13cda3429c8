//! A function host for the demo and the bench: `thaw serve` with a store of its own.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use thaw_testkit::http::{Answer, Request};
use thaw_testkit::thaw::Thaw;

use crate::thaw::plain;

/// For how long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// A host. Dropped, it is told to end.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) thaw: Thaw,
    process: Child,
    /// `ADDRESS:PORT`.
    pub(crate) address: String,
    log: PathBuf,
    /// From its start to its address.
    pub(crate) began: Duration,
}

impl Host {
    /// Starts one that speaks plain HTTP with the registry of `image`.
    pub(crate) fn start(thaw: Thaw, image: &str, flags: &[&str]) -> Result<Self> {
        let log = thaw.root().with_extension("serve.log");
        let mut host = Self {
            process: spawn(&thaw, image, flags, &log)?,
            thaw,
            address: String::new(),
            log,
            began: Duration::ZERO,
        };
        host.wait()?;
        Ok(host)
    }

    /// Ends it, and starts another one with its store.
    pub(crate) fn restart(&mut self, image: &str) -> Result<()> {
        self.end();
        self.process = spawn(&self.thaw, image, &[], &self.log)?;
        self.wait()
    }

    /// Waits until it says its address.
    fn wait(&mut self) -> Result<()> {
        let begin = Instant::now();
        loop {
            let log = std::fs::read_to_string(&self.log)?;
            let found = log.split_once("functions at http://");
            if let Some((address, _)) = found.and_then(|(_, rest)| rest.split_once('\n')) {
                address.clone_into(&mut self.address);
                self.began = begin.elapsed();
                return Ok(());
            }
            ensure!(begin.elapsed() < PATIENCE, "the host does not begin: {log}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn end(&mut self) {
        if let Some(pid) = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw)
        {
            kill_process(pid, Signal::TERM).ok();
        }
        self.process.wait().ok();
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// A request; its answer whatever that is.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer> {
        let request = Request {
            method,
            host: &self.address,
            path,
            headers,
        };
        request.send(&mut io::Cursor::new(body), body.len() as u64, PATIENCE)
    }

    /// A call of the API, which has to be a success.
    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let answer = self.ask(method, path, &[], body.to_string().as_bytes())?;
        let text = String::from_utf8_lossy(&answer.body);
        ensure!(
            answer.status < 300,
            "{method} {path}: {} {text}",
            answer.status
        );
        match answer.body.is_empty() {
            true => Ok(Value::Null),
            false => serde_json::from_slice(&answer.body).context("no JSON"),
        }
    }

    /// Containers that live.
    pub(crate) fn containers(&self) -> Result<usize> {
        let listed: Value = serde_json::from_str(&self.thaw.run(["ps", "--json"])?)?;
        Ok(listed.as_array().map_or(0, Vec::len))
    }

    /// Waits until something is so.
    pub(crate) fn until(
        &self,
        what: &str,
        mut so: impl FnMut() -> Result<bool>,
    ) -> Result<Duration> {
        let begin = Instant::now();
        while !so()? {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            ensure!(
                begin.elapsed() < PATIENCE,
                "it never came that {what}: {log}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(begin.elapsed())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end();
        std::fs::remove_file(&self.log).ok();
    }
}

fn spawn(thaw: &Thaw, image: &str, flags: &[&str], log: &Path) -> Result<Child> {
    let serve = ["serve", "--listen", "127.0.0.1:0", "--no-auth"];
    let args = plain(image).into_iter().chain(serve);
    let child = thaw
        .command(args.chain(flags.iter().copied()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(log)?)
        .spawn()?;
    Ok(child)
}
