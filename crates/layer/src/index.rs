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
//! size, beside the entries and the table that are its result.
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

use thaw_image::{DiffId, Digest, Hasher, LayerFormat, MAX_CHUNK_TAR, MAX_CHUNKS, SeekTable};

use crate::inflate::InflateError;
use crate::tar::{self, TarError};
use crate::window::Windows;
use consume::{Consumer, Found};
use produce::{Failure, Intake, Link};

/// Most that a chunk may have beyond the spacing: a stored block of deflate.
const SLACK: u64 = 64 << 10;
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
    /// Most bytes that the tar may have: what stops a decompression bomb.
    pub max_tar_size: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            spacing: 1 << 20,
            max_tar_size: 1 << 40,
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
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Index {
    /// How to produce any range of the tar again.
    pub table: SeekTable,
    /// The members of the tar, in its order.
    pub entries: Vec<tar::Entry>,
    /// SHA-256 of the windows blob.
    pub windows: Digest,
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
    /// The layer is what the manifest names, but its tar cannot be read.
    #[error("the layer is not a readable tar")]
    Tar(#[from] TarError),
    /// The tar is larger than [`Options::max_tar_size`].
    #[error("the layer unpacks to more than {limit} bytes")]
    TooLarge {
        /// [`Options::max_tar_size`].
        limit: u64,
    },
    /// A good layer for which no seek table can be made: [`unpack`] reads it.
    #[error("no seek table can be made for the layer: {reason}")]
    Unindexable {
        /// What stands against it.
        reason: &'static str,
    },
    /// The second thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// Reads a layer once, to its end: writes its tar, and gives its entries and its seek table.
/// `progress` hears how many bytes of the blob have been read so far.
///
/// # Errors
/// [`LayerError`]. When the blob's digest does not match that is what is reported, whatever else
/// went wrong because of it.
pub fn index(
    input: &mut (dyn Read + Send),
    format: LayerFormat,
    expected: &Expected,
    options: &Options,
    outputs: Outputs<'_>,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Index, LayerError> {
    let pass = Pass {
        format,
        expected,
        spacing: Some(options.spacing.clamp(1, MAX_CHUNK_TAR - SLACK)),
        max_tar_size: options.max_tar_size,
    };
    let found = pass.run(input, outputs, progress)?;
    if found.chunks.len() > MAX_CHUNKS {
        let reason = "it would have too many chunks";
        return Err(LayerError::Unindexable { reason });
    }
    Ok(Index {
        table: SeekTable {
            format,
            blob: expected.blob,
            blob_size: expected.blob_size,
            diff_id: found.diff_id,
            tar_size: found.tar_size,
            windows_size: found.windows_size,
            chunks: found.chunks,
        },
        entries: found.entries,
        windows: found.windows,
    })
}

/// Reads a layer once, as [`index`] does, without making a seek table: for layers that are
/// [`LayerError::Unindexable`]. `options.spacing` is not used.
///
/// # Errors
/// [`LayerError`], but never `Unindexable`.
pub fn unpack(
    input: &mut (dyn Read + Send),
    format: LayerFormat,
    expected: &Expected,
    options: &Options,
    tar: &mut (dyn Write + Send),
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Vec<tar::Entry>, LayerError> {
    let pass = Pass {
        format,
        expected,
        spacing: None,
        max_tar_size: options.max_tar_size,
    };
    let windows = &mut io::sink();
    let found = pass.run(input, Outputs { tar, windows }, progress)?;
    Ok(found.entries)
}

/// One pass over a layer.
struct Pass<'a> {
    format: LayerFormat,
    expected: &'a Expected,
    /// `None`: no chunks.
    spacing: Option<u64>,
    max_tar_size: u64,
}

impl Pass<'_> {
    fn run(
        &self,
        input: &mut (dyn Read + Send),
        outputs: Outputs<'_>,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Found, LayerError> {
        let mut intake = Intake {
            input,
            progress,
            hasher: Hasher::new(),
            read: 0,
            size: self.expected.blob_size,
        };
        let found = self.pipeline(&mut intake, outputs);
        // Damage on the way shows as a broken stream, long before the digest does: read on to
        // tell it from a layer that was made broken.
        if matches!(
            found,
            Ok(_) | Err(LayerError::Gzip { .. } | LayerError::Tar(_))
        ) {
            intake.verify(self.expected)?;
        }
        let found = found?;
        if found.diff_id != self.expected.diff_id {
            return Err(LayerError::DiffId {
                expected: self.expected.diff_id,
                actual: found.diff_id,
            });
        }
        Ok(found)
    }

    fn pipeline(&self, intake: &mut Intake<'_>, outputs: Outputs<'_>) -> Result<Found, LayerError> {
        let (batches, received) = sync_channel(WAITING);
        let (returned, empty) = channel();
        let link = Link {
            batches,
            empty,
            events: Vec::new(),
            sent: 0,
            max_tar_size: self.max_tar_size,
        };
        let consumer = Consumer::new(outputs.tar, Windows::new(outputs.windows));
        std::thread::scope(|scope| {
            let second = std::thread::Builder::new()
                .name("thaw-index".into())
                .spawn_scoped(scope, || consumer.run(received, returned))
                .map_err(LayerError::Thread)?;
            let produced = match self.format {
                LayerFormat::Tar => produce::stored(intake, link, self.spacing.is_some()),
                LayerFormat::Gzip => produce::gzip(intake, link, self.spacing),
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

#[cfg(test)]
mod tests;
