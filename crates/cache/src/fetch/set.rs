//! A working set that is being fetched: which frame holds a block, and how far each frame is.
//!
//! A frame is *absent* until somebody claims it: the stream's decoder, or a demand that fetches
//! it alone. The [`Claim`] is settled as done or failed, and dropped it counts as failed, so
//! nobody waits for a frame that nobody works on. A failed frame is never tried again: its blocks
//! come from chunks.
//!
//! Lock: `progress`, a leaf, never over I/O.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use thaw_image::{
    BLOCK, BlobSource, BlockRun, DiffId, Digest, Extent, Frame, MAX_FRAME_BYTES, Verified,
    WorkingSet,
};
use zstd::bulk::Decompressor;

use super::error::{FetchError, FrameError};
use super::pace::{Pace, Rate};
use crate::tar::{LayerTar, Placed};

/// The least that a demand waits for the stream before it asks for the frame itself.
const LEAST_PATIENCE: Duration = Duration::from_millis(5);
/// Present frames with up to so many packed bytes are streamed rather than skipped by a new
/// request.
const STREAM_GAP: u64 = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FrameState {
    Absent,
    Claimed,
    Done,
    Failed,
}

/// A run of blocks of one layer and the frame that holds it.
#[derive(Debug)]
struct Span {
    blocks: BlockRun,
    frame: usize,
}

#[derive(Debug)]
struct Progress {
    frames: Vec<FrameState>,
    /// Frames that are done or failed.
    settled: usize,
    /// Frames that a decoder has or will get.
    decoding: usize,
    /// Up to where the stream has come in the data blob.
    at: u64,
    received: u64,
    rate: Rate,
    streaming: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct ActiveSet {
    /// Whose it is.
    pub(crate) image: String,
    set: Arc<WorkingSet>,
    pub(crate) data: Digest,
    pub(crate) source: Arc<dyn BlobSource>,
    /// Whom those wait for who ask for a frame.
    pub(crate) host: Arc<str>,
    /// The layers of the set, in its order; `None` for those that no image in use has.
    layers: Vec<Option<Arc<LayerTar>>>,
    index: HashMap<DiffId, Vec<Span>>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

/// What a demand does about a frame.
#[derive(Debug)]
pub(crate) enum Plan {
    /// The stream brings it soon: wait until then.
    Wait(Instant),
    /// Fetch it alone.
    Fetch(Claim),
    /// It is settled.
    Settled,
}

/// The duty to settle a frame.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) set: Arc<ActiveSet>,
    pub(crate) frame: usize,
}

impl Claim {
    /// Settles it as done.
    pub(crate) fn done(self) {
        self.set.settle(self.frame, FrameState::Done);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.set.settle(self.frame, FrameState::Failed);
    }
}

impl ActiveSet {
    /// Prepares a set; `layer` gives the tars of the layers that are in use.
    pub(crate) fn new(
        image: &str,
        set: Arc<WorkingSet>,
        data: Digest,
        source: Arc<dyn BlobSource>,
        layer: impl Fn(&DiffId) -> Option<Arc<LayerTar>>,
    ) -> Self {
        let open = |(id, size): &(DiffId, u64)| layer(id).filter(|l| l.tar_size() == *size);
        let layers: Vec<_> = set.layers.iter().map(open).collect();
        let mut index: HashMap<DiffId, Vec<Span>> = HashMap::new();
        for (number, frame) in set.frames.iter().enumerate() {
            for run in &frame.runs {
                if let Some(Some(layer)) = layers.get(usize::from(run.layer)) {
                    index.entry(layer.diff_id()).or_default().push(Span {
                        blocks: run.blocks,
                        frame: number,
                    });
                }
            }
        }
        for spans in index.values_mut() {
            spans.sort_by_key(|span| span.blocks.first);
        }
        let progress = Progress {
            frames: vec![FrameState::Absent; set.frames.len()],
            settled: 0,
            decoding: 0,
            at: 0,
            received: 0,
            rate: Rate::default(),
            streaming: true,
        };
        Self {
            image: image.to_owned(),
            set,
            data,
            host: source.host().into(),
            source,
            layers,
            index,
            progress: Mutex::new(progress),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn frame(&self, number: usize) -> &Frame {
        &self.set.frames[number]
    }

    /// Its bytes, unpacked.
    pub(crate) fn frame_size(&self, number: usize) -> u64 {
        self.set.frame_size(self.frame(number))
    }

    pub(crate) fn has_layer(&self, layer: &DiffId) -> bool {
        self.index.contains_key(layer)
    }

    /// Adds to `frames` those that hold some of `missing` and may still come; what no such frame
    /// holds goes to `rest`.
    pub(crate) fn split(
        &self,
        layer: &DiffId,
        missing: Extent,
        frames: &mut Vec<(usize, Extent)>,
        rest: &mut Vec<Extent>,
    ) {
        let spans = self.index.get(layer).map_or(&[][..], Vec::as_slice);
        let progress = self.lock();
        let wanted = missing.blocks();
        let mut at = wanted.first;
        let from = spans.partition_point(|span| span.blocks.end() <= at);
        let mut leave = |from: u64, to: u64| {
            let extent = Extent::between(from * BLOCK, to * BLOCK).intersect(&missing);
            if !extent.is_empty() {
                rest.push(extent);
            }
        };
        for span in spans.get(from..).unwrap_or_default() {
            if span.blocks.first >= wanted.end() {
                break;
            }
            let coming = matches!(
                progress.frames[span.frame],
                FrameState::Absent | FrameState::Claimed
            );
            let (first, end) = (
                span.blocks.first.max(at),
                span.blocks.end().min(wanted.end()),
            );
            if !coming || first >= end {
                continue;
            }
            leave(at, first);
            let held = Extent::between(first * BLOCK, end * BLOCK).intersect(&missing);
            frames.push((span.frame, held));
            at = end;
        }
        leave(at, wanted.end());
    }

    /// What a demand should do about a frame now: wait if the stream brings it sooner than a
    /// request would.
    pub(crate) fn plan(self: &Arc<Self>, number: usize, pace: &Pace) -> Plan {
        let mut progress = self.lock();
        let data = self.frame(number).data;
        let asking = pace.request() + progress.rate.time_of(data.len);
        let patience = Instant::now() + (asking * 2).max(LEAST_PATIENCE);
        match progress.frames[number] {
            FrameState::Done | FrameState::Failed => Plan::Settled,
            FrameState::Claimed => Plan::Wait(patience),
            FrameState::Absent => {
                let ahead = data.end().saturating_sub(progress.at);
                let is_ahead = progress.streaming && data.end() > progress.at;
                if is_ahead && progress.rate.time_of(ahead) <= asking {
                    return Plan::Wait(patience);
                }
                progress.frames[number] = FrameState::Claimed;
                Plan::Fetch(Claim {
                    set: self.clone(),
                    frame: number,
                })
            }
        }
    }

    /// Takes a frame that nobody has.
    pub(crate) fn claim(self: &Arc<Self>, number: usize) -> Option<Claim> {
        let mut progress = self.lock();
        let state = progress.frames.get_mut(number)?;
        (*state == FrameState::Absent).then(|| {
            *state = FrameState::Claimed;
            Claim {
                set: self.clone(),
                frame: number,
            }
        })
    }

    fn settle(&self, number: usize, state: FrameState) {
        let mut progress = self.lock();
        let old = progress.frames[number];
        if matches!(old, FrameState::Absent | FrameState::Claimed) {
            progress.frames[number] = state;
            progress.settled += 1;
            self.changed.notify_all();
        }
    }

    /// Waits until a frame is settled or the instant comes.
    pub(crate) fn wait_frame(&self, number: usize, until: Instant) -> FrameState {
        let is_open = |state| matches!(state, FrameState::Absent | FrameState::Claimed);
        let mut progress = self.lock();
        loop {
            let state = progress.frames[number];
            let left = until.saturating_duration_since(Instant::now());
            if !is_open(state) || left.is_zero() {
                return state;
            }
            progress = match self.changed.wait_timeout(progress, left) {
                Ok((progress, _)) => progress,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// The runs of frames that the stream still has to bring. Frames of which every block is
    /// there are settled on the way.
    pub(crate) fn segments(self: &Arc<Self>) -> Vec<Range<usize>> {
        let mut segments: Vec<Range<usize>> = Vec::new();
        for number in 0..self.set.frames.len() {
            if !self.is_missing(number) {
                if let Some(claim) = self.claim(number) {
                    claim.done();
                }
                continue;
            }
            if self.lock().frames[number] != FrameState::Absent {
                continue;
            }
            let data = self.frame(number).data;
            match segments.last_mut() {
                Some(last)
                    if data
                        .offset
                        .saturating_sub(self.frame(last.end - 1).data.end())
                        <= STREAM_GAP =>
                {
                    last.end = number + 1;
                }
                _ => segments.push(number..number + 1),
            }
        }
        segments
    }

    /// Whether a frame has blocks that are not there.
    fn is_missing(&self, number: usize) -> bool {
        self.frame(number).runs.iter().any(|run| {
            let layer = self.layers.get(usize::from(run.layer));
            layer.is_some_and(|layer| {
                layer
                    .as_ref()
                    .is_some_and(|layer| !layer.contains(self.set.extent(run)))
            })
        })
    }

    /// The layers that a frame has blocks of, for people.
    fn layers_of(&self, frame: &Frame) -> String {
        let ids = frame.runs.iter().map(|run| run.layer);
        let ids = ids.filter_map(|layer| self.set.layers.get(usize::from(layer)));
        let mut ids: Vec<String> = ids.map(|(id, _)| id.to_string()).collect();
        ids.dedup();
        ids.join(", ")
    }

    /// Checks a frame, unpacks it, and writes its blocks. Gives the bytes that this made present.
    pub(crate) fn unpack(
        &self,
        number: usize,
        packed: &[u8],
        unpacker: &mut Decompressor<'_>,
    ) -> Result<u64, FetchError> {
        let frame = self.frame(number);
        let bytes =
            self.verified(frame, packed, unpacker)
                .map_err(|error| FetchError::WrongFrame {
                    image: self.image.clone(),
                    frame: number,
                    layers: self.layers_of(frame),
                    source_name: self.source.name(),
                    source: Arc::new(error),
                })?;
        let mut from = 0;
        let mut places: Vec<Vec<Placed>> = vec![Vec::new(); self.layers.len()];
        for run in &frame.runs {
            let to = self.set.extent(run);
            if let Some(places) = places.get_mut(usize::from(run.layer)) {
                places.push(Placed { from, to });
            }
            from += to.len;
        }
        let mut written = 0;
        for (layer, places) in self.layers.iter().zip(&places) {
            if let Some(layer) = layer {
                written += layer.write_runs(&bytes, places)?;
            }
        }
        Ok(written)
    }

    fn verified(
        &self,
        frame: &Frame,
        packed: &[u8],
        unpacker: &mut Decompressor<'_>,
    ) -> Result<Verified, FrameError> {
        let size = self.set.frame_size(frame).min(MAX_FRAME_BYTES);
        let expected = usize::try_from(size).unwrap_or(0);
        Verified::unpacked(packed, &frame.digest, |packed| {
            let mut bytes = Vec::with_capacity(expected);
            let unpacked = unpacker.decompress_to_buffer(packed, &mut bytes);
            match unpacked {
                Ok(len) if len == expected => Ok(bytes),
                Ok(_) => Err(FrameError::Unpack {
                    expected,
                    source: io::ErrorKind::UnexpectedEof.into(),
                }),
                Err(source) => Err(FrameError::Unpack { expected, source }),
            }
        })
    }

    /// The stream stands at a place of the data blob.
    pub(crate) fn stream_at(&self, at: u64) {
        self.lock().at = at;
    }

    /// The stream brought some bytes.
    pub(crate) fn stream_brought(&self, bytes: u64, took: Duration) {
        let mut progress = self.lock();
        progress.at += bytes;
        progress.received += bytes;
        progress.rate.note(bytes, took);
    }

    /// Whether the stream may bring more.
    pub(crate) fn is_streaming(&self) -> bool {
        self.lock().streaming
    }

    /// The stream brings nothing more: who waits for a frame must ask for it.
    pub(crate) fn stream_ended(&self) {
        self.lock().streaming = false;
        self.changed.notify_all();
    }

    pub(crate) fn decoder_given(&self) {
        self.lock().decoding += 1;
    }

    pub(crate) fn decoder_done(&self) {
        self.lock().decoding -= 1;
        self.changed.notify_all();
    }

    /// Waits until the decoders have none of its frames.
    pub(crate) fn wait_decoders(&self) {
        let progress = self.lock();
        drop(self.changed.wait_while(progress, |p| p.decoding > 0));
    }

    /// Settled frames, failed frames and received bytes.
    pub(crate) fn counts(&self) -> (usize, usize, u64) {
        let progress = self.lock();
        let is_failed = |state: &&FrameState| **state == FrameState::Failed;
        let failed = progress.frames.iter().filter(is_failed).count();
        (progress.settled, failed, progress.received)
    }

    pub(crate) fn frames(&self) -> usize {
        self.set.frames.len()
    }

    pub(crate) fn data_size(&self) -> u64 {
        self.set.data_size()
    }
}
