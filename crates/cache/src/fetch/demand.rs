//! One demand: from the blocks that a reader lacks to the frames and chunks that have them.
//!
//! It goes in rounds. A round looks at what is missing now, starts or joins the fetches for it,
//! and waits for them. What went wrong is another way in the next round: a failed frame becomes
//! chunks, a failed origin the next one, a fetch that ended with another reader's deadline is
//! started again. An origin that does not answer has half of the time that is left, where there is
//! another one, and then rests: two images may share a layer, and the registry of one may hang.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use thaw_image::Extent;

use super::board::{Flight, Job};
use super::error::FetchError;
use super::origin::Attached;
use super::set::{ActiveSet, Claim, FrameState, Plan};
use super::{Entry, Shared};

/// More rounds than this mean that something writes and takes away, or that a table does not
/// produce what it promises.
const ROUNDS: usize = 16;

#[derive(Clone, Copy)]
pub(crate) struct Demand<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) entry: &'a Entry,
    pub(crate) extent: Extent,
    pub(crate) started: Instant,
    pub(crate) deadline: Instant,
    /// Whether more may come than was asked for.
    pub(crate) ahead: bool,
}

/// What one round needs.
#[derive(Default)]
struct Needs {
    frames: Vec<(Arc<ActiveSet>, usize, Extent)>,
    chunks: BTreeSet<usize>,
}

impl Demand<'_> {
    pub(crate) fn run(&self) -> Result<(), FetchError> {
        let mut origins = self.entry.in_order().into_iter();
        let mut origin = origins.next().ok_or(FetchError::Stopped)?;
        for _ in 0..ROUNDS {
            let missing = self.entry.layer.missing(self.extent);
            if missing.is_empty() {
                return Ok(());
            }
            self.entry.layer.writable()?;
            let now = Instant::now();
            let until = match origins.len() {
                0 => self.deadline,
                _ => now + self.deadline.saturating_duration_since(now) / 2,
            };
            let turn = Self {
                deadline: until,
                ..*self
            };
            match turn.round(origin, &missing) {
                Ok(()) => {}
                Err(error) if Instant::now() >= self.deadline => {
                    return Err(if error.is_timeout() {
                        self.late()
                    } else {
                        error
                    });
                }
                Err(error) if error.is_timeout() && Instant::now() < until => {}
                Err(error) => {
                    if error.is_timeout() {
                        origin.rest();
                    }
                    origin = origins.next().ok_or(error)?;
                }
            }
        }
        Err(FetchError::Incomplete {
            layer: self.entry.layer.diff_id(),
            extent: self.extent,
        })
    }

    fn late(&self) -> FetchError {
        FetchError::Deadline {
            layer: self.entry.layer.diff_id(),
            extent: self.extent,
            waited: self.started.elapsed(),
        }
    }

    fn round(&self, origin: &Arc<Attached>, missing: &[Extent]) -> Result<(), FetchError> {
        let needs = self.needs(origin, missing)?;
        let (flights, joined) =
            self.shared
                .board
                .chunks(origin, needs.chunks.iter().copied(), self.deadline);
        if self.ahead {
            super::ahead::plan(self.shared, origin, &needs.chunks);
        }
        self.shared.counters.joined(joined);
        let waits: Vec<_> = needs
            .frames
            .into_iter()
            .map(|(set, frame, _)| self.start_frame(set, frame))
            .collect();
        for (set, frame, patience) in waits {
            self.await_frame(&set, frame, patience)?;
        }
        flights.iter().try_for_each(|flight| self.land(flight))
    }

    fn land(&self, flight: &Flight) -> Result<(), FetchError> {
        flight
            .wait(self.deadline)
            .unwrap_or_else(|| Err(self.late()))
    }

    /// Which frames and chunks have what is missing. A frame is left out where chunks that are
    /// needed anyway have its blocks, too.
    fn needs(&self, origin: &Arc<Attached>, missing: &[Extent]) -> Result<Needs, FetchError> {
        let layer = self.entry.layer.diff_id();
        let mut needs = Needs::default();
        let mut rest = missing.to_vec();
        for set in self.shared.sets_of(&layer) {
            let mut frames = Vec::new();
            for extent in std::mem::take(&mut rest) {
                set.split(&layer, extent, &mut frames, &mut rest);
            }
            let frames = frames.into_iter();
            needs
                .frames
                .extend(frames.map(|(frame, extent)| (set.clone(), frame, extent)));
        }
        if rest.is_empty() {
            return Ok(needs);
        }
        if origin.table().is_none() {
            self.land(&self.shared.board.table(origin, self.deadline))?;
        }
        let table = origin.table().ok_or(FetchError::Stopped)?;
        needs.chunks = rest
            .iter()
            .flat_map(|extent| table.covering(*extent))
            .collect();
        let has = |extent: &Extent| table.covering(*extent).all(|n| needs.chunks.contains(&n));
        needs.frames.retain(|(_, _, extent)| !has(extent));
        Ok(needs)
    }

    /// Asks for a frame, or says until when to wait for the stream.
    fn start_frame(&self, set: Arc<ActiveSet>, frame: usize) -> (Arc<ActiveSet>, usize, Instant) {
        let patience = match set.plan(frame, &self.shared.pace) {
            Plan::Settled => Instant::now(),
            Plan::Wait(until) => {
                self.shared.counters.joined(1);
                until
            }
            Plan::Fetch(claim) => {
                self.push_frame(claim);
                self.deadline
            }
        };
        (set, frame, patience)
    }

    fn push_frame(&self, claim: Claim) {
        self.shared.board.push(Job::Frame(claim, self.deadline));
    }

    /// Waits for a frame to be settled; asks for it when the stream took too long.
    fn await_frame(
        &self,
        set: &Arc<ActiveSet>,
        frame: usize,
        patience: Instant,
    ) -> Result<(), FetchError> {
        let mut state = set.wait_frame(frame, patience.min(self.deadline));
        if state == FrameState::Absent
            && let Some(claim) = set.claim(frame)
        {
            self.push_frame(claim);
        }
        if matches!(state, FrameState::Absent | FrameState::Claimed) {
            state = set.wait_frame(frame, self.deadline);
        }
        match state {
            FrameState::Done | FrameState::Failed => Ok(()),
            FrameState::Absent | FrameState::Claimed => Err(self.late()),
        }
    }
}
