//! The commands' side of the daemon's socket. Starts the daemon when there is none.

use std::io::ErrorKind::{
    BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, PermissionDenied, WouldBlock,
};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::net::sockopt::socket_peercred;
use serde::de::DeserializeOwned;

use crate::config::Config;
use crate::output::complain;
use crate::progress::Bars;
use crate::protocol::{Envelope, Failure, Line, MAX_LINE, Request, VERSION, reply};

/// As many daemons as may end one after the other under one request.
const TRIES: usize = 3;
/// For how long one of them may go on to end.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(10);
/// A daemon that has not begun for so long is spoken of.
const SILENCE: Duration = Duration::from_secs(5);
/// Of a thread that waits for a process.
const WAIT_STACK: usize = 64 << 10;

/// What became of a request.
enum Heard {
    /// The daemon's answer.
    Answer(serde_json::Value),
    /// The daemon is gone; whether it had begun.
    End { begun: bool },
}

/// Whether the other end is gone.
fn is_end(error: &std::io::Error) -> bool {
    matches!(error.kind(), ConnectionReset | BrokenPipe)
}

/// A store and how to reach the daemon that owns it.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    root: PathBuf,
    /// Arguments that a daemon started from here gets, besides `--root`.
    daemon_args: Vec<String>,
    /// Registries that requests from here may speak plain HTTP with.
    plain_http: Vec<String>,
    /// Where others than root ask, if anywhere.
    shared: Option<PathBuf>,
    quiet: bool,
}

impl Client {
    /// As it is configured.
    pub(crate) fn new(config: &Config, quiet: bool) -> Self {
        Self {
            root: config.root.clone(),
            daemon_args: config.daemon_args(),
            plain_http: config.plain_http.clone(),
            shared: config.socket.as_ref().map(|socket| socket.path.clone()),
            quiet,
        }
    }

    /// The directory of the store.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Asks, and starts a daemon first when there is none.
    pub(crate) fn ask<T: DeserializeOwned>(&self, request: Request) -> anyhow::Result<T> {
        let there = || match self.connect()? {
            Some(stream) => Ok(Some(stream)),
            None => self.start_daemon().map(Some),
        };
        let answer = self.converse(request, there)?;
        answer.context("no daemon was started").and_then(reply)
    }

    /// Asks the daemon if there is one.
    pub(crate) fn ask_if_running<T: DeserializeOwned>(
        &self,
        request: Request,
    ) -> anyhow::Result<Option<T>> {
        let answer = self.converse(request, || self.connect())?;
        answer.map(reply).transpose()
    }

    /// Sees to it that there is a daemon.
    pub(crate) fn revive(&self) -> anyhow::Result<()> {
        if self.connect()?.is_none() {
            self.start_daemon()?;
        }
        Ok(())
    }

    /// Arguments for a process that may have to start a daemon.
    pub(crate) fn daemon_args(&self) -> &[String] {
        &self.daemon_args
    }

    /// Asks whichever daemon is there, and the next one when that ends before it has begun, or
    /// where a second time does no harm. `None` where there is no daemon.
    fn converse(
        &self,
        request: Request,
        there: impl Fn() -> anyhow::Result<Option<UnixStream>>,
    ) -> anyhow::Result<Option<serde_json::Value>> {
        let log = self.root.join("daemon.log");
        let log = log.display();
        let repeatable = request.may_be_repeated();
        let mut line = serde_json::to_vec(&Envelope {
            version: VERSION,
            plain_http: self.plain_http.clone(),
            request,
        })?;
        line.push(b'\n');
        let (begin, mut ended) = (Instant::now(), Vec::new());
        while ended.len() < TRIES && begin.elapsed() < PATIENCE {
            let Some(stream) = there()? else {
                return Ok(None);
            };
            let daemon = socket_peercred(&stream)?.pid;
            match self.exchange(stream, &line)? {
                Heard::Answer(value) => return Ok(Some(value)),
                Heard::End { begun } if begun && !repeatable => {
                    bail!("the daemon ended in the middle of the request: try again; see {log}")
                }
                // It takes connections until the last moment.
                Heard::End { .. } if ended.contains(&daemon) => thread::sleep(PAUSE),
                Heard::End { .. } => ended.push(daemon),
            }
        }
        bail!(
            "{} daemons, one after the other, ended before they answered; see {log}",
            ended.len()
        )
    }

    /// The daemon's socket; `None` where no daemon is.
    fn connect(&self) -> anyhow::Result<Option<UnixStream>> {
        let socket = self.root.join("thaw.sock");
        match UnixStream::connect(&socket) {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => Ok(None),
            Err(error) if error.kind() == PermissionDenied && self.shared.is_some() => {
                self.connect_shared().map(Some)
            }
            Err(error) => Err(error)
                .with_context(|| format!("cannot use {}{}", socket.display(), Self::who())),
        }
    }

    /// The socket for others than root.
    fn connect_shared(&self) -> anyhow::Result<UnixStream> {
        let path = self.shared.as_deref().unwrap_or(Path::new(""));
        UnixStream::connect(path).with_context(|| {
            format!(
                "cannot use {}: root has to start the daemon (thaw daemon), and [socket] in the configuration to let \
                 you in",
                path.display()
            )
        })
    }

    /// What to do when a file of the store may not be used.
    fn who() -> &'static str {
        if rustix::process::geteuid().is_root() {
            ""
        } else {
            " (run thaw as root, or take a store of your own with --root)"
        }
    }

    /// One request, one daemon.
    fn exchange(&self, mut stream: UnixStream, line: &[u8]) -> anyhow::Result<Heard> {
        let mut begun = false;
        match stream.write_all(line) {
            // It may have said why before it closed.
            Err(error) if is_end(&error) => {}
            written => written.context("cannot speak to the daemon")?,
        }
        stream.set_read_timeout(Some(SILENCE))?;
        let mut reader = BufReader::new(stream);
        let mut bars = Bars::new(self.quiet);
        let mut line = Vec::new();
        loop {
            match reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
                Err(error) if is_end(&error) => line.clear(),
                Err(error) if error.kind() == WouldBlock => {
                    self.speak_of_silence(reader.get_ref());
                    reader.get_ref().set_read_timeout(None)?;
                    continue;
                }
                read => drop(read.context("cannot hear the daemon")?),
            }
            if !line.ends_with(b"\n") {
                bars.clear();
                return Ok(Heard::End { begun });
            }
            match serde_json::from_slice(&line).context("the daemon's answer is malformed")? {
                Line::Begin => {
                    begun = true;
                    reader.get_ref().set_read_timeout(None)?;
                }
                Line::Progress(progress) => bars.show(&progress),
                Line::Reply(value) => {
                    bars.clear();
                    return Ok(Heard::Answer(value));
                }
                Line::Error(failure) => {
                    bars.clear();
                    return Err(Refused(failure).into());
                }
            }
            line.clear();
        }
    }

    /// The command waits, and whoever waits for it should know for whom.
    fn speak_of_silence(&self, stream: &UnixStream) {
        let daemon = socket_peercred(stream).map_or(0, |daemon| daemon.pid.as_raw_nonzero().get());
        complain(format_args!(
            "the daemon of {} (its socket is process {daemon}'s) does not answer: it is being started, is stopped, or \
             hangs. This command waits; see {} or `systemctl status thaw`, or have another one in its place: thaw daemon --replace",
            self.root.display(),
            self.root.join("daemon.log").display(),
        ));
    }

    /// Starts a daemon in the background and waits until it says that its socket is there.
    fn start_daemon(&self) -> anyhow::Result<UnixStream> {
        std::fs::create_dir_all(&self.root).with_context(|| {
            format!(
                "cannot make the store {}{}",
                self.root.display(),
                Self::who()
            )
        })?;
        let log_path = self.root.join("daemon.log");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .with_context(|| format!("cannot write {}{}", log_path.display(), Self::who()))?;
        let mut child = Command::new(program()?)
            .arg("--root")
            .arg(&self.root)
            .args(&self.daemon_args)
            .args(["daemon", "--idle", "10m"])
            .env("THAW_DAEMON_READY", "stdout")
            // What a service manager wants to hear of this command is none of the daemon's business.
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("cannot start the daemon")?;
        let mut said = String::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(4096).read_to_string(&mut said).ok();
        }
        // A monitor lives on, and is the one to hear of its end.
        let waiting = thread::Builder::new().stack_size(WAIT_STACK);
        waiting.spawn(move || child.wait()).ok();
        // Two commands may have started one each: the loser ends, and the winner's socket serves.
        for _ in 0..50 {
            if let Some(stream) = self.connect()? {
                return Ok(stream);
            }
            thread::sleep(Duration::from_millis(20));
        }
        let tail = last_line(&log_path);
        bail!(
            "the daemon did not start: {tail}; see {}",
            log_path.display()
        )
    }
}

/// This program, or the one that has taken its place: who asks may have run for long.
fn program() -> std::io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let replaced = own.to_str().and_then(|own| own.strip_suffix(" (deleted)"));
    Ok(match replaced {
        Some(path) if !own.exists() => path.into(),
        _ => own,
    })
}

fn last_line(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .last()
        .unwrap_or("it said nothing")
        .trim()
        .to_owned()
}

/// The daemon said no.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) Failure);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Refused {}
