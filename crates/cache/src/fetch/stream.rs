//! A working set that streams in: one thread reads, the shared decoders unpack, check and write.
//!
//! Packed frames wait for a decoder in one queue of bounded length, so a stream that is faster
//! than the decoders is held up by its connection. Frames of which every block is there are not
//! requested, and those that a demand fetched meanwhile are dropped. A stream that breaks is
//! started again where it is needed.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use thaw_image::{Extent, MAX_FRAME_BYTES};
use zstd::bulk::Decompressor;

use super::Shared;
use super::board::Flight;
use super::error::FetchError;
use super::set::{ActiveSet, Claim, FrameState};
use super::stats::Cause;
use crate::file::chain;

/// Bytes that are read before demands are let past again.
const PIECE: usize = 256 << 10;
/// How often a stream is started before it is given up.
const ATTEMPTS: u32 = 4;
/// The pause before the second start; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How often who waits for a frame looks whether the set is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A frame for the decoders. Its claim fails by itself if it is dropped.
#[derive(Debug)]
pub(crate) struct Packed {
    claim: Claim,
    bytes: Vec<u8>,
}

/// How far a working set is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrefetchProgress {
    /// Frames of the set.
    pub frames: usize,
    /// Frames whose blocks are there, or that were given up.
    pub settled: usize,
    /// Frames that were given up; reads of their blocks fetch chunks.
    pub failed: usize,
    /// Bytes that the stream brought.
    pub received: u64,
    /// Bytes of the whole data blob.
    pub data_size: u64,
}

/// A working set on its way. Dropping it cancels what has not come, and forgets the set.
#[derive(Debug)]
#[must_use = "dropping it cancels the prefetch"]
pub struct Prefetch {
    shared: Arc<Shared>,
    set: Arc<ActiveSet>,
    end: Arc<Flight>,
    stop: Arc<AtomicBool>,
}

impl Prefetch {
    /// Starts a thread that streams `set`.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        decoders: SyncSender<Packed>,
        set: ActiveSet,
    ) -> Self {
        let prefetch = Self {
            shared: shared.clone(),
            set: Arc::new(set),
            end: Arc::default(),
            stop: Arc::default(),
        };
        shared.add_set(&prefetch.set);
        let stream = Stream {
            shared: shared.clone(),
            set: prefetch.set.clone(),
            stop: prefetch.stop.clone(),
            decoders,
        };
        let end = prefetch.end.clone();
        let run = move || {
            // Also when it panics: whoever waits must hear of it.
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stream.run()));
            stream.set.stream_ended();
            end.land(outcome.unwrap_or(Err(FetchError::Stopped)));
        };
        let thread = std::thread::Builder::new().name("thaw-stream".into());
        if let Err(error) = thread.spawn(run) {
            tracing::error!(
                error = chain(&error),
                "cannot start a thread for a working set"
            );
            prefetch.set.stream_ended();
            prefetch.end.land(Err(FetchError::Stopped));
        }
        prefetch
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> PrefetchProgress {
        let (settled, failed, received) = self.set.counts();
        PrefetchProgress {
            frames: self.set.frames(),
            settled,
            failed,
            received,
            data_size: self.set.data_size(),
        }
    }

    /// Waits until all of it has come, or was given up; `None` when `deadline` passes before.
    /// Frames that failed alone are no error here: they are in [`Prefetch::progress`].
    #[must_use]
    pub fn wait(&self, deadline: Instant) -> Option<Result<(), FetchError>> {
        self.end.wait(deadline)
    }

    /// Follows its frames. Does not keep it going.
    #[must_use]
    pub fn frames(&self) -> Frames {
        Frames {
            set: self.set.clone(),
            stop: self.stop.clone(),
        }
    }

    /// Ends the stream. A demand may still fetch single frames.
    pub fn cancel(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.set.stream_ended();
    }
}

/// The frames of a working set, one by one, as they come.
#[derive(Debug)]
pub struct Frames {
    set: Arc<ActiveSet>,
    stop: Arc<AtomicBool>,
}

impl Frames {
    /// Whether the set is not wanted any more.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits until a frame's blocks are there. `false`: they were given up; `None`: the set was cancelled.
    #[must_use]
    pub fn wait(&self, number: usize) -> Option<bool> {
        loop {
            let is_streaming = self.set.is_streaming();
            let state = self.set.wait_frame(number, Instant::now() + LOOK_EVERY);
            if self.is_cancelled() {
                return None;
            }
            match state {
                FrameState::Done => return Some(true),
                FrameState::Failed => return Some(false),
                // Nobody brings it but a demand.
                FrameState::Absent if !is_streaming => return Some(false),
                FrameState::Absent | FrameState::Claimed => {}
            }
        }
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.cancel();
        self.shared.remove_set(&self.set);
    }
}

/// The thread that reads.
struct Stream {
    shared: Arc<Shared>,
    set: Arc<ActiveSet>,
    stop: Arc<AtomicBool>,
    decoders: SyncSender<Packed>,
}

impl Stream {
    fn run(&self) -> Result<(), FetchError> {
        let _going = self.shared.gate.stream();
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            match self.bring() {
                Err(error) if attempt < ATTEMPTS && !self.is_stopped() => {
                    tracing::debug!(
                        attempt,
                        error = chain(&error),
                        "a working set's stream broke"
                    );
                    std::thread::sleep(pause);
                    pause *= 2;
                }
                result => {
                    self.set.wait_decoders();
                    return result;
                }
            }
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.shared.is_closed()
    }

    /// Brings every frame that is still absent.
    fn bring(&self) -> Result<(), FetchError> {
        for frames in self.set.segments() {
            let start = self.set.frame(frames.start).data.offset;
            let end = self.set.frame(frames.end - 1).data.end();
            self.set.stream_at(start);
            let source = &self.set.source;
            let mut reader = source
                .stream(&self.set.data, Extent::between(start, end))
                .map_err(|error| self.broken(error))?;
            for number in frames {
                let bytes = self.read_frame(number, &mut *reader)?;
                if let Some(claim) = self.set.claim(number) {
                    self.set.decoder_given();
                    let sent = self.decoders.send(Packed { claim, bytes });
                    if sent.is_err() {
                        self.set.decoder_done();
                        return Err(FetchError::Stopped);
                    }
                }
            }
        }
        Ok(())
    }

    fn read_frame(&self, number: usize, reader: &mut dyn Read) -> Result<Vec<u8>, FetchError> {
        let len = self.set.frame(number).data.len.min(MAX_FRAME_BYTES * 2);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        for piece in bytes.chunks_mut(PIECE) {
            if self.is_stopped() {
                return Err(FetchError::Stopped);
            }
            self.shared.gate.stream_may_go();
            let started = Instant::now();
            reader.read_exact(piece).map_err(|e| self.broken(e))?;
            let count = piece.len() as u64;
            self.set.stream_brought(count, started.elapsed());
            self.shared.counters.fetched(Cause::WorkingSet, count);
        }
        Ok(bytes)
    }

    fn broken(&self, error: impl std::error::Error + Send + Sync + 'static) -> FetchError {
        FetchError::Stream {
            image: self.set.image.clone(),
            source_name: self.set.source.name(),
            source: Arc::new(error),
        }
    }
}

/// The work of one decoder thread, until every sender is gone.
pub(crate) fn decode_frames(shared: &Shared, queue: &Mutex<Receiver<Packed>>) {
    let mut unpacker = match Decompressor::new() {
        Ok(unpacker) => unpacker,
        Err(error) => {
            tracing::error!(error = chain(&error), "a decoder cannot start");
            return;
        }
    };
    loop {
        // The lock is held while waiting: it is what the other decoders wait for, too.
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Packed { claim, bytes }) = next else {
            return;
        };
        let set = claim.set.clone();
        let work = || settle(shared, claim, &bytes, &mut unpacker, Cause::WorkingSet);
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
            tracing::error!("a decoder panicked; its frame is given up");
        }
        set.decoder_done();
    }
}

/// Unpacks a claimed frame and settles it.
fn settle(
    shared: &Shared,
    claim: Claim,
    packed: &[u8],
    unpacker: &mut Decompressor<'_>,
    cause: Cause,
) {
    let source = Arc::clone(&claim.set.source);
    let size = claim.set.frame_size(claim.frame);
    shared.counters.unpacked(cause, size);
    match claim.set.unpack(claim.frame, packed, unpacker) {
        Ok(written) => {
            shared.counters.written(cause, written);
            claim.done();
        }
        Err(error) => {
            if matches!(error, FetchError::WrongFrame { .. }) {
                super::stats::count(&shared.counters.mismatches);
                source.distrust();
            }
            tracing::warn!(
                error = chain(&error),
                "a frame of a working set is given up; its blocks will come from chunks"
            );
        }
    }
}

/// Fetches one frame alone, because somebody waits for it.
pub(crate) fn fetch_frame(shared: &Shared, claim: Claim, deadline: Instant) {
    let data = claim.set.frame(claim.frame).data;
    let started = Instant::now();
    let read = claim
        .set
        .source
        .read_at(&claim.set.data, data, Some(deadline));
    match (read, Decompressor::new()) {
        (Ok(packed), Ok(mut unpacker)) => {
            shared.note_read(Cause::Demand, data.len, started.elapsed());
            settle(shared, claim, &packed, &mut unpacker, Cause::Demand);
        }
        (Err(error), _) => {
            tracing::warn!(
                error = chain(&error),
                "a frame of a working set cannot be fetched"
            );
        }
        (_, Err(error)) => tracing::error!(error = chain(&error), "zstd cannot start"),
    }
}
