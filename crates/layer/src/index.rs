//! Indexing a layer in one pass, on two threads.
//!
//! ```text
//!   caller's thread (produce)                      second thread (consume)
//!   read ▶ hash blob ▶ inflate ▶ find boundaries ──batches──▶ hash tar and chunk ▶ scan ▶ write tar
//!                                      ▲                       compress and write windows
//!                                      └──────────empty buffers──────────┘
//! ```
//!
//! A batch holds up to 512 KiB of tar; at most four of them exist, each with 32 KiB of history.
//! With the input buffer, the tables and zstd's context a layer takes less than 8 MiB, whatever its
//! size, and in a tar with the largest sparse maps 8 MiB more; beside the entries and the table that
//! are its result, and have a [`Budget`].
//!
//! A chunk ends at the first place at or after the spacing from where decoding can go on: a gzip
//! member, a deflate block, or a symbol inside of a block. Only in stored blocks, which have less
//! than 64 KiB, there is no such place. So no chunk has more than [`MAX_CHUNK_TAR`] bytes, whatever
//! encoder made the stream.
//!
//! What is written is not verified before the end: the digests are known only then.

mod consume;
mod produce;

use std::io::{self, Read, Write};
use std::sync::mpsc::{channel, sync_channel};

use thaw_image::{
    DiffId, Digest, Hasher, LayerFormat, MAX_CHUNK_BLOB, MAX_CHUNK_TAR, MAX_CHUNKS, SeekTable,
};

use crate::budget::{Budget, OverBudget};
use crate::format::Packing;
use crate::inflate::InflateError;
use crate::tar::{self, TarError};
use crate::window::Windows;
use consume::{Consumer, Found};
use produce::{Failure, Intake, Link};

/// Most that a chunk may have beyond the spacing: a stored block of deflate.
const SLACK: u64 = 64 << 10;
/// Most bytes of a layer that cannot be used that are read to tell what is wrong with it: at 100 Mbit/s
/// that takes 20 seconds. Nothing else comes of it, and how many there are is the manifest's word.
const MAX_UNUSED: u64 = 256 << 20;
/// Batches that wait for the second thread.
const WAITING: usize = 2;

/// What the image says of a layer. All of it is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    /// SHA-256 of the blob.
    pub blob: Digest,
    /// Bytes of the blob.
    pub blob_size: u64,
    /// SHA-256 of the tar.
    pub diff_id: DiffId,
}

/// How to index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Bytes of tar in a chunk of a compressed layer: each has at least so many, and less than
    /// 64 KiB more. At least 1 and at most 1 MiB; what is beyond is taken for that.
    pub spacing: u64,
    /// Most bytes that the tar may have.
    pub max_tar_size: u64,
    /// How many times the blob's size the tar may have, if that is more than [`Options::small_tar`]:
    /// what stops a decompression bomb. Layers of programs and data reach 10; gzip's most is 1,032,
    /// zstd knows none.
    pub max_ratio: u64,
    /// Bytes of tar that any blob may have.
    pub small_tar: u64,
    /// Most bytes of memory for what grows with the image: the limit of the [`Budget`] that all of
    /// its layers take from.
    pub max_memory: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            // A fault brings and inflates a whole chunk: half a MiB is some 200 KiB of blob. Half of
            // that would double the index once more and save little beside the round trip.
            spacing: 512 << 10,
            max_tar_size: 256 << 30,
            max_ratio: 250,
            small_tar: 1 << 30,
            max_memory: 256 << 20,
        }
    }
}

impl Options {
    /// What the tar of a blob of this size may have.
    fn bound(&self, blob_size: u64) -> Bound {
        let by_ratio = blob_size.saturating_mul(self.max_ratio).max(self.small_tar);
        Bound {
            bytes: by_ratio.min(self.max_tar_size),
            ratio: (by_ratio < self.max_tar_size).then_some(self.max_ratio),
        }
    }
}

/// Most bytes of a tar.
#[derive(Clone, Copy, Debug)]
struct Bound {
    bytes: u64,
    /// Whether that is because of its blob's size.
    ratio: Option<u64>,
}

impl Bound {
    fn check(self, bytes: u64) -> Result<(), LayerError> {
        let limit = self.bytes;
        match self.ratio {
            _ if bytes <= limit => Ok(()),
            Some(ratio) => Err(LayerError::Bomb { limit, ratio }),
            None => Err(LayerError::TooLarge { limit }),
        }
    }
}

/// Where the products of the pass go, in order. They hold unverified bytes until it succeeded.
pub struct Outputs<'a> {
    /// The tar.
    pub tar: &'a mut (dyn Write + Send),
    /// The windows blob, which the seek table refers to.
    pub windows: &'a mut (dyn Write + Send),
}

impl std::fmt::Debug for Outputs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outputs")
    }
}

/// What the pass found.
#[derive(Debug)]
pub struct Index<'a> {
    /// The members of the tar.
    pub entries: tar::Entries<'a>,
    /// That the tar went out whole and is the right one.
    pub proof: TarProof,
    /// How to produce any range of the tar again; else why there is no seek table, and the tar
    /// has to be kept.
    pub seek: Result<Seek, Unseekable>,
}

/// How to produce any range of a tar from the layer's blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seek {
    /// The seek table.
    pub table: SeekTable,
    /// SHA-256 of the windows blob.
    pub windows: Digest,
}

/// That all bytes of a layer's tar went to the writer that [`index()`] was given, and that the
/// blob's digest, its size and the tar's diffID were those that the image promises. Nothing else
/// makes one, so whoever asks for it need not hash the tar again.
#[derive(PartialEq, Eq, Debug)]
pub struct TarProof {
    diff_id: DiffId,
    size: u64,
}

impl TarProof {
    /// Of which tar.
    #[must_use]
    pub const fn diff_id(&self) -> DiffId {
        self.diff_id
    }

    /// Bytes of the tar.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }
}

/// Why a good layer has no seek table.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unseekable {
    /// zstd.
    #[error("zstd layers have no seek table yet")]
    Zstd,
    /// Members or blocks without data.
    #[error("a chunk would take more than {MAX_CHUNK_BLOB} bytes of the blob")]
    ChunkBlob,
    /// More chunks than a table takes.
    #[error("it would have more than {MAX_CHUNKS} chunks")]
    Chunks,
}

/// Why a layer could not be indexed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The blob could not be read to its end.
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    /// The tar could not be written.
    #[error("cannot write the layer's tar")]
    WriteTar(#[source] io::Error),
    /// The windows blob could not be written.
    #[error("cannot write the layer's windows")]
    WriteWindows(#[source] io::Error),
    /// The blob is not the one that the manifest names: it was damaged on the way, or replaced.
    #[error("the layer is damaged: the manifest promises {expected}, the bytes are {actual}")]
    BlobDigest {
        /// From the manifest.
        expected: Digest,
        /// Of the bytes read.
        actual: Digest,
    },
    /// The blob has another size than the manifest says.
    #[error("the layer has the wrong size: the manifest promises {expected} bytes, got {actual}")]
    BlobSize {
        /// From the manifest.
        expected: u64,
        /// Bytes read. When more came than promised, reading stopped there.
        actual: u64,
    },
    /// The tar is not the one that the image's configuration names: the image lies.
    #[error("the layer's tar is {actual}, the image's configuration promises {expected}")]
    DiffId {
        /// From the configuration.
        expected: DiffId,
        /// Of the tar.
        actual: DiffId,
    },
    /// The layer is what the manifest names, but it cannot be decompressed.
    #[error("the layer cannot be decompressed, at byte {offset} of it")]
    Gzip {
        /// Where in the blob.
        offset: u64,
        /// What is wrong there.
        source: InflateError,
    },
    /// The same for a layer of zstd frames.
    #[error("the layer cannot be decompressed")]
    Zstd(#[source] io::Error),
    /// The layer is what the manifest names, but its tar cannot be read.
    #[error("the layer is not a readable tar")]
    Tar(#[from] TarError),
    /// The tar is larger than [`Options::max_tar_size`].
    #[error("the layer unpacks to more than {limit} bytes")]
    TooLarge {
        /// [`Options::max_tar_size`].
        limit: u64,
    },
    /// The tar is larger than [`Options::max_ratio`] allows.
    #[error(
        "the layer unpacks to more than {limit} bytes, over {ratio} times its own: a \
         decompression bomb"
    )]
    Bomb {
        /// Bytes that it might have had.
        limit: u64,
        /// [`Options::max_ratio`].
        ratio: u64,
    },
    /// The blob is larger than a tar of [`Options::max_tar_size`] is in any encoding, but one that says
    /// nothing at length.
    #[error("the manifest promises {size} bytes for the layer, more than any layer may have")]
    BlobTooLarge {
        /// From the manifest.
        size: u64,
    },
    /// The table takes too much memory.
    #[error(transparent)]
    Memory(#[from] OverBudget),
    /// The second thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// Reads a layer once, to its end: writes its tar, and gives its entries and its seek table.
/// Entries and table take their memory from `budget`; `progress` hears how many bytes of the blob
/// have been read so far.
///
/// # Errors
/// [`LayerError`]. When the blob's digest does not match that is what is reported, whatever else
/// went wrong because of it; unless so much of it is left that nobody reads it for that.
pub fn index<'a>(
    input: &mut (dyn Read + Send),
    packing: Packing,
    expected: &Expected,
    options: &Options,
    outputs: Outputs<'_>,
    budget: &'a Budget,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Index<'a>, LayerError> {
    if expected.blob_size
        > options
            .max_tar_size
            .saturating_add(options.max_tar_size / 64)
    {
        return Err(LayerError::BlobTooLarge {
            size: expected.blob_size,
        });
    }
    let mut intake = Intake {
        input,
        progress,
        hasher: Hasher::new(),
        read: 0,
        size: expected.blob_size,
    };
    let pass = Pass {
        packing,
        bound: options.bound(expected.blob_size),
        spacing: options.spacing.clamp(1, MAX_CHUNK_TAR - SLACK),
        budget,
    };
    let found = pass.run(&mut intake, outputs);
    // Damage on the way shows as a broken stream, long before the digest does: read on to tell it
    // from a layer that was made broken, if that is not for long.
    let tells = match found {
        Ok(_) => true,
        Err(
            LayerError::Gzip { .. }
            | LayerError::Zstd(_)
            | LayerError::Tar(_)
            | LayerError::Memory(_),
        ) => expected.blob_size.saturating_sub(intake.read) <= MAX_UNUSED,
        Err(_) => false,
    };
    if tells {
        intake.verify(expected)?;
    }
    let found = found?;
    if found.diff_id != expected.diff_id {
        return Err(LayerError::DiffId {
            expected: expected.diff_id,
            actual: found.diff_id,
        });
    }
    Ok(proven(found, packing, expected))
}

/// One pass over a layer.
struct Pass<'a> {
    packing: Packing,
    bound: Bound,
    spacing: u64,
    budget: &'a Budget,
}

impl<'a> Pass<'a> {
    fn run(&self, intake: &mut Intake<'_>, outputs: Outputs<'_>) -> Result<Found<'a>, LayerError> {
        let (batches, received) = sync_channel(WAITING);
        let (returned, empty) = channel();
        let link = Link {
            batches,
            empty,
            events: Vec::new(),
            sent: 0,
            bound: self.bound,
        };
        let consumer = Consumer::new(outputs.tar, Windows::new(outputs.windows), self.budget);
        std::thread::scope(|scope| {
            let second = std::thread::Builder::new()
                .name("thaw-index".into())
                .spawn_scoped(scope, || consumer.run(received, returned))
                .map_err(LayerError::Thread)?;
            let produced = match self.packing {
                Packing::Tar => produce::stored(intake, link),
                Packing::Gzip => produce::gzip(intake, link, self.spacing),
                Packing::Zstd => produce::zstd(intake, link),
            };
            let found = match second.join() {
                Ok(found) => found,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            match produced {
                Err(Failure::Layer(error)) => Err(error),
                Ok(()) | Err(Failure::Hangup) => found,
            }
        })
    }
}

/// What was found as the image's owner may rely on it: all that it promised is true.
fn proven<'a>(found: Found<'a>, packing: Packing, expected: &Expected) -> Index<'a> {
    let seek = match found.unseekable {
        Some(reason) => Err(reason),
        None if found.chunks.len() > MAX_CHUNKS => Err(Unseekable::Chunks),
        None => Ok(Seek {
            table: SeekTable {
                format: match packing {
                    Packing::Tar => LayerFormat::Tar,
                    Packing::Gzip | Packing::Zstd => LayerFormat::Gzip,
                },
                blob: expected.blob,
                blob_size: expected.blob_size,
                diff_id: found.diff_id,
                tar_size: found.tar_size,
                windows_size: found.windows_size,
                chunks: found.chunks,
            },
            windows: found.windows,
        }),
    };
    Index {
        entries: found.entries,
        proof: TarProof {
            diff_id: found.diff_id,
            size: found.tar_size,
        },
        seek,
    }
}

#[cfg(test)]
mod tests;
