//! What instances print: read from their containers' logs while they live, and kept in one bounded file
//! for each function when they end.
//!
//! A container's log has lines as Kubernetes' runtimes write them (see
//! [`thaw_node::container::log`]); a kept line has the instance before it.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::model::FunctionName;

/// Bytes of a kept log, which becomes the older of two before it has more.
const MAX_KEPT: u64 = 4 << 20;
/// Bytes that are kept of one instance.
const MAX_OF_INSTANCE: u64 = 1 << 20;
/// Bytes of a request's log that are given back (`X-Fc-Log-Result`).
pub(crate) const TAIL: usize = 4 << 10;

/// How the marks of an invocation begin.
const BEGIN: &[u8] = b"FC Invoke Start RequestId: ";
const END: &[u8] = b"FC Invoke End RequestId: ";

/// What an invocation has printed.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) log: Vec<u8>,
    /// Whether there are marks of some invocation.
    pub(crate) marked: bool,
    /// Whether nothing more comes.
    pub(crate) whole: bool,
}

/// The part of a container's log that is written from some moment on.
#[derive(Debug)]
pub(crate) struct Tail {
    path: PathBuf,
    begin: u64,
}

impl Tail {
    /// From now on.
    pub(crate) fn begin(dir: &Path) -> Self {
        let path = dir.join("log");
        let begin = fs::metadata(&path).map_or(0, |meta| meta.len());
        Self { path, begin }
    }

    /// All of it.
    pub(crate) fn whole(dir: &Path) -> Self {
        let path = dir.join("log");
        Self { path, begin: 0 }
    }

    /// What was written since, at most the last [`TAIL`] bytes. A function that marks its invocations, as
    /// Function Compute's runtimes do, gets what lies between the marks of this one.
    pub(crate) fn read(&self, request_id: &str) -> Found {
        let text = read_from(&self.path, self.begin, 4 * TAIL as u64).unwrap_or_default();
        let mut log = Vec::new();
        let (mut marked, mut whole) = (false, false);
        for line in text.split(|byte| *byte == b'\n').filter_map(content) {
            if line.text.starts_with(BEGIN) {
                marked = true;
                if line.text.ends_with(request_id.as_bytes()) {
                    log.clear();
                }
            }
            log.extend_from_slice(line.text);
            if line.whole {
                log.push(b'\n');
            }
            if line.text.starts_with(END) && line.text.ends_with(request_id.as_bytes()) {
                whole = true;
                break;
            }
        }
        let spare = log.len().saturating_sub(TAIL);
        log.drain(..spare);
        Found { log, marked, whole }
    }
}

/// The last `most` bytes of a file behind `begin`, without the line that they begin in the midst of.
fn read_from(path: &Path, begin: u64, most: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    // One that was begun anew meanwhile is read from its beginning.
    let begin = if size < begin { 0 } else { begin };
    let from = begin.max(size.saturating_sub(most));
    file.seek(SeekFrom::Start(from))?;
    let mut text = Vec::new();
    file.take(most).read_to_end(&mut text)?;
    if from > begin {
        let rest = text.iter().position(|byte| *byte == b'\n');
        text.drain(..rest.map_or(text.len(), |end| end + 1));
    }
    Ok(text)
}

/// A line of a container's log.
struct Content<'a> {
    time: &'a [u8],
    whole: bool,
    text: &'a [u8],
}

/// `TIME STREAM F|P TEXT`.
fn content(line: &[u8]) -> Option<Content<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (time, _stream, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some(Content {
        time,
        whole: tag == b"F",
        text,
    })
}

/// The last lines of a container's log, to be put behind an error: nothing, or `: its log ends with`
/// and so on.
pub(crate) fn last_lines(dir: &Path, most: usize) -> String {
    let text = read_from(&dir.join("log"), 0, 16 << 10).unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n').filter_map(content);
    let mut last: VecDeque<String> = VecDeque::new();
    for line in lines.filter(|line| !line.text.is_empty()) {
        last.push_back(
            String::from_utf8_lossy(line.text)
                .chars()
                .take(300)
                .collect(),
        );
        if last.len() > most {
            last.pop_front();
        }
    }
    if last.is_empty() {
        return String::new();
    }
    let mut text = "; its log ends with".to_owned();
    for line in last {
        let _ = write!(text, "\n{line}");
    }
    text
}

/// The kept logs of a host.
#[derive(Debug)]
pub(crate) struct Logs {
    dir: PathBuf,
}

impl Logs {
    /// In a directory, which is made if it is missing.
    ///
    /// # Errors
    /// Those of making it.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    fn path(&self, function: &FunctionName) -> PathBuf {
        // Names have no dots.
        self.dir
            .join(format!("{}.{}.log", function.service, function.function))
    }

    /// Keeps what an instance has printed.
    pub(crate) fn keep(&self, function: &FunctionName, instance: &str, dir: &Path) {
        if let Err(error) = self.try_keep(function, instance, dir) {
            tracing::warn!(%function, instance, %error, "its log is not kept");
        }
    }

    fn try_keep(&self, function: &FunctionName, instance: &str, dir: &Path) -> io::Result<()> {
        let text = match read_from(&dir.join("log"), 0, MAX_OF_INSTANCE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            text => text?,
        };
        let text = prefixed(instance, &text);
        let path = self.path(function);
        let size = fs::metadata(&path).map_or(0, |meta| meta.len());
        if size + text.len() as u64 > MAX_KEPT && size > 0 {
            fs::rename(&path, path.with_extension("1"))?;
        }
        let mut file = File::options().create(true).append(true).open(path)?;
        file.write_all(&text)
    }

    /// Forgets what a function's instances have printed.
    pub(crate) fn forget(&self, function: &FunctionName) {
        let path = self.path(function);
        fs::remove_file(path.with_extension("1")).ok();
        fs::remove_file(path).ok();
    }

    /// The last `most` lines of a function: kept ones, and those of the containers in `live` (instance
    /// and directory), in the order of time.
    pub(crate) fn last(
        &self,
        function: &FunctionName,
        live: &[(String, PathBuf)],
        most: usize,
    ) -> Vec<String> {
        let mut lines = Vec::new();
        let kept = read_from(&self.path(function), 0, MAX_OF_INSTANCE).unwrap_or_default();
        lines.extend(kept.split(|byte| *byte == b'\n').map(to_text));
        for (instance, dir) in live {
            let text = read_from(&dir.join("log"), 0, MAX_OF_INSTANCE).unwrap_or_default();
            let text = prefixed(instance, &text);
            lines.extend(text.split(|byte| *byte == b'\n').map(to_text));
        }
        lines.retain(|line| !line.is_empty());
        // They begin with their times.
        lines.sort();
        let spare = lines.len().saturating_sub(most);
        lines.drain(..spare);
        lines
    }
}

fn to_text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).into_owned()
}

/// Lines as they are kept: `TIME INSTANCE TEXT`.
fn prefixed(instance: &str, text: &[u8]) -> Vec<u8> {
    let short: String = instance.chars().take(12).collect();
    let mut lines = Vec::with_capacity(text.len());
    let mut open = false;
    for line in text.split(|byte| *byte == b'\n').filter_map(content) {
        if !open {
            lines.extend_from_slice(line.time);
            lines.push(b' ');
            lines.extend_from_slice(short.as_bytes());
            lines.push(b' ');
        }
        lines.extend_from_slice(line.text);
        open = !line.whole;
        if line.whole {
            lines.push(b'\n');
        }
    }
    if open {
        lines.push(b'\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, text: &str) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(dir.join("log"))
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn a_tail_is_what_was_written_since() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "2026-01-01T00:00:00Z stdout F before\n");
        let tail = Tail::begin(dir.path());
        assert!(tail.read("x").log.is_empty());
        write(dir.path(), "2026-01-01T00:00:01Z stdout P half \n");
        write(dir.path(), "2026-01-01T00:00:01Z stdout F a line\n");
        write(dir.path(), "2026-01-01T00:00:02Z stderr F  b\n");
        assert_eq!(tail.read("x").log, b"half a line\n b\n");
        write(
            dir.path(),
            &format!("2026-01-01T00:00:03Z stdout F {}\n", "x".repeat(5000)),
        );
        let read = tail.read("x").log;
        assert_eq!(read.len(), TAIL);
        assert!(read.ends_with(b"x\n"));
    }

    #[test]
    fn marks_say_what_belongs_to_an_invocation() {
        let dir = tempfile::tempdir().unwrap();
        let tail = Tail::begin(dir.path());
        write(
            dir.path(),
            "T stdout F late\nT stdout F FC Invoke Start RequestId: 7\nT stdout F a\n",
        );
        let found = tail.read("7");
        assert!(found.marked && !found.whole);
        write(
            dir.path(),
            "T stdout F FC Invoke End RequestId: 7\nT stdout F later\n",
        );
        let found = tail.read("7");
        assert!(found.whole);
        let wanted = b"FC Invoke Start RequestId: 7\na\nFC Invoke End RequestId: 7\n";
        assert_eq!(found.log, wanted);
    }

    #[test]
    fn what_is_kept_of_a_function_has_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::open(dir.path().join("logs")).unwrap();
        let function = FunctionName::parse("demo/web");
        let instance = dir.path().join("a");
        fs::create_dir(&instance).unwrap();
        let line = format!("2026-01-01T00:00:00Z stdout F {}\n", "x".repeat(100));
        // More than is kept of one instance.
        write(&instance, &line.repeat(20_000));
        for number in 0..20 {
            write(
                &instance,
                &format!("2026-01-01T00:01:{number:02}Z stdout F last of {number}\n"),
            );
            logs.keep(&function, &format!("{number:016}"), &instance);
            let files = fs::read_dir(dir.path().join("logs")).unwrap().flatten();
            let sizes: Vec<u64> = files.map(|it| it.metadata().unwrap().len()).collect();
            assert!(sizes.len() <= 2, "{sizes:?}");
            assert!(sizes.iter().all(|size| *size <= MAX_KEPT), "{sizes:?}");
        }
        let lines = logs.last(&function, &[], 1);
        assert_eq!(lines, ["2026-01-01T00:01:19Z 000000000000 last of 19"]);
    }

    #[test]
    fn kept_and_live_lines_are_in_order_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::open(dir.path().join("logs")).unwrap();
        let function = FunctionName::parse("demo/web");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir(&a).unwrap();
        fs::create_dir(&b).unwrap();
        write(
            &a,
            "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:03Z stdout F three\n",
        );
        write(&b, "2026-01-01T00:00:02Z stdout F two\n");
        logs.keep(&function, "aaaaaaaaaaaaaaaa", &a);
        let live = [("b".to_owned(), b)];
        let lines = logs.last(&function, &live, 10);
        let wanted = [
            "2026-01-01T00:00:01Z aaaaaaaaaaaa one",
            "2026-01-01T00:00:02Z b two",
            "2026-01-01T00:00:03Z aaaaaaaaaaaa three",
        ];
        assert_eq!(lines, wanted);
        assert_eq!(logs.last(&function, &live, 1), wanted[2..]);
        logs.forget(&function);
        assert_eq!(logs.last(&function, &[], 10), Vec::<String>::new());
    }
}
