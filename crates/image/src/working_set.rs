//! The working set: the blocks that a start reads, in first-read order, packed for one streaming
//! read.
//!
//! The index lists runs of blocks, each in one layer, and frames. A frame is one zstd frame of the
//! data blob, and its digest is of that: it is checked before anything is unpacked, and there are fewer
//! bytes to hash. Unpacked it is the bytes of its runs, one behind the other. Frames follow each other in the data blob, so the index gives only their lengths:
//! a reader streams all of them in order, or fetches the one that somebody waits for.

use crate::wire::{FormatError, Reader, seal};
use crate::{BLOCK, BlockRun, DiffId, Digest, Extent};

const WHAT: &str = "working set";
const MAGIC: &[u8; 8] = b"THAWWSET";
const VERSION: u32 = 2;

/// Most bytes of a frame when unpacked: what is held in memory until it is written.
pub const MAX_FRAME_BYTES: u64 = 4 << 20;
const MAX_LAYERS: usize = 1024;
const MAX_FRAMES: usize = 1 << 18;
const MAX_RUNS: usize = 1 << 22;
const FRAME_ENTRY: usize = 48;
const RUN_ENTRY: usize = 16;

/// A run of blocks of one layer tar.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Index into [`WorkingSet::layers`].
    pub layer: u16,
    /// The blocks. The tar's last block may be shorter than the others.
    pub blocks: BlockRun,
}

impl Run {
    /// Whether another one may follow it in a frame: it is of a higher layer, or of higher blocks that this
    /// one does not touch.
    fn is_before(&self, next: &Self) -> bool {
        let same = self.layer == next.layer && self.blocks.end() < next.blocks.first;
        same || self.layer < next.layer
    }
}

/// One zstd frame of the data blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Its bytes in the data blob.
    pub data: Extent,
    /// SHA-256 of those bytes, packed as they are.
    pub digest: Digest,
    /// The runs that it holds, in order.
    pub runs: Vec<Run>,
}

/// The index of a working set.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WorkingSet {
    /// The layers that runs refer to: diffID and bytes of the tar.
    pub layers: Vec<(DiffId, u64)>,
    /// Frames, in the order of the data blob, which is the order of first reads.
    pub frames: Vec<Frame>,
}

impl WorkingSet {
    /// Bytes of the data blob.
    #[must_use]
    pub fn data_size(&self) -> u64 {
        self.frames.last().map_or(0, |frame| frame.data.end())
    }

    /// Bytes of all blocks, unpacked.
    #[must_use]
    pub fn unpacked_size(&self) -> u64 {
        self.frames.iter().map(|frame| self.frame_size(frame)).sum()
    }

    /// Bytes of a frame, unpacked.
    #[must_use]
    pub fn frame_size(&self, frame: &Frame) -> u64 {
        frame.runs.iter().map(|run| self.extent(run).len).sum()
    }

    /// The bytes of a run in its layer tar.
    #[must_use]
    pub fn extent(&self, run: &Run) -> Extent {
        let size = self
            .layers
            .get(usize::from(run.layer))
            .map_or(0, |layer| layer.1);
        run.blocks.extent(size)
    }

    /// All that it has, in its order.
    #[must_use]
    pub fn reads(&self) -> Vec<(DiffId, Extent)> {
        let runs = self.frames.iter().flat_map(|frame| &frame.runs);
        let read = |run: &Run| {
            let (layer, _) = self.layers.get(usize::from(run.layer))?;
            Some((*layer, self.extent(run)))
        };
        runs.filter_map(read).collect()
    }

    /// Writes the index as `docs/format.md` pictures it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&(self.layers.len() as u64).to_le_bytes());
        out.extend_from_slice(&(self.frames.len() as u64).to_le_bytes());
        let runs: usize = self.frames.iter().map(|frame| frame.runs.len()).sum();
        out.extend_from_slice(&(runs as u64).to_le_bytes());
        for (diff_id, size) in &self.layers {
            out.extend_from_slice(diff_id.0.as_bytes());
            out.extend_from_slice(&size.to_le_bytes());
        }
        for frame in &self.frames {
            out.extend_from_slice(&frame.data.len.to_le_bytes());
            out.extend_from_slice(&(frame.runs.len() as u64).to_le_bytes());
            out.extend_from_slice(frame.digest.as_bytes());
        }
        for run in self.frames.iter().flat_map(|frame| &frame.runs) {
            out.extend_from_slice(&run.blocks.first.to_le_bytes());
            let count = u32::try_from(run.blocks.count).unwrap_or(u32::MAX);
            out.extend_from_slice(&count.to_le_bytes());
            out.extend_from_slice(&u32::from(run.layer).to_le_bytes());
        }
        seal(out)
    }

    /// Reads what [`WorkingSet::encode`] wrote, and checks that every run lies in its layer and
    /// every frame within [`MAX_FRAME_BYTES`].
    ///
    /// # Errors
    /// [`FormatError`] with the field. Never allocates more than a constant times `bytes.len()`.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::open(WHAT, bytes, MAGIC, VERSION)?;
        reader.zero::<4>("reserved")?;
        let layer_count = reader.count("layer count", 40, MAX_LAYERS)?;
        let frame_count = reader.count("frame count", FRAME_ENTRY, MAX_FRAMES)?;
        let run_count = reader.count("run count", RUN_ENTRY, MAX_RUNS)?;
        let mut set = Self::default();
        for _ in 0..layer_count {
            let diff_id = DiffId(reader.digest("diffID")?);
            set.layers.push((diff_id, reader.u64("tar size")?));
        }
        let mut run_counts = Vec::with_capacity(frame_count);
        let mut offset = 0;
        for _ in 0..frame_count {
            let len = reader.u64("frame length")?;
            let data = Extent::checked(offset, len)
                .filter(|data| data.len <= MAX_FRAME_BYTES * 2)
                .ok_or_else(|| reader.bad("frame length", format!("{len} bytes at {offset}")))?;
            offset = data.end();
            run_counts.push(reader.u64("runs of a frame")?);
            set.frames.push(Frame {
                data,
                digest: reader.digest("frame digest")?,
                runs: Vec::new(),
            });
        }
        if run_counts
            .iter()
            .fold(0u64, |sum, count| sum.saturating_add(*count))
            != run_count as u64
        {
            return Err(reader.bad(
                "runs of a frame",
                "they do not add up to the run count".into(),
            ));
        }
        for (number, count) in run_counts.into_iter().enumerate() {
            for _ in 0..count {
                let run = set.read_run(&mut reader)?;
                let before = set.frames[number].runs.last();
                if before.is_some_and(|before| !before.is_before(&run)) {
                    return Err(reader.bad("run", "the runs of a frame do not ascend".into()));
                }
                set.frames[number].runs.push(run);
            }
            let size = set.frame_size(&set.frames[number]);
            if size == 0 || size > MAX_FRAME_BYTES {
                return Err(reader.bad("frame", format!("{size} bytes unpacked")));
            }
        }
        reader.end()?;
        Ok(set)
    }

    fn read_run(&self, reader: &mut Reader<'_>) -> Result<Run, FormatError> {
        let first = reader.u64("first block")?;
        let count = u64::from(reader.u32("block count")?);
        let layer = reader.u32("layer of a run")?;
        let size = usize::try_from(layer)
            .ok()
            .and_then(|index| self.layers.get(index));
        let blocks = BlockRun { first, count };
        let fits = size.is_some_and(|(_, size)| count > 0 && blocks.end() <= size.div_ceil(BLOCK));
        match u16::try_from(layer) {
            Ok(layer) if fits => Ok(Run { layer, blocks }),
            _ => Err(reader.bad("run", format!("{count} blocks at {first} of layer {layer}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(layer: u16, first: u64, count: u64) -> Run {
        Run {
            layer,
            blocks: BlockRun { first, count },
        }
    }

    fn set() -> WorkingSet {
        let frame = |offset, len, runs| Frame {
            data: Extent { offset, len },
            digest: Digest::of(b"frame"),
            runs,
        };
        WorkingSet {
            layers: vec![
                (DiffId(Digest::of(b"a")), 10_000),
                (DiffId(Digest::of(b"b")), 700),
            ],
            frames: vec![
                frame(0, 300, vec![run(0, 3, 4), run(1, 0, 2)]),
                frame(300, 50, vec![run(0, 19, 1)]),
            ],
        }
    }

    #[test]
    fn round_trips() {
        let set = set();
        assert_eq!(WorkingSet::decode(&set.encode()).unwrap(), set);
        assert_eq!(set.data_size(), 350);
        assert_eq!(set.unpacked_size(), 4 * 512 + 700 + (10_000 - 19 * 512));
    }

    #[test]
    fn the_version_before_is_refused_by_name() {
        let mut bytes = set().encode();
        bytes.truncate(bytes.len() - 32);
        bytes[8] = 1;
        let error = WorkingSet::decode(&seal(bytes)).unwrap_err();
        assert!(
            matches!(error, FormatError::Version { version: 1, .. }),
            "{error}"
        );
    }

    #[test]
    fn runs_outside_their_layer_are_refused() {
        let refused = |change: fn(&mut WorkingSet)| {
            let mut set = set();
            change(&mut set);
            WorkingSet::decode(&set.encode()).unwrap_err()
        };
        refused(|s| s.frames[0].runs[0].layer = 2);
        refused(|s| s.frames[0].runs[1].blocks.count = 3);
        refused(|s| s.frames[0].runs[0].blocks.first = u64::MAX);
        refused(|s| s.frames[0].runs[0].blocks.count = 0);
        refused(|s| s.frames[1].runs.clear());
    }

    #[test]
    fn runs_that_do_not_ascend_are_refused() {
        let decoded = |change: fn(&mut WorkingSet)| {
            let mut set = set();
            change(&mut set);
            WorkingSet::decode(&set.encode())
        };
        assert!(decoded(|s| s.frames[0].runs.swap(0, 1)).is_err());
        assert!(decoded(|s| s.frames[1].runs.insert(0, run(0, 19, 1))).is_err());
        assert!(decoded(|s| s.frames[1].runs.insert(0, run(0, 18, 1))).is_err());
        assert!(decoded(|s| s.frames[1].runs.insert(0, run(0, 17, 1))).is_ok());
    }

    #[test]
    fn a_reserved_byte_is_zero() {
        let mut bytes = set().encode();
        bytes.truncate(bytes.len() - 32);
        bytes[12] = 1;
        assert!(WorkingSet::decode(&seal(bytes)).is_err());
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend_from_slice(&VERSION.to_le_bytes());
            bytes.extend_from_slice(&body);
            let _ = WorkingSet::decode(&seal(bytes));
        }
    }
}
