//! Runs the bodies of a crate's fuzz targets in its ordinary tests: over the corpus of its own writers,
//! over its seeds, and over what is a little different from either.
//!
//! ```text
//!   corpus.rs ──┐
//!               ├─▶ inputs, sorted ──┬──▶ body ── at most LIMIT and MEMORY each, no panic
//!   seeds/NAME ─┘                    └─ mutated, from a fixed seed ──▶ body
//! ```
//!
//! All of it is the same each time, so an input that fails fails again. The bodies run on a thread of
//! their own, as one that does not come back cannot be ended, only left.
//!
//! A file and not a module of `thaw-testkit`: it is included, since a dependency would bring half of the
//! workspace's to the tests of the crates at the bottom.

#[path = "memory.rs"]
mod memory;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// Longest that a body may take for an input. The slowest take some milliseconds, so what takes as long
/// as this grows faster than its input.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);
/// Most memory that a body may take for an input, beside what the program had. The largest take a quarter of
/// it, so what takes as much as this grows otherwise than its input. libFuzzer's own limit
/// (`cargo xtask fuzz`) has to have room for the instrumented program and what it remembers.
pub(crate) const MEMORY: u64 = 64 << 20;
/// As long as libFuzzer makes them, see `cargo xtask fuzz`.
const MAX_BYTES: usize = 8192;

/// What a target begins with: its name, the input's, and the input.
pub(crate) type Input = (&'static str, String, Vec<u8>);

/// A fuzz target, as a test runs it.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) body: fn(&[u8]),
    /// How often each input is mutated: less often where the body is slow.
    pub(crate) mutations: u32,
}

/// Runs all targets of the fuzz directory of the crate at `root`; that they are all is checked.
pub(crate) fn hold(root: &str, corpus: &[Input], targets: &[Target]) {
    let dir = Path::new(root).join("fuzz");
    let given: BTreeSet<&str> = targets.iter().map(|target| target.name).collect();
    let stems = files(&dir.join("fuzz_targets"));
    let stems: BTreeSet<&str> = stems
        .iter()
        .filter_map(|path| path.file_stem()?.to_str())
        .collect();
    assert_eq!(given, stems, "targets of the test and of fuzz_targets/");
    for (name, ..) in corpus {
        assert!(given.contains(name), "the corpus is for no target {name}");
    }
    for target in targets {
        let inputs = inputs(&dir, corpus, target.name);
        assert!(!inputs.is_empty(), "{} has no input", target.name);
        if let Err(failure) = run(target, inputs, LIMIT, MEMORY) {
            panic!("{}: {failure}", target.name);
        }
    }
}

/// The corpus and the seeds of a target, in order, by their names.
fn inputs(dir: &Path, corpus: &[Input], target: &str) -> Vec<(String, Vec<u8>)> {
    let own = corpus.iter().filter(|(name, ..)| *name == target);
    let own = own.map(|(_, name, bytes)| (name.clone(), bytes.clone()));
    let seeds = files(&dir.join("seeds").join(target));
    let seeds = seeds.into_iter().map(|path| {
        let bytes = fs::read(&path).expect("a seed can be read");
        (path.display().to_string(), bytes)
    });
    own.chain(seeds).collect()
}

/// The files of a directory, in order; none where there is no such directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a directory can be read").path())
        .collect();
    files.sort();
    files
}

/// Gives a target its inputs, and mutations of each; the error says which it could not take.
pub(crate) fn run(
    target: &Target,
    inputs: Vec<(String, Vec<u8>)>,
    limit: Duration,
    memory: u64,
) -> Result<(), String> {
    let (body, mutations) = (target.body, target.mutations);
    let (begins, begun) = channel();
    let start = memory::begin();
    // Says how much memory an input took, if that was too much.
    let work = move || {
        let mut random = Random(0x7468_6177);
        for (name, bytes) in &inputs {
            for number in 0..=mutations {
                let bytes = match number {
                    0 => bytes.clone(),
                    number => mutated(bytes, number, &inputs, &mut random),
                };
                // Nobody listens any more after an input that took too long.
                if begins.send((name.clone(), number, bytes.clone())).is_err() {
                    return None;
                }
                body(&bytes);
                let taken = memory::peak().saturating_sub(start);
                if taken > memory {
                    return Some(taken);
                }
            }
        }
        None
    };
    let worker = thread::Builder::new().name(target.name.to_owned());
    let worker = worker.spawn(work).expect("a thread can be started");
    let mut at = None;
    let failure = loop {
        match begun.recv_timeout(limit) {
            Ok(next) => at = Some(next),
            Err(RecvTimeoutError::Timeout) => break format!("took more than {limit:?}"),
            Err(RecvTimeoutError::Disconnected) => match worker.join() {
                Ok(None) => return Ok(()),
                Ok(Some(taken)) => break format!("took {} MiB of memory", taken >> 20),
                Err(_) => break "panicked".to_owned(),
            },
        }
    };
    let (name, number, bytes) = at.unwrap_or_default();
    let input = bytes.escape_ascii();
    Err(format!(
        "{failure} at mutation {number} of {name}: b\"{input}\""
    ))
}

/// `bytes` cut short, with bits turned, or with a piece of one of the inputs in it.
fn mutated(
    bytes: &[u8],
    number: u32,
    inputs: &[(String, Vec<u8>)],
    random: &mut Random,
) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    match number % 3 {
        0 => bytes.truncate(random.below(bytes.len())),
        1 => {
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
        _ => {
            let (_, other) = &inputs[random.below(inputs.len())];
            let from = random.below(other.len());
            let piece = &other[from..from + random.below(other.len() - from + 1)];
            let at = random.below(bytes.len() + 1);
            // In place of as many bytes, or between them.
            let end = match random.below(2) {
                0 => at,
                _ => bytes.len().min(at + piece.len()),
            };
            bytes.splice(at..end, piece.iter().copied());
        }
    }
    bytes.truncate(MAX_BYTES);
    bytes
}

/// Numbers that look random and are the same each time (xorshift64, Marsaglia 2003).
struct Random(u64);

impl Random {
    /// A number below `limit`; 0 where there is none.
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let limit = limit.max(1) as u64;
        usize::try_from(self.0 % limit).expect("less than a usize")
    }
}
