//! One demand: from the blocks that a reader lacks to the frames and chunks that have them.
//!
//! It goes in rounds. A round looks at what is missing now, starts or joins the fetches for it,
//! and waits for them. What went wrong is another way in the next round: a failed frame becomes
//! chunks, a failed origin the next one, a fetch that ended with another reader's deadline is
//! started again. Two images may share a layer, and the registry of one may hang, or where its
//! acceleration comes from: who does not answer has half of the time that is left, where there is
//! somebody else to be asked, and an origin then [rests](Attached::rest).

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

/// Whom to ask, and until when.
struct Turns<'a> {
    now: &'a Arc<Attached>,
    /// When its time began, and ends.
    time: (Instant, Instant),
    left: Vec<&'a Arc<Attached>>,
    /// Who was asked first and did not answer, to be asked again where nobody else can.
    late: Option<&'a Arc<Attached>>,
    deadline: Instant,
}

impl<'a> Turns<'a> {
    fn of(entry: &'a Entry, deadline: Instant) -> Option<Self> {
        let mut left = entry.in_order();
        left.reverse();
        let now = left.pop()?;
        let begin = Instant::now();
        let mut turns = Self {
            now,
            time: (begin, deadline),
            left,
            late: None,
            deadline,
        };
        turns.begin(now);
        Some(turns)
    }

    fn begin(&mut self, origin: &'a Arc<Attached>) {
        let begin = Instant::now();
        let others = self.left.iter().any(|other| other.host != origin.host);
        let end = match others {
            true => begin + self.deadline.saturating_duration_since(begin) / 2,
            false => self.deadline,
        };
        (self.now, self.time) = (origin, (begin, end));
    }

    /// Whether its time is over, or nearly: who tries on and on ends before a try would be cut off. The last one
    /// has all there is.
    fn is_over(&self) -> bool {
        let (begin, end) = self.time;
        end < self.deadline && Instant::now() + (end - begin) / 8 >= end
    }

    /// The next one, after `error`; the error where there is none.
    fn next(&mut self, error: FetchError) -> Result<(), FetchError> {
        let is_late = error.is_timeout();
        if error.may_pass() {
            self.now.rest();
        }
        if is_late {
            self.late = self.late.or(Some(self.now));
            // The same registry has no other answer to another image.
            let host = &self.now.host;
            self.left.retain(|other| other.host != *host);
        }
        let next = self.left.pop();
        // Others have had no more to say: it has all the time that is left.
        let again = || self.late.take().filter(|_| !is_late);
        match next.or_else(again) {
            Some(origin) => {
                self.begin(origin);
                Ok(())
            }
            None => Err(error),
        }
    }
}

/// What one round needs.
#[derive(Default)]
struct Needs {
    frames: Vec<(Arc<ActiveSet>, usize, Extent)>,
    chunks: BTreeSet<usize>,
}

impl Demand<'_> {
    pub(crate) fn run(&self) -> Result<(), FetchError> {
        let mut turns = Turns::of(self.entry, self.deadline).ok_or(FetchError::Stopped)?;
        let mut with_frames = true;
        let mut last = None;
        for _ in 0..ROUNDS {
            let missing = self.entry.layer.missing(self.extent);
            if missing.is_empty() {
                return Ok(());
            }
            self.entry.layer.writable()?;
            let turn = Self {
                deadline: turns.time.1,
                ..*self
            };
            match turn.round(turns.now, &missing, &mut with_frames) {
                Ok(()) => {}
                Err(error) if Instant::now() >= self.deadline => {
                    return Err(if error.is_timeout() {
                        self.late()
                    } else {
                        error
                    });
                }
                Err(error) if error.is_timeout() && !turns.is_over() => last = Some(error),
                Err(error) => turns.next(error)?,
            }
        }
        Err(last.unwrap_or_else(|| FetchError::Incomplete {
            layer: self.entry.layer.diff_id(),
            extent: self.extent,
        }))
    }

    fn half_time(&self) -> Instant {
        let now = Instant::now();
        now + self.deadline.saturating_duration_since(now) / 2
    }

    fn late(&self) -> FetchError {
        FetchError::Deadline {
            layer: self.entry.layer.diff_id(),
            extent: self.extent,
            waited: self.started.elapsed(),
        }
    }

    /// Frames are not looked at, `with_frames` or not, where who has them does not answer.
    fn round(
        &self,
        origin: &Arc<Attached>,
        missing: &[Extent],
        with_frames: &mut bool,
    ) -> Result<(), FetchError> {
        let needs = self.needs(origin, missing, *with_frames)?;
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
            let until = match set.host == origin.host {
                true => self.deadline,
                false => self.half_time(),
            };
            match self.await_frame(&set, frame, patience, until) {
                // The origin has the same bytes.
                Err(error) if error.is_timeout() && Instant::now() < self.deadline => {
                    *with_frames = false;
                }
                settled => settled?,
            }
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
    fn needs(
        &self,
        origin: &Arc<Attached>,
        missing: &[Extent],
        with_frames: bool,
    ) -> Result<Needs, FetchError> {
        let layer = self.entry.layer.diff_id();
        let mut needs = Needs::default();
        let mut rest = missing.to_vec();
        let sets = with_frames.then(|| self.shared.sets_of(&layer));
        for set in sets.unwrap_or_default() {
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
        until: Instant,
    ) -> Result<(), FetchError> {
        let mut state = set.wait_frame(frame, patience.min(until));
        if state == FrameState::Absent
            && let Some(claim) = set.claim(frame)
        {
            self.push_frame(claim);
        }
        if matches!(state, FrameState::Absent | FrameState::Claimed) {
            state = set.wait_frame(frame, until);
        }
        match state {
            FrameState::Done | FrameState::Failed => Ok(()),
            FrameState::Absent | FrameState::Claimed => Err(self.late()),
        }
    }
}
