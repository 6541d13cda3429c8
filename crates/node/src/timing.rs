//! Where the time of a start went: named spans on one clock, printed as a waterfall.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// One step of a start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Span {
    /// What was done, in a few words.
    pub name: String,
    /// When it began, after the start's beginning.
    pub begin: Duration,
    /// How long it took.
    pub took: Duration,
}

/// Collects the spans of one start, from any thread.
#[derive(Clone, Debug)]
pub struct Timing {
    zero: Instant,
    spans: Arc<Mutex<Vec<Span>>>,
    round_trips: Arc<AtomicU64>,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            zero: Instant::now(),
            spans: Arc::default(),
            round_trips: Arc::default(),
        }
    }
}

impl Timing {
    /// Runs `work` as a span.
    pub fn span<T>(&self, name: &str, work: impl FnOnce() -> T) -> T {
        let begin = self.zero.elapsed();
        let value = work();
        self.add(name, begin, self.zero.elapsed().saturating_sub(begin));
        value
    }

    /// Adds a span that was measured elsewhere.
    pub fn add(&self, name: &str, begin: Duration, took: Duration) {
        let span = Span {
            name: name.to_owned(),
            begin,
            took,
        };
        self.spans
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(span);
    }

    /// Notes how many requests were made one after the other before the mount.
    pub(crate) fn set_round_trips(&self, round_trips: u64) {
        self.round_trips.store(round_trips, Ordering::Relaxed);
    }

    /// Requests that were made one after the other before the mount.
    pub(crate) fn round_trips(&self) -> u64 {
        self.round_trips.load(Ordering::Relaxed)
    }

    /// Time since the start's beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.zero.elapsed()
    }

    /// All spans so far as a line of the log has them.
    pub(crate) fn line(&self) -> String {
        let spans = self.spans();
        let words = spans.iter().map(|span| {
            let milliseconds = span.took.as_secs_f64() * 1e3;
            format!("{} {milliseconds:.1} ms", span.name)
        });
        words.collect::<Vec<_>>().join(", ")
    }

    /// All spans so far, by their beginning.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let mut spans = self
            .spans
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        spans.sort_by_key(|span| span.begin);
        spans
    }
}
