//! Readers of containers, by whom every byte is compared and every call timed. One that does not return
//! is told of, and not waited for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{BOUND, FILES};

/// What one call reads: a page.
const PIECE: usize = 4 << 10;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What was seen, by all readers.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) bytes: AtomicU64,
    pub(crate) errors: AtomicU64,
    /// Milliseconds of the call that took longest.
    pub(crate) longest: AtomicU64,
}

/// One of a container.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    pub(crate) container: &'static str,
    pub(crate) root: PathBuf,
    /// What must be read.
    pub(crate) files: Arc<BTreeMap<String, Vec<u8>>>,
    pub(crate) seen: Arc<Seen>,
    /// No call may take longer.
    pub(crate) limit: Duration,
    /// There is peace, or no use in going on.
    pub(crate) over: Arc<AtomicBool>,
    /// What is being read, and since when; each thread has its own.
    pub(crate) call: Arc<Mutex<Option<(String, Instant)>>>,
}

impl Reader {
    /// One call, timed.
    fn call<T>(&self, name: &str, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let begin = Instant::now();
        *self.call.lock().unwrap() = Some((name.to_owned(), begin));
        let result = call();
        *self.call.lock().unwrap() = None;
        self.check(name, begin);
        let took = u64::try_from(begin.elapsed().as_millis()).unwrap();
        self.seen.longest.fetch_max(took, Ordering::SeqCst);
        result
    }

    fn check(&self, name: &str, since: Instant) {
        let (took, limit, container) = (since.elapsed(), self.limit, self.container);
        assert!(
            took < limit,
            "a read of {name} in container {container} has taken {took:?}: more than {limit:?}"
        );
    }

    /// All of a file.
    fn read(&self, name: &str) -> io::Result<()> {
        let container = self.container;
        let mut rest = self.files[name].as_slice();
        let mut file = self.call(name, || File::open(self.root.join(name)))?;
        let mut piece = [0; PIECE];
        loop {
            let len = self.call(name, || file.read(&mut piece))?;
            if len == 0 {
                assert!(rest.is_empty(), "{name} of {container} ends too soon");
                return Ok(());
            }
            let right = rest.split_off(..len);
            assert!(
                right == Some(&piece[..len]),
                "wrong bytes in {name} of {container}"
            );
            self.seen.bytes.fetch_add(len as u64, Ordering::SeqCst);
        }
    }

    /// Whether a file could be read; counts where it could not.
    fn is_read(&self, name: &str) -> bool {
        let Err(error) = self.read(name) else {
            return true;
        };
        let allowed = [Some(EIO), Some(ENOSPC)];
        assert!(allowed.contains(&error.raw_os_error()), "{name}: {error}");
        self.seen.errors.fetch_add(1, Ordering::SeqCst);
        false
    }

    /// What is read in the midst of trouble, and what is left for later: a layer that is whole has nothing
    /// to fetch, and nothing of it is given back. The first half is left: what is behind is fetched ahead.
    fn halves(&self) -> (Vec<&String>, Vec<&String>) {
        let number = |name: &str| name.rsplit('-').next().unwrap().parse::<usize>().unwrap();
        self.files
            .keys()
            .partition(|name| number(name) >= FILES / 2)
    }

    /// Reads files in another order each time, until it is over.
    pub(crate) fn read_on(&self, mut turn: usize) {
        let (names, _) = self.halves();
        loop {
            for step in 0..names.len() {
                if self.over.load(Ordering::SeqCst) {
                    return;
                }
                self.is_read(names[(step * 5 + turn) % names.len()]);
            }
            turn += 7;
        }
    }

    /// Reads what was left for later, until something of it cannot be read; whether that was so.
    pub(crate) fn misses(&self) -> bool {
        let (_, names) = self.halves();
        !names.into_iter().all(|name| self.is_read(name))
    }

    /// Reads all there is, in peace. Then everything can be read, but not at once.
    pub(crate) fn read_all(&self) {
        for name in self.files.keys() {
            let begin = Instant::now();
            while let Err(error) = self.read(name) {
                assert!(begin.elapsed() < BOUND, "{name}: {error} after peace");
                thread::sleep(Duration::from_millis(50));
            }
            assert!(begin.elapsed() < BOUND, "{name} took too long in peace");
        }
    }
}

/// A thread that reads. It is no scope's: one that does not come back must not be waited for.
#[derive(Debug)]
pub(crate) struct Reading<T> {
    reader: Reader,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Reading<T> {
    pub(crate) fn begin(reader: &Reader, read: impl FnOnce(&Reader) -> T + Send + 'static) -> Self {
        let call = Arc::default();
        let reader = Reader {
            call,
            ..reader.clone()
        };
        let its = reader.clone();
        let thread = thread::spawn(move || read(&its));
        Self { reader, thread }
    }

    /// Fails where a call has not returned in time.
    pub(crate) fn watch(&self) {
        let call = self.reader.call.lock().unwrap().clone();
        if let Some((name, since)) = call {
            self.reader.check(&name, since);
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Fails as it has.
    pub(crate) fn end(self) -> T {
        self.thread
            .join()
            .unwrap_or_else(|panic| resume_unwind(panic))
    }
}
