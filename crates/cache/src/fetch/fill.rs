//! Background fill: completes a layer when nothing else goes on, then checks it against its diffID.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use thaw_image::{DiffId, Extent, SeekTable};

use super::Shared;
use super::board::{Flight, Want};
use super::chunks::{self, Errand};
use super::error::FetchError;
use super::gate::Turn;
use super::origin::Attached;
use super::stats::Cause;

/// How often fill tries again after a failure, and how long it waits before.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);
/// How long fill waits for chunks that others fetch before it looks again.
const OTHERS: Duration = Duration::from_secs(30);

/// A layer that is being completed. Dropping the handle does not end it.
#[derive(Clone, Debug)]
pub struct Fill {
    state: Arc<FillState>,
}

#[derive(Debug)]
struct FillState {
    layer: DiffId,
    stop: AtomicBool,
    pause: AtomicBool,
    end: Flight,
}

impl Fill {
    pub(crate) fn new(layer: DiffId) -> Self {
        Self {
            state: Arc::new(FillState {
                layer,
                stop: AtomicBool::new(false),
                pause: AtomicBool::new(false),
                end: Flight::default(),
            }),
        }
    }

    /// The layer.
    #[must_use]
    pub fn layer(&self) -> DiffId {
        self.state.layer
    }

    /// Waits until the layer is whole and checked, or was given up; `None` when `deadline` passes
    /// before.
    #[must_use]
    pub fn wait(&self, deadline: Instant) -> Option<Result<(), FetchError>> {
        self.state.end.wait(deadline)
    }

    /// Holds it up, or lets it go on.
    pub fn pause(&self, pause: bool) {
        self.state.pause.store(pause, Ordering::Relaxed);
    }

    /// Ends it; what has come stays.
    pub fn cancel(&self) {
        self.state.stop.store(true, Ordering::Relaxed);
    }

    /// The work, on the fill thread.
    pub(crate) fn run(&self, shared: &Shared) {
        let work = std::panic::AssertUnwindSafe(|| self.complete(shared));
        let outcome = std::panic::catch_unwind(work);
        self.state
            .end
            .land(outcome.unwrap_or(Err(FetchError::Stopped)));
    }

    fn turn(&self, shared: &Shared) -> Turn {
        if self.state.stop.load(Ordering::Relaxed) || shared.is_closed() {
            Turn::Stop
        } else if self.state.pause.load(Ordering::Relaxed) {
            Turn::Pause
        } else {
            Turn::Go
        }
    }

    fn may_go(&self, shared: &Shared) -> bool {
        shared.gate.fill_may_go(&|| self.turn(shared))
    }

    fn complete(&self, shared: &Shared) -> Result<(), FetchError> {
        let mut attempt = 1;
        while let Err(error) = self.fetch_rest(shared) {
            if attempt == ATTEMPTS || matches!(error, FetchError::Stopped) {
                return Err(error);
            }
            attempt += 1;
            std::thread::sleep(PAUSE);
        }
        let layer = shared.entry(&self.state.layer)?.layer.clone();
        layer.verify_whole(&|| self.may_go(shared))?;
        Ok(layer.sync()?)
    }

    /// Fetches until no block is missing.
    fn fetch_rest(&self, shared: &Shared) -> Result<(), FetchError> {
        let mut before = None;
        loop {
            if !self.may_go(shared) {
                return Err(FetchError::Stopped);
            }
            let entry = shared.entry(&self.state.layer)?;
            let all = Extent::between(0, entry.layer.tar_size());
            let missing = entry.layer.missing(all);
            let Some(first) = missing.first() else {
                return Ok(());
            };
            entry.layer.writable()?;
            if before == Some((first.offset, missing.len())) {
                let layer = self.state.layer;
                return Err(FetchError::Incomplete {
                    layer,
                    extent: *first,
                });
            }
            before = Some((first.offset, missing.len()));
            self.fetch_some(shared, entry.first_origin(), &missing)?;
        }
    }

    /// Fetches the first absent chunks, as many as one request may have; or waits for them, where
    /// others fetch them.
    fn fetch_some(
        &self,
        shared: &Shared,
        attached: &Arc<Attached>,
        missing: &[Extent],
    ) -> Result<(), FetchError> {
        attached.load_table()?;
        let Some(table) = attached.table() else {
            return Err(FetchError::Stopped);
        };
        let numbers = first_chunks(table, missing, shared.settings.fill_bytes);
        let wants = shared.board.claim(attached, numbers.iter().copied());
        let flights: Vec<_> = wants.iter().map(Want::flight).collect();
        if flights.is_empty() {
            let until = Instant::now() + OTHERS;
            let (flights, _) = shared.board.chunks(attached, numbers, until);
            flights
                .iter()
                .try_for_each(|f| f.wait(until).unwrap_or(Ok(())))?;
            return Ok(());
        }
        let errand = Errand {
            cause: Cause::Fill,
            deadline: None,
        };
        chunks::fetch(shared, attached, wants, errand);
        // They are answered: `fetch` does not hand the chunks of a fill on.
        let now = Instant::now();
        flights
            .iter()
            .try_for_each(|f| f.wait(now).unwrap_or(Ok(())))
    }
}

/// Numbers of the first chunks that hold some of `missing` and follow each other, with at most
/// `most` bytes of blob together, but at least one.
fn first_chunks(table: &SeekTable, missing: &[Extent], most: u64) -> BTreeSet<usize> {
    let mut numbers = BTreeSet::new();
    let mut bytes = 0;
    for number in missing.iter().flat_map(|extent| table.covering(*extent)) {
        if numbers.contains(&number) {
            continue;
        }
        bytes += table.chunks[number].blob.len;
        let follows = numbers.last().is_none_or(|last| last + 1 == number);
        if !numbers.is_empty() && (bytes > most || !follows) {
            break;
        }
        numbers.insert(number);
    }
    numbers
}
