//! Progress bars on a terminal; nothing anywhere else.

use std::collections::HashMap;
use std::io::{BufWriter, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::protocol::{Line, ProgressLine};

/// How often a part's bytes are reported.
const REPORT_EVERY: Duration = Duration::from_millis(80);

/// The bars of one command.
pub(crate) struct Bars {
    all: MultiProgress,
    parts: HashMap<String, ProgressBar>,
    status: Option<ProgressBar>,
}

impl Bars {
    /// Draws on standard error when that is a terminal and `quiet` is not asked for.
    pub(crate) fn new(quiet: bool) -> Self {
        let all = MultiProgress::new();
        if quiet || !std::io::stderr().is_terminal() {
            all.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self {
            all,
            parts: HashMap::new(),
            status: None,
        }
    }

    /// Shows one step.
    pub(crate) fn show(&mut self, line: &ProgressLine) {
        match line {
            ProgressLine::Begin { part, total } => {
                let bar = self.all.add(ProgressBar::new(total.unwrap_or(0)));
                bar.set_style(style(total.is_some()));
                bar.set_message(part.clone());
                self.parts.insert(part.clone(), bar);
            }
            ProgressLine::Advance { part, bytes } => {
                if let Some(bar) = self.parts.get(part) {
                    bar.inc(*bytes);
                }
            }
            ProgressLine::Finish { part } => {
                if let Some(bar) = self.parts.remove(part) {
                    bar.finish_and_clear();
                }
            }
            ProgressLine::Say { what } => {
                let status = self.status.get_or_insert_with(|| {
                    let bar = self.all.add(ProgressBar::new_spinner());
                    bar.enable_steady_tick(Duration::from_millis(120));
                    bar
                });
                status.set_message(what.clone());
            }
        }
    }

    /// Takes everything off the screen.
    pub(crate) fn clear(&self) {
        for bar in self.parts.values().chain(&self.status) {
            bar.finish_and_clear();
        }
    }
}

fn style(known: bool) -> ProgressStyle {
    let template = if known {
        "{msg:20!} {bar:30} {bytes:>10}/{total_bytes:10} {binary_bytes_per_sec:>12} {eta:>4}"
    } else {
        "{msg:20!} {spinner} {bytes:>10} {binary_bytes_per_sec:>12}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The daemon's side: sends progress to the command that asked. It does not fail when the command goes away;
/// the work is told, and stops where nobody else can use its end.
#[derive(Debug)]
pub(crate) struct Wire {
    state: Mutex<WireState>,
}

#[derive(Debug)]
struct WireState {
    out: BufWriter<UnixStream>,
    pending: HashMap<String, u64>,
    reported: Instant,
}

impl Wire {
    pub(crate) fn new(stream: UnixStream) -> Self {
        let out = BufWriter::new(stream);
        let state = WireState {
            out,
            pending: HashMap::new(),
            reported: Instant::now(),
        };
        Self {
            state: Mutex::new(state),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut WireState) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl WireState {
    /// Sends a line, unless the command is slow to read, or stopped: others may wait for the same work. A socket is
    /// writable while most of its buffer is free, more than a line takes.
    fn send(&mut self, line: ProgressLine) {
        if self.look_at_peer(PollFlags::OUT) != PollFlags::OUT {
            return;
        }
        if let Ok(mut bytes) = serde_json::to_vec(&Line::Progress(line)) {
            bytes.push(b'\n');
            let sent = self.out.write_all(&bytes);
            sent.and_then(|()| self.out.flush()).ok();
        }
    }

    /// What the socket is now, of `wanted` and of what is always told.
    fn look_at_peer(&self, wanted: PollFlags) -> PollFlags {
        let mut peer = [PollFd::new(self.out.get_ref(), wanted)];
        match poll(&mut peer, Some(&Timespec::default())) {
            Ok(_) => peer[0].revents(),
            Err(_) => PollFlags::empty(),
        }
    }

    fn flush_pending(&mut self) {
        for (part, bytes) in std::mem::take(&mut self.pending) {
            self.send(ProgressLine::Advance { part, bytes });
        }
        self.reported = Instant::now();
    }
}

impl thaw_image::Progress for Wire {
    fn begin(&self, part: &str, total: Option<u64>) {
        self.with(|state| {
            state.send(ProgressLine::Begin {
                part: part.to_owned(),
                total,
            })
        });
    }

    fn advance(&self, part: &str, bytes: u64) {
        self.with(|state| {
            match state.pending.get_mut(part) {
                Some(pending) => *pending += bytes,
                None => {
                    state.pending.insert(part.to_owned(), bytes);
                }
            }
            if state.reported.elapsed() >= REPORT_EVERY {
                state.flush_pending();
            }
        });
    }

    fn finish(&self, part: &str) {
        self.with(|state| {
            state.flush_pending();
            state.send(ProgressLine::Finish {
                part: part.to_owned(),
            });
        });
    }

    fn say(&self, what: &str) {
        self.with(|state| {
            state.send(ProgressLine::Say {
                what: what.to_owned(),
            })
        });
    }

    fn is_wanted(&self) -> bool {
        // Nothing is told of it as long as the other end is not closed, and not only for writing.
        self.with(|state| state.look_at_peer(PollFlags::empty()).is_empty())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{BufRead, BufReader};
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use thaw_image::Progress as _;

    use super::*;

    /// It may be stopped, and who waits for the same work is not.
    #[test]
    fn a_command_that_reads_nothing_holds_nobody_up() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let wire = Arc::new(Wire::new(ours));
        let (end, ended) = channel();
        let sender = Arc::clone(&wire);
        std::thread::spawn(move || {
            (0..50_000).for_each(|count| sender.say(&format!("step {count}")));
            end.send(()).unwrap();
        });
        let waited = ended.recv_timeout(Duration::from_secs(120));
        assert!(waited.is_ok(), "it waits for the command");
        assert!(wire.is_wanted());
        // What was sent before is whole.
        drop(wire);
        let lines = BufReader::new(&theirs).lines().map(Result::unwrap);
        let lines: Vec<Line> = lines
            .map(|line| serde_json::from_str(&line).unwrap())
            .collect();
        assert!(!lines.is_empty());
    }

    #[test]
    fn what_nobody_waits_for_is_not_wanted() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let wire = Wire::new(ours);
        assert!(wire.is_wanted());
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(wire.is_wanted(), "it listens");
        drop(theirs);
        assert!(!wire.is_wanted());
    }
}
