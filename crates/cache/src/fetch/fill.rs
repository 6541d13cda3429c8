//! Background fill: completes a layer when nothing else goes on, then checks it against its diffID.
//!
//! One request at a time fills a near link. A far one holds more than one has: as long as twice as
//! many requests bring clearly more, there are twice as many ([`Lanes`]).

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
        let mut lanes = Lanes::default();
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
            self.fetch_some(shared, entry.first_origin(), &missing, &mut lanes)?;
        }
    }

    /// Fetches the first absent chunks, as many as the requests of all lanes may have; or waits for
    /// them, where others fetch them.
    fn fetch_some(
        &self,
        shared: &Shared,
        attached: &Arc<Attached>,
        missing: &[Extent],
        lanes: &mut Lanes,
    ) -> Result<(), FetchError> {
        attached.load_table(None)?;
        let Some(table) = attached.table() else {
            return Err(FetchError::Stopped);
        };
        let groups = first_chunks(table, missing, shared.settings.fill_bytes, lanes.count);
        let claim = |group: &BTreeSet<usize>| shared.board.claim(attached, group.iter().copied());
        let mut claimed: Vec<Vec<Want>> = groups.iter().map(claim).collect();
        claimed.retain(|wants| !wants.is_empty());
        let flights: Vec<_> = claimed.iter().flatten().map(Want::flight).collect();
        if flights.is_empty() {
            let until = Instant::now() + OTHERS;
            let numbers: BTreeSet<usize> = groups.into_iter().flatten().collect();
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
        let begun = Instant::now();
        let bytes = claimed.iter().flatten();
        let bytes = bytes.map(|want| table.chunks[want.number].blob.len).sum();
        let first = claimed.swap_remove(0);
        std::thread::scope(|scope| {
            for wants in claimed {
                scope.spawn(|| chunks::fetch(shared, attached, wants, errand));
            }
            chunks::fetch(shared, attached, first, errand);
        });
        lanes.note(bytes, begun.elapsed());
        // They are answered: `fetch` does not hand the chunks of a fill on.
        let now = Instant::now();
        flights
            .iter()
            .try_for_each(|f| f.wait(now).unwrap_or(Ok(())))
    }
}

/// How many requests a fill has on their way at once.
#[derive(Debug)]
struct Lanes {
    count: usize,
    /// Bytes per second when the number was last changed.
    rate: u64,
}

impl Default for Lanes {
    fn default() -> Self {
        Self { count: 1, rate: 0 }
    }
}

impl Lanes {
    /// Most of them: with requests of 1 MiB, a link of 1 Gbit/s and 70 ms is full.
    const MOST: usize = 8;

    /// So many bytes came by as many requests as there are lanes.
    fn note(&mut self, bytes: u64, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let rate = bytes.saturating_mul(1_000_000) / micros;
        if rate > self.rate / 10 * 13 {
            self.count = (self.count * 2).min(Self::MOST);
            self.rate = rate;
        } else if rate < self.rate / 2 {
            self.count = (self.count / 2).max(1);
            self.rate = rate;
        }
    }
}

/// Numbers of the first chunks that hold some of `missing`, in at most `groups` groups: those of a
/// group follow each other and have at most `most` bytes of blob together, but at least one chunk.
fn first_chunks(
    table: &SeekTable,
    missing: &[Extent],
    most: u64,
    groups: usize,
) -> Vec<BTreeSet<usize>> {
    let mut all: Vec<BTreeSet<usize>> = Vec::new();
    let mut bytes = 0;
    let mut last: Option<usize> = None;
    for number in missing.iter().flat_map(|extent| table.covering(*extent)) {
        if last == Some(number) {
            continue;
        }
        bytes += table.chunks[number].blob.len;
        let follows = last.is_some_and(|last| last + 1 == number);
        last = Some(number);
        let full = all.len() == groups;
        match all.last_mut() {
            Some(group) if follows && bytes <= most => {
                group.insert(number);
            }
            _ if full => break,
            _ => {
                bytes = table.chunks[number].blob.len;
                all.push(BTreeSet::from([number]));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_far_link_gets_more_requests_and_a_near_one_does_not() {
        let request = 1 << 20;
        // A far one: each request takes as long as one alone.
        let mut lanes = Lanes::default();
        for _ in 0..6 {
            lanes.note(request * lanes.count as u64, Duration::from_millis(100));
        }
        assert_eq!(lanes.count, Lanes::MOST);
        // A near one: two take almost twice as long.
        let mut lanes = Lanes::default();
        for _ in 0..6 {
            let took = Duration::from_millis(2 + 8 * lanes.count as u64);
            lanes.note(request * lanes.count as u64, took);
        }
        assert_eq!(lanes.count, 2);
        // It has become slow.
        for _ in 0..6 {
            lanes.note(request, Duration::from_secs(1));
        }
        assert_eq!(lanes.count, 1);
    }
}
