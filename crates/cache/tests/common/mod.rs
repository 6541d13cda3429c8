//! What the tests of this crate share.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(
    clippy::cast_precision_loss,
    reason = "a test double's rates need no precision"
)]

use std::io::Write;
use std::path::Path;

use thaw_cache::{BootId, Store};
use thaw_image::{Digest, Verified};
use thaw_layer::{Budget, Expected, Options, Outputs, Packing, TarProof};

/// A directory on a real disk: tmpfs has neither page cache semantics nor room.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("thaw-cache-")
        .tempdir_in("/var/tmp")
        .unwrap()
}

pub(crate) fn boot(number: u8) -> BootId {
    BootId([number; 16])
}

pub(crate) fn store(root: &Path, number: u8) -> Store {
    Store::open_in_boot(root, boot(number)).unwrap()
}

pub(crate) fn verified(bytes: &[u8]) -> Verified {
    Verified::check(bytes.to_vec(), &Digest::of(bytes)).unwrap()
}

/// Bytes that look random, of which no block is zero or like another; the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A tar of one file of `len` bytes that look random.
pub(crate) fn tar_of(seed: u64, len: usize) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(len as u64);
    header.set_mode(0o644);
    let mut builder = tar::Builder::new(Vec::new());
    let data = noise(seed, len);
    builder.append_data(&mut header, "file", &data[..]).unwrap();
    builder.into_inner().unwrap()
}

/// Streams a tar to where it shall go, as a full pull does.
pub(crate) fn stream(tar: &[u8], to: &mut (dyn Write + Send)) -> TarProof {
    let expected = Expected {
        blob: Digest::of(tar),
        blob_size: tar.len() as u64,
        diff_id: DiffId(Digest::of(tar)),
    };
    let outputs = Outputs {
        tar: to,
        windows: &mut std::io::sink(),
    };
    let options = Options::default();
    let budget = Budget::new(options.max_memory);
    let index = thaw_layer::index(
        &mut &*tar,
        Packing::Tar,
        &expected,
        &options,
        outputs,
        &budget,
        &mut |_| (),
    );
    index.unwrap().proof
}

pub(crate) mod double;

use std::sync::Arc;
use std::time::{Duration, Instant};

use double::Double;
use thaw_cache::{Attachment, Fetcher, LayerTar, Origin};
use thaw_image::{
    BLOCK, BlobSource, BlockRun, Chunk, ChunkDigest, CodecState, DiffId, Extent, Frame,
    LayerFormat, Run, SeekTable, WorkingSet,
};

/// A table of a plain tar with chunks of `spacing` bytes, which need not be blocks.
pub(crate) fn table(content: &[u8], spacing: usize) -> SeekTable {
    let digest = Digest::of(content);
    let chunks = content.chunks(spacing).enumerate().map(|(number, bytes)| {
        let tar = Extent {
            offset: (number * spacing) as u64,
            len: bytes.len() as u64,
        };
        Chunk {
            tar,
            blob: tar,
            state: CodecState::Stored,
            digest: ChunkDigest::of(bytes),
        }
    });
    SeekTable {
        format: LayerFormat::Tar,
        blob: digest,
        blob_size: content.len() as u64,
        diff_id: DiffId(digest),
        tar_size: content.len() as u64,
        windows_size: 0,
        chunks: chunks.collect(),
    }
}

/// A layer, where it comes from, and who fetches it.
pub(crate) struct Scene {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) content: Vec<u8>,
    pub(crate) layer: Arc<LayerTar>,
    pub(crate) source: Arc<Double>,
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) attachment: Attachment,
}

impl Scene {
    /// A layer of `size` bytes in chunks of `spacing`, from one source.
    pub(crate) fn new(size: usize, spacing: usize) -> Self {
        let source = Double::new("first");
        Self::with(size, spacing, &[source])
    }

    pub(crate) fn with(size: usize, spacing: usize, sources: &[Arc<Double>]) -> Self {
        Self::build(scratch(), noise(11, size), spacing, sources)
    }

    /// Like [`Scene::new`]; chunks with more than `gap` bytes between them are read one by one.
    pub(crate) fn with_gap(size: usize, spacing: usize, gap: u64) -> Self {
        let source = Double::new("first");
        Self::build_with(scratch(), noise(11, size), spacing, &[source], gap)
    }

    pub(crate) fn build(
        dir: tempfile::TempDir,
        content: Vec<u8>,
        spacing: usize,
        sources: &[Arc<Double>],
    ) -> Self {
        let gap = thaw_cache::Settings::default().merge_gap;
        Self::build_with(dir, content, spacing, sources, gap)
    }

    fn build_with(
        dir: tempfile::TempDir,
        content: Vec<u8>,
        spacing: usize,
        sources: &[Arc<Double>],
        merge_gap: u64,
    ) -> Self {
        let store = store(dir.path(), 1);
        // Only what a test asks for.
        let settings = thaw_cache::Settings {
            ahead_bytes: 0,
            merge_gap,
            ..thaw_cache::Settings::default()
        };
        let fetcher = Fetcher::new(settings).unwrap();
        let table = Arc::new(table(&content, spacing));
        let layer = store.layers().open(&table.diff_id, table.tar_size).unwrap();
        for source in sources {
            source.add(&content);
        }
        let origin = origin(&table, sources);
        let attachment = fetcher.attach(layer.clone(), origin);
        Self {
            dir,
            store,
            content,
            layer,
            source: sources[0].clone(),
            fetcher,
            attachment,
        }
    }

    pub(crate) fn id(&self) -> DiffId {
        self.layer.diff_id()
    }

    pub(crate) fn demand(&self, offset: u64, len: u64) -> Result<(), thaw_cache::FetchError> {
        let deadline = Instant::now() + Duration::from_secs(10);
        self.demand_by(offset, len, deadline)
    }

    pub(crate) fn demand_by(
        &self,
        offset: u64,
        len: u64,
        deadline: Instant,
    ) -> Result<(), thaw_cache::FetchError> {
        let extent = Extent { offset, len };
        let result = self.fetcher.demand(&self.id(), extent, deadline);
        if result.is_ok() {
            assert!(self.layer.contains(extent));
        }
        result
    }

    /// Fails if any present block, or any byte that is not zero, is not the layer's.
    pub(crate) fn scan(&self) {
        let mut bytes = vec![0; self.content.len()];
        self.layer.read_at(&mut bytes, 0).unwrap();
        for (number, (have, want)) in bytes.chunks(512).zip(self.content.chunks(512)).enumerate() {
            let block = Extent {
                offset: number as u64 * BLOCK,
                len: 1,
            };
            assert!(
                !self.layer.contains(block) || have == want,
                "block {number} is wrong"
            );
            let right = have.iter().zip(want).all(|(h, w)| h == w || *h == 0);
            assert!(right, "block {number} has bytes that nobody verified");
        }
    }
}

pub(crate) fn origin(table: &Arc<SeekTable>, sources: &[Arc<Double>]) -> Origin {
    let loaded = table.clone();
    Origin {
        image: "registry.test/app:1".into(),
        blobs: sources
            .iter()
            .map(|source| source.clone() as Arc<dyn BlobSource>)
            .collect(),
        layer_blob: table.blob,
        table: Box::new(move |_| Ok(loaded.clone())),
        table_host: String::new(),
        windows: None,
    }
}

/// A working set with one frame for each list of (first block, blocks), and its data.
pub(crate) fn working_set(content: &[u8], frames: &[Vec<(u64, u64)>]) -> (WorkingSet, Vec<u8>) {
    let size = content.len() as u64;
    let mut set = WorkingSet {
        layers: vec![(DiffId(Digest::of(content)), size)],
        frames: Vec::new(),
    };
    let mut data = Vec::new();
    for runs in frames {
        let mut bytes = Vec::new();
        let mut list = Vec::new();
        for (first, count) in runs {
            let blocks = BlockRun {
                first: *first,
                count: *count,
            };
            let extent = blocks.extent(size);
            let from = usize::try_from(extent.offset).unwrap();
            bytes.extend_from_slice(&content[from..from + usize::try_from(extent.len).unwrap()]);
            list.push(Run { layer: 0, blocks });
        }
        let packed = zstd::bulk::compress(&bytes, 1).unwrap();
        set.frames.push(Frame {
            data: Extent {
                offset: data.len() as u64,
                len: packed.len() as u64,
            },
            digest: Digest::of(&packed),
            runs: list,
        });
        data.extend_from_slice(&packed);
    }
    (set, data)
}
