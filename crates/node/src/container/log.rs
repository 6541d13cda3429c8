//! The log of a container: its output as lines of text, each with the time, the stream and whether
//! it is whole, in the form that Kubernetes' container runtimes write:
//!
//! ```text
//! 2026-01-02T03:04:05.678901234Z stdout F listening on :8080
//! ```
//!
//! A line over [`MAX_LINE`] bytes is written in parts (`P`, the last one `F`). When `log` would pass
//! [`MAX_FILE`] bytes it becomes `log.1`, in the place of the one before. So a container keeps at
//! most twice that. What cannot be written is lost: a full disk must not stop a container.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;

use super::state::State;
use super::{Container, ContainerError};

/// Bytes of a line, without the time and the stream, until it is written in parts.
pub const MAX_LINE: usize = 16 << 10;
/// Bytes of one log file.
pub const MAX_FILE: u64 = 16 << 20;
/// How often a follower looks for more.
const POLL: Duration = Duration::from_millis(50);

/// Where a line was written by the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output; everything, where there is a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn tag(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// One line, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written.
    pub time: Timestamp,
    /// Where.
    pub stream: Stream,
    /// Whether the line ends here.
    pub whole: bool,
    /// What was written, without the newline.
    pub text: Vec<u8>,
}

/// Which lines are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogQuery {
    /// Wait for more until the container ends.
    pub follow: bool,
    /// Only the last so many.
    pub tail: Option<usize>,
    /// Only those from then on.
    pub since: Option<Timestamp>,
}

/// Writes a container's log. Several threads may.
#[derive(Debug)]
pub(super) struct LogWriter {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: File,
    bytes: u64,
    limit: u64,
    /// Lines that have not ended yet, of both streams.
    open: [Vec<u8>; 2],
}

impl LogWriter {
    /// Appends to the log in `dir`.
    pub(super) fn open(dir: &Path) -> Result<Self, ContainerError> {
        Self::with_limit(dir, MAX_FILE)
    }

    fn with_limit(dir: &Path, limit: u64) -> Result<Self, ContainerError> {
        let path = dir.join("log");
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.map_err(ContainerError::file("open", &path))?;
        let bytes = file.metadata().map_or(0, |meta| meta.len());
        let inner = Mutex::new(Inner {
            path,
            file,
            bytes,
            limit,
            open: Default::default(),
        });
        Ok(Self { inner })
    }

    /// Takes what the container wrote, in any portions.
    pub(super) fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.take(stream, bytes);
    }

    /// Writes lines that never ended.
    pub(super) fn finish(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !inner.open_line(stream).is_empty() {
                inner.put(stream, true);
            }
        }
    }
}

impl Inner {
    fn open_line(&mut self, stream: Stream) -> &mut Vec<u8> {
        let [stdout, stderr] = &mut self.open;
        match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        }
    }

    fn take(&mut self, stream: Stream, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            for chunk in text.chunks(MAX_LINE) {
                let room = MAX_LINE.saturating_sub(self.open_line(stream).len());
                let (now, later) = chunk.split_at(room.min(chunk.len()));
                self.open_line(stream).extend_from_slice(now);
                if !later.is_empty() {
                    self.put(stream, false);
                    self.open_line(stream).extend_from_slice(later);
                }
            }
            if ends {
                self.put(stream, true);
            }
        }
    }

    /// Writes the open line of `stream`.
    fn put(&mut self, stream: Stream, whole: bool) {
        let text = std::mem::take(self.open_line(stream));
        let tag = if whole { 'F' } else { 'P' };
        let head = format!("{:.9} {} {tag} ", Timestamp::now(), stream.tag());
        let line = [head.as_bytes(), &text, b"\n"].concat();
        if self.bytes + line.len() as u64 > self.limit {
            self.rotate();
        }
        if self.file.write_all(&line).is_ok() {
            self.bytes += line.len() as u64;
        }
        *self.open_line(stream) = text;
        self.open_line(stream).clear();
    }

    fn rotate(&mut self) {
        let renamed = fs::rename(&self.path, self.path.with_extension("1"));
        let reopened = renamed.and_then(|()| File::create(&self.path));
        // Where that fails the old file goes on, beyond its bound at worst.
        if let Ok(file) = reopened {
            self.file = file;
            self.bytes = 0;
        }
    }
}

impl Container {
    /// Gives the lines of the log to `sink`, oldest first, until it breaks off.
    ///
    /// # Errors
    /// [`ContainerError::File`].
    pub fn logs(
        &self,
        query: &LogQuery,
        sink: &mut dyn FnMut(&LogLine) -> ControlFlow<()>,
    ) -> Result<(), ContainerError> {
        let live = || State::read(self.dir()).is_ok_and(|state| state.is_live());
        read(self.dir(), query, &live, sink)
            .map_err(ContainerError::file("read", &self.dir().join("log")))
    }
}

fn read(
    dir: &Path,
    query: &LogQuery,
    live: &dyn Fn() -> bool,
    sink: &mut dyn FnMut(&LogLine) -> ControlFlow<()>,
) -> io::Result<()> {
    let wanted = |line: &LogLine| query.since.is_none_or(|since| line.time >= since);
    let mut last = VecDeque::new();
    let mut follower = Follower::new(dir);
    let mut sink = |line: &LogLine| {
        if wanted(line) {
            sink(line)
        } else {
            ControlFlow::Continue(())
        }
    };
    // With a tail, what is there now is held back until its end is seen.
    let mut hold = |line: LogLine| {
        if last.len() >= query.tail.unwrap_or(0) {
            last.pop_front();
        }
        if query.tail != Some(0) {
            last.push_back(line);
        }
    };
    while let Some(line) = follower.next()? {
        match query.tail {
            Some(_) if wanted(&line) => hold(line),
            Some(_) => {}
            None if sink(&line).is_break() => return Ok(()),
            None => {}
        }
    }
    if last.iter().any(|line| sink(line).is_break()) {
        return Ok(());
    }
    if !query.follow {
        return Ok(());
    }
    loop {
        // Asked before the last look: what was written before the end is then found.
        let more = live();
        while let Some(line) = follower.next()? {
            if sink(&line).is_break() {
                return Ok(());
            }
        }
        if !more {
            return Ok(());
        }
        thread::sleep(POLL);
    }
}

/// Reads a log line by line, over rotations, from the oldest line that is there.
#[derive(Debug)]
struct Follower {
    dir: PathBuf,
    file: Option<BufReader<File>>,
    /// The one after `file`, which does not grow any more and is read to its end first.
    later: Option<BufReader<File>>,
    /// What has come of a line whose end is not written yet.
    open: Vec<u8>,
}

impl Follower {
    fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            file: None,
            later: None,
            open: Vec::new(),
        }
    }

    /// The next line; `None` where there is no more for now.
    fn next(&mut self) -> io::Result<Option<LogLine>> {
        loop {
            if let Some(line) = self.next_here()? {
                return Ok(Some(line));
            }
            if !self.go_on()? {
                return Ok(None);
            }
        }
    }

    /// Goes on when this file was read to its end: to that end again where it may have grown since, then to the later
    /// file. False where there is none yet.
    fn go_on(&mut self) -> io::Result<bool> {
        match self.later.take() {
            Some(later) => {
                self.open.clear();
                self.file = Some(later);
                return Ok(true);
            }
            None => self.later = self.later()?,
        }
        Ok(self.later.is_some())
    }

    fn next_here(&mut self) -> io::Result<Option<LogLine>> {
        let Some(file) = &mut self.file else {
            return Ok(None);
        };
        loop {
            // No line of ours is longer, so that nothing else can make us hold more.
            let room = (MAX_LINE + 256).saturating_sub(self.open.len());
            file.by_ref()
                .take(room as u64)
                .read_until(b'\n', &mut self.open)?;
            if !self.open.ends_with(b"\n") && self.open.len() < MAX_LINE + 256 {
                return Ok(None);
            }
            let line = parse(&self.open);
            self.open.clear();
            if line.is_some() {
                return Ok(line);
            }
        }
    }

    /// The file after the one that is being read. In this order, `log.1` is never older than what came before `log`: a rotation
    /// between the two looks is seen as one.
    fn later(&self) -> io::Result<Option<BufReader<File>>> {
        let log = open_if_there(&self.dir.join("log"))?;
        let before = open_if_there(&self.dir.join("log.1"))?;
        let inode = |file: &BufReader<File>| file.get_ref().metadata().map(|meta| meta.ino());
        let here = self.file.as_ref().map(inode).transpose()?;
        let is_here = |file: &Option<BufReader<File>>| match file {
            Some(file) => Ok::<_, io::Error>(here == Some(inode(file)?)),
            None => Ok(false),
        };
        Ok(match (is_here(&log)?, is_here(&before)?) {
            (true, _) => None,
            (false, true) => log,
            // Both are later: it was overtaken, or nothing was read yet.
            (false, false) => before.or(log),
        })
    }
}

fn open_if_there(path: &Path) -> io::Result<Option<BufReader<File>>> {
    match File::open(path) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse(line: &[u8]) -> Option<LogLine> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let whole = match fields.next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(LogLine {
        time,
        stream,
        whole,
        text: fields.next()?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(dir: &Path, query: &LogQuery) -> Vec<String> {
        let mut lines = Vec::new();
        read(dir, query, &|| false, &mut |line| {
            let text = String::from_utf8_lossy(&line.text);
            let end = if line.whole { "" } else { "…" };
            lines.push(format!("{} {text}{end}", line.stream.tag()));
            ControlFlow::Continue(())
        })
        .unwrap();
        lines
    }

    #[test]
    fn lines_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogWriter::open(dir.path()).unwrap();
        log.write(Stream::Stdout, b"one\ntw");
        log.write(Stream::Stderr, b"error\n");
        log.write(Stream::Stdout, b"o\n\nlast");
        log.finish();
        let lines = collect(dir.path(), &LogQuery::default());
        assert_eq!(
            lines,
            [
                "stdout one",
                "stderr error",
                "stdout two",
                "stdout ",
                "stdout last"
            ]
        );
        let tail = |tail| LogQuery {
            tail: Some(tail),
            ..Default::default()
        };
        assert_eq!(collect(dir.path(), &tail(2)), ["stdout ", "stdout last"]);
        assert_eq!(collect(dir.path(), &tail(0)), Vec::<String>::new());
        let since = LogQuery {
            since: Some(Timestamp::now()),
            ..Default::default()
        };
        assert_eq!(collect(dir.path(), &since), Vec::<String>::new());
    }

    #[test]
    fn long_lines_come_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogWriter::open(dir.path()).unwrap();
        let long = vec![b'x'; 2 * MAX_LINE + 5];
        log.write(Stream::Stdout, &long[..7]);
        log.write(Stream::Stdout, &long[7..]);
        log.write(Stream::Stdout, b"\nnext\n");
        let mut sizes = Vec::new();
        read(dir.path(), &LogQuery::default(), &|| false, &mut |line| {
            sizes.push((line.text.len(), line.whole));
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(
            sizes,
            [(MAX_LINE, false), (MAX_LINE, false), (5, true), (4, true)]
        );
    }

    #[test]
    fn two_files_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogWriter::with_limit(dir.path(), 1000).unwrap();
        for number in 0..100 {
            log.write(Stream::Stdout, format!("line {number}\n").as_bytes());
        }
        let sizes = ["log", "log.1"].map(|name| fs::metadata(dir.path().join(name)).unwrap().len());
        assert!(sizes.iter().all(|size| *size <= 1000), "{sizes:?}");
        let lines = collect(dir.path(), &LogQuery::default());
        assert_eq!(lines.last().unwrap(), "stdout line 99");
        assert!(lines.len() > 20 && lines.len() < 60, "{}", lines.len());
    }

    fn write(log: &LogWriter, line: &str) {
        log.write(Stream::Stdout, format!("{line}\n").as_bytes());
    }

    /// What comes until there is no more for now.
    fn rest(follower: &mut Follower) -> Vec<String> {
        let lines = std::iter::from_fn(|| follower.next().unwrap());
        let text = |line: LogLine| String::from_utf8(line.text).unwrap();
        lines.map(text).collect()
    }

    #[test]
    fn a_follower_sees_every_line_over_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogWriter::with_limit(dir.path(), 2000).unwrap();
        let mut follower = Follower::new(dir.path());
        for number in 0..200 {
            write(&log, &number.to_string());
            assert_eq!(rest(&mut follower), [number.to_string()]);
        }
        // Also what was written between the look at a file and that at the one after it.
        write(&log, "first");
        assert_eq!(rest(&mut follower), ["first"]);
        assert_eq!(follower.next_here().unwrap(), None);
        write(&log, "second");
        log.inner.lock().unwrap().rotate();
        write(&log, "third");
        assert!(follower.go_on().unwrap());
        assert_eq!(rest(&mut follower), ["second", "third"]);
    }

    #[test]
    fn a_follower_that_is_overtaken_goes_on_with_the_oldest_line_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogWriter::open(dir.path()).unwrap();
        let rotate = || log.inner.lock().unwrap().rotate();
        let mut follower = Follower::new(dir.path());
        write(&log, "0");
        assert_eq!(rest(&mut follower), ["0"]);
        let mut number = 0;
        for rotations in [1, 2, 3, 5, 2] {
            let first = number + 1;
            for _ in 0..rotations {
                rotate();
                number += 1;
                write(&log, &number.to_string());
            }
            // Each file has one line, and two are kept.
            let there = first.max(number - 1)..=number;
            let there: Vec<_> = there.map(|number| number.to_string()).collect();
            assert_eq!(rest(&mut follower), there, "after {rotations}");
        }
        // Nothing is skipped, either, where both files were made after the first look.
        let dir = tempfile::tempdir().unwrap();
        let mut follower = Follower::new(dir.path());
        assert_eq!(follower.next_here().unwrap(), None);
        let log = LogWriter::open(dir.path()).unwrap();
        write(&log, "before");
        log.inner.lock().unwrap().rotate();
        write(&log, "after");
        assert_eq!(rest(&mut follower), ["before", "after"]);
    }

    #[test]
    fn other_lines_are_skipped() {
        for line in [
            &b""[..],
            b"\n",
            b"x stdout F a",
            b"2026-01-01T00:00:00Z other F a",
            b"2026-01-01T00:00:00Z stdout Q a",
            b"2026-01-01T00:00:00Z stdout F",
            b"\xff\xff stdout F a",
        ] {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }
}
