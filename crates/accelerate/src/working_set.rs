//! The working set: the blocks that a start read, packed for one streaming read, and its artifact.
//!
//! ```text
//! trace ─▶ blocks, each once ─▶ small gaps closed ─▶ cut into frames, in first-read order ─▶ zstd
//! ```
//!
//! The grain is the point: of a large image a start touches a sixth, in four thousand places, and
//! packs into a thirtieth. Whole files or spans would be several times that.
//!
//! Order is kept between frames; within one, runs are sorted by layer and offset, so that
//! neighbours merge and compress together. The first frames are small: what is read first arrives
//! first.

use std::collections::BTreeMap;
use std::io::{self, Cursor};
use std::sync::Arc;

use thaw_image::{
    BLOCK, BlockRun, DiffId, Digest, Extent, Frame, MAX_FRAME_BYTES, Run, WorkingSet, media,
};
use thaw_registry::{Descriptor, Manifest, ManifestContent, RegistryError, Repository};

/// How to pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackOptions {
    /// Blocks between two runs of a frame that are taken along rather than left out.
    pub gap: u64,
    /// Unpacked bytes of the first frame; each later one is half as large again, up to `frame`.
    pub first_frame: u64,
    /// Unpacked bytes of a frame.
    pub frame: u64,
    /// zstd level. Packing happens once; unpacking takes the same time for all.
    pub level: i32,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self {
            gap: 4,
            first_frame: 128 << 10,
            frame: 1 << 20,
            level: 12,
        }
    }
}

/// A working set and its data.
#[derive(Clone, Debug)]
pub struct PackedSet {
    /// The index.
    pub set: WorkingSet,
    /// The frames, one behind the other.
    pub data: Vec<u8>,
}

/// Why a trace could not be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// Bytes of a layer could not be read.
    #[error("cannot read {} bytes at {} of layer {layer}", extent.len, extent.offset)]
    Read {
        /// The layer.
        layer: DiffId,
        /// The range.
        extent: Extent,
        /// Why.
        source: io::Error,
    },
    /// zstd.
    #[error("cannot compress a frame")]
    Compress(#[source] io::Error),
    /// The artifact's manifest is no manifest: a programming error, not one of the input.
    #[error("the working set's manifest is malformed: {0}")]
    Manifest(String),
}

/// Packs a trace, in order of first reads. `read` gives bytes of a layer's tar. What the trace says
/// of layers that are not in `layers`, or beyond a tar's end, is left out.
///
/// # Errors
/// [`PackError`].
pub fn pack(
    trace: &[(DiffId, Extent)],
    layers: &[(DiffId, u64)],
    read: &dyn Fn(&DiffId, Extent) -> io::Result<Vec<u8>>,
    options: &PackOptions,
) -> Result<PackedSet, PackError> {
    let layers = distinct(layers);
    let mut set = WorkingSet {
        layers: layers.clone(),
        frames: Vec::new(),
    };
    let mut data = Vec::new();
    let mut compressor = zstd::bulk::Compressor::new(options.level).map_err(PackError::Compress)?;
    for runs in cut(&first_reads(trace, &layers), options) {
        let mut bytes = Vec::new();
        for run in &runs {
            let (layer, extent) = (layers[usize::from(run.layer)].0, set.extent(run));
            let failed = |source| PackError::Read {
                layer,
                extent,
                source,
            };
            let part = read(&layer, extent).map_err(failed)?;
            if part.len() as u64 != extent.len {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
            bytes.extend_from_slice(&part);
        }
        let packed = compressor.compress(&bytes).map_err(PackError::Compress)?;
        let extent = Extent {
            offset: data.len() as u64,
            len: packed.len() as u64,
        };
        set.frames.push(Frame {
            data: extent,
            digest: Digest::of(&packed),
            runs,
        });
        data.extend_from_slice(&packed);
    }
    Ok(PackedSet { set, data })
}

/// What starts before have read, and behind it what a new one read besides: nothing is taken away.
#[must_use]
pub fn merge_traces(old: &[(DiffId, Extent)], new: &[(DiffId, Extent)]) -> Vec<(DiffId, Extent)> {
    let mut seen: BTreeMap<DiffId, Ranges> = BTreeMap::new();
    let mut merged = Vec::new();
    for (layer, extent) in old.iter().chain(new) {
        let ranges = seen.entry(*layer).or_default();
        for part in ranges.insert(*extent) {
            merged.push((*layer, part));
        }
    }
    merged
}

fn distinct(layers: &[(DiffId, u64)]) -> Vec<(DiffId, u64)> {
    let mut seen = std::collections::HashSet::new();
    layers
        .iter()
        .filter(|layer| seen.insert(layer.0))
        .copied()
        .collect()
}

/// The trace as runs of blocks, each block once.
fn first_reads(trace: &[(DiffId, Extent)], layers: &[(DiffId, u64)]) -> Vec<Run> {
    let mut seen: Vec<Ranges> = vec![Ranges::default(); layers.len()];
    let mut runs = Vec::new();
    for (diff_id, extent) in trace {
        let Some(index) = layers.iter().position(|layer| layer.0 == *diff_id) else {
            continue;
        };
        let Ok(layer) = u16::try_from(index) else {
            continue;
        };
        let blocks = extent
            .intersect(&Extent {
                offset: 0,
                len: layers[index].1,
            })
            .blocks();
        let as_bytes = Extent {
            offset: blocks.first,
            len: blocks.count,
        };
        for part in seen[index].insert(as_bytes) {
            runs.push(Run {
                layer,
                blocks: BlockRun {
                    first: part.offset,
                    count: part.len,
                },
            });
        }
    }
    runs
}

/// Cuts runs into frames and tidies each: sorted, neighbours and small gaps merged.
fn cut(runs: &[Run], options: &PackOptions) -> Vec<Vec<Run>> {
    // Closed gaps add at most `gap` blocks to each: a frame stays within what readers accept.
    let cap = MAX_FRAME_BYTES / (options.gap + 1);
    let largest = (options.frame.min(cap) / BLOCK).max(1);
    let mut limit = (options.first_frame / BLOCK).clamp(1, largest);
    let (mut frames, mut frame, mut blocks) = (Vec::new(), Vec::new(), 0);
    for run in runs {
        let mut rest = run.blocks;
        while rest.count > 0 {
            let count = rest.count.min(limit - blocks);
            frame.push(Run {
                layer: run.layer,
                blocks: BlockRun {
                    first: rest.first,
                    count,
                },
            });
            rest = BlockRun {
                first: rest.first + count,
                count: rest.count - count,
            };
            blocks += count;
            if blocks == limit {
                frames.push(tidy(std::mem::take(&mut frame), options.gap));
                blocks = 0;
                limit = (limit + limit / 2 + 1).min(largest);
            }
        }
    }
    if !frame.is_empty() {
        frames.push(tidy(frame, options.gap));
    }
    frames
}

/// Sorts the runs of a frame and closes gaps of up to `gap` blocks. What lies in a gap may be in
/// another frame too: a few blocks twice cost less than a run.
fn tidy(mut runs: Vec<Run>, gap: u64) -> Vec<Run> {
    runs.sort_by_key(|run| (run.layer, run.blocks.first));
    let mut tidied: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs {
        match tidied.last_mut() {
            Some(last)
                if last.layer == run.layer && run.blocks.first <= last.blocks.end() + gap =>
            {
                last.blocks.count = run.blocks.end() - last.blocks.first;
            }
            _ => tidied.push(run),
        }
    }
    tidied
}

/// Ranges that do not overlap.
#[derive(Clone, Debug, Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds a range, and gives the parts of it that were not there.
    fn insert(&mut self, extent: Extent) -> Vec<Extent> {
        let (mut start, end) = (extent.offset, extent.end());
        let mut new = Vec::new();
        let from = self
            .0
            .range(..=start)
            .next_back()
            .map_or(start, |(first, _)| *first);
        let overlapping: Vec<(u64, u64)> = self
            .0
            .range(from..end)
            .map(|(first, last)| (*first, *last))
            .collect();
        for (first, last) in overlapping {
            if first > start {
                new.push(Extent::between(start, first.min(end)));
            }
            start = start.max(last);
        }
        if start < end {
            new.push(Extent::between(start, end));
        }
        for part in &new {
            self.join(*part);
        }
        new
    }

    /// Adds a range that overlaps none, joined with those that it touches.
    fn join(&mut self, extent: Extent) {
        let (mut start, mut end) = (extent.offset, extent.end());
        if let Some((&first, &last)) = self.0.range(..start).next_back()
            && last == start
        {
            self.0.remove(&first);
            start = first;
        }
        if let Some(last) = self.0.remove(&end) {
            end = last;
        }
        self.0.insert(start, end);
    }
}

/// A working set as an OCI artifact.
#[derive(Clone, Debug)]
pub struct WorkingSetArtifact {
    manifest: Manifest,
    set: WorkingSet,
    blobs: [(Descriptor, Arc<[u8]>); 2],
}

/// Where the parts of a working set are.
#[derive(Clone, PartialEq, Debug)]
pub struct WorkingSetRef {
    /// The index.
    pub index: Descriptor,
    /// The frames.
    pub data: Descriptor,
    /// The profile it is for.
    pub profile: String,
    /// How it came about.
    pub origin: Origin,
}

/// How a working set came about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Starts were observed.
    Recorded,
    /// It is what a start reads for certain, found without one: see [`crate::closure`].
    Static,
}

impl WorkingSetArtifact {
    /// Packs a set of `profile` for the image whose manifest is `subject`.
    ///
    /// # Errors
    /// [`PackError::Manifest`].
    pub fn build(
        subject: &Descriptor,
        profile: &str,
        origin: Origin,
        packed: PackedSet,
    ) -> Result<Self, PackError> {
        let index: Arc<[u8]> = packed.set.encode().into();
        let data: Arc<[u8]> = packed.data.into();
        let blobs = [
            (Descriptor::of(media::WORKING_SET_INDEX, &index), index),
            (Descriptor::of(media::WORKING_SET_DATA, &data), data),
        ];
        let layers = blobs
            .iter()
            .map(|(descriptor, _)| descriptor.clone())
            .collect();
        let mut content = ManifestContent::artifact(media::WORKING_SET, subject.clone(), layers);
        content
            .annotations
            .insert(media::ANNOTATION_PROFILE.to_owned(), profile.to_owned());
        if origin == Origin::Static {
            let (key, value) = (media::ANNOTATION_ORIGIN, media::ORIGIN_STATIC);
            content.annotations.insert(key.to_owned(), value.to_owned());
        }
        let manifest = Manifest::parse(content.to_bytes(), None).map_err(PackError::Manifest)?;
        Ok(Self {
            manifest,
            set: packed.set,
            blobs,
        })
    }

    /// Its manifest.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its index.
    #[must_use]
    pub const fn set(&self) -> &WorkingSet {
        &self.set
    }

    /// Its blobs.
    #[must_use]
    pub const fn blobs(&self) -> &[(Descriptor, Arc<[u8]>); 2] {
        &self.blobs
    }

    /// Pushes it and enters it among the image's referrers.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn publish(&self, repository: &dyn Repository) -> Result<(), RegistryError> {
        let empty = Descriptor::of(media::EMPTY, media::EMPTY_CONTENT);
        repository.put_blob(&empty, &mut Cursor::new(media::EMPTY_CONTENT))?;
        for (descriptor, bytes) in &self.blobs {
            repository.put_blob(descriptor, &mut Cursor::new(bytes))?;
        }
        repository.add_referrer(&self.manifest)
    }
}

/// Checks the manifest of a working set.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse_working_set(manifest: &Manifest, subject: &Digest) -> Result<WorkingSetRef, String> {
    let content = manifest.content().map_err(|error| error.to_string())?;
    if content.artifact_type.as_deref() != Some(media::WORKING_SET) {
        return Err("it is no working set".to_owned());
    }
    if content.subject.as_ref().map(|subject| subject.digest) != Some(*subject) {
        return Err(format!("it speaks for another image than {subject}"));
    }
    let part = |media_type: &str| {
        let mut layers = content.layers.iter();
        layers.find(|layer| layer.media_type == media_type).cloned()
    };
    let profile = content
        .annotations
        .get(media::ANNOTATION_PROFILE)
        .cloned()
        .unwrap_or_default();
    let origin = content.annotations.get(media::ANNOTATION_ORIGIN);
    let origin = match origin.map(String::as_str) {
        Some(media::ORIGIN_STATIC) => Origin::Static,
        _ => Origin::Recorded,
    };
    match (
        part(media::WORKING_SET_INDEX),
        part(media::WORKING_SET_DATA),
    ) {
        (Some(index), Some(data)) => Ok(WorkingSetRef {
            index,
            data,
            profile,
            origin,
        }),
        _ => Err("it lacks its index or its data".to_owned()),
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;

    fn extent(offset: u64, len: u64) -> Extent {
        Extent { offset, len }
    }

    #[test]
    fn ranges_give_what_is_new() {
        let mut ranges = Ranges::default();
        assert_eq!(ranges.insert(extent(10, 10)), [extent(10, 10)]);
        assert_eq!(ranges.insert(extent(12, 3)), []);
        assert_eq!(ranges.insert(extent(5, 20)), [extent(5, 5), extent(20, 5)]);
        assert_eq!(ranges.insert(extent(0, 40)), [extent(0, 5), extent(25, 15)]);
        assert_eq!(ranges.0.len(), 1);
    }

    #[test]
    fn traces_only_grow() {
        let a = DiffId(Digest::of(b"a"));
        let old = [(a, extent(0, 512)), (a, extent(4096, 512))];
        let merged = merge_traces(&old, &[(a, extent(0, 1024))]);
        assert_eq!(merged, [old[0], old[1], (a, extent(512, 512))]);
        assert_eq!(merge_traces(&old, &[]), old);
    }

    #[test]
    fn what_is_packed_is_what_was_read() {
        let (a, b) = (DiffId(Digest::of(b"a")), DiffId(Digest::of(b"b")));
        let tars: Vec<Vec<u8>> = (1..=2u32)
            .map(|seed| (0..700_100u32).map(|i| ((i * seed) >> 3) as u8).collect())
            .collect();
        let layers = [(a, 700_100), (b, 700_100)];
        let read = |id: &DiffId, extent: Extent| {
            let tar = &tars[usize::from(*id == b)];
            Ok(tar[extent.offset as usize..extent.end() as usize].to_vec())
        };
        let trace = [
            (b, extent(600_000, 100_100)),
            (a, extent(0, 300_000)),
            (a, extent(301_000, 100)),
            (b, extent(699_999, 9_999)),
            (DiffId(Digest::of(b"other")), extent(0, 512)),
        ];
        let PackedSet { set, data } =
            pack(&trace, &layers, &read, &PackOptions::default()).unwrap();
        assert_eq!(WorkingSet::decode(&set.encode()).unwrap(), set);
        assert_eq!(set.data_size(), data.len() as u64);
        assert!(
            set.frames[0].runs.iter().any(|run| run.layer == 1),
            "what was read first comes first"
        );
        let mut covered = [Ranges::default(), Ranges::default()];
        for frame in &set.frames {
            let range = frame.data.offset as usize..frame.data.end() as usize;
            assert_eq!(Digest::of(&data[range.clone()]), frame.digest);
            let bytes = zstd::decode_all(&data[range]).unwrap();
            let mut at = 0;
            for run in &frame.runs {
                let extent = set.extent(run);
                let tar = &tars[usize::from(run.layer)];
                let expected = &tar[extent.offset as usize..extent.end() as usize];
                assert_eq!(&bytes[at..at + expected.len()], expected);
                at += expected.len();
                covered[usize::from(run.layer)].insert(extent);
            }
            assert_eq!(at, bytes.len());
        }
        for (id, wanted) in &trace[..4] {
            let inside = wanted.intersect(&extent(0, 700_100));
            assert!(
                covered[usize::from(*id == b)].insert(inside).is_empty(),
                "{wanted:?}"
            );
        }
    }
}
