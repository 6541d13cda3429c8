//! The seek table: how to produce any range of a layer tar from the layer's blob.
//!
//! A table is a list of chunks that cover the tar without gap or overlap, in order. A chunk is
//! the unit of *demand* fetches: one ranged read of the blob, one decode from a known codec
//! state, one digest. gzip with checkpoints, plain tar and whatever comes later differ only in
//! the [`CodecState`] of their chunks.

use crate::wire::{FormatError, Reader, seal};
use crate::{ChunkDigest, DiffId, Digest, Extent};

const WHAT: &str = "seek table";
const MAGIC: &[u8; 8] = b"THAWSEEK";
const VERSION: u32 = 3;
const ENTRY_BYTES: usize = 72;

/// Most chunks a table may have: 64 GiB of tar in chunks of 64 KiB.
pub const MAX_CHUNKS: usize = 1 << 20;
/// Most bytes of tar in one chunk: what a fault may have to decode and hold. 1 MiB, and room for
/// a deflate block that cannot be divided.
pub const MAX_CHUNK_TAR: u64 = (1 << 20) + (64 << 10);
/// Most bytes of the blob for one chunk, which exceed its tar bytes by headers only.
pub const MAX_CHUNK_BLOB: u64 = 4 << 20;
/// Most bytes of one compressed window: 32 KiB and a block's header do not grow beyond this.
const MAX_WINDOW_BYTES: u32 = 40 << 10;

/// How a layer's blob is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum LayerFormat {
    /// The tar itself.
    Tar,
    /// A gzip stream of one or several members (RFC 1952).
    Gzip,
}

/// Where the decoder stands at the first byte of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodecState {
    /// The bytes are the tar's own.
    Stored,
    /// A gzip member starts here, with its header.
    GzipMember,
    /// Inside a deflate stream, at the header of a block or between two symbols of one.
    Deflate {
        /// How many low bits of the chunk's first blob byte belong to the block before: 0 to 7.
        skip_bits: u8,
        /// Between two symbols: the header of their block is behind the window.
        in_block: bool,
        /// The up to 32 KiB of tar before the chunk that its data refers back to.
        window: WindowRef,
    },
}

/// Where a checkpoint's window lies in the windows blob: one zstd frame of exactly 32 KiB
/// unpacked, in which the bytes that nothing refers to are zero, and for a chunk that starts inside
/// of a block that block's header behind them. `len` 0: none is needed.
///
/// A window needs no digest of its own: a wrong one gives a wrong chunk, which its digest refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WindowRef {
    /// First byte in the windows blob.
    pub offset: u64,
    /// Compressed bytes.
    pub len: u32,
}

/// One independently fetched, decoded and verified range of a layer tar.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// The range of the tar.
    pub tar: Extent,
    /// The range of the blob from which it is decoded. Neighbours may share a byte.
    pub blob: Extent,
    /// The decoder's state at its start.
    pub state: CodecState,
    /// Of its tar bytes.
    pub digest: ChunkDigest,
}

/// The seek table of one layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeekTable {
    /// How the blob is packed.
    pub format: LayerFormat,
    /// The layer's blob.
    pub blob: Digest,
    /// Its bytes.
    pub blob_size: u64,
    /// The layer's tar.
    pub diff_id: DiffId,
    /// Its bytes.
    pub tar_size: u64,
    /// Bytes of the windows blob; 0 where the format needs none.
    pub windows_size: u64,
    /// Chunks in tar order, covering all of it.
    pub chunks: Vec<Chunk>,
}

impl SeekTable {
    /// The numbers of the chunks that hold `extent`; empty for an extent beyond the tar.
    #[must_use]
    pub fn covering(&self, extent: Extent) -> std::ops::Range<usize> {
        if extent.is_empty() {
            return 0..0;
        }
        let first = self
            .chunks
            .partition_point(|chunk| chunk.tar.end() <= extent.offset);
        let end = self
            .chunks
            .partition_point(|chunk| chunk.tar.offset < extent.end());
        first..end.max(first)
    }

    /// Writes the table as `docs/format.md` pictures it. The same table gives the same bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(152 + self.chunks.len() * ENTRY_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        let format: u32 = match self.format {
            LayerFormat::Tar => 0,
            LayerFormat::Gzip => 1,
        };
        out.extend_from_slice(&format.to_le_bytes());
        out.extend_from_slice(self.blob.as_bytes());
        out.extend_from_slice(&self.blob_size.to_le_bytes());
        out.extend_from_slice(self.diff_id.0.as_bytes());
        out.extend_from_slice(&self.tar_size.to_le_bytes());
        out.extend_from_slice(&self.windows_size.to_le_bytes());
        out.extend_from_slice(&(self.chunks.len() as u64).to_le_bytes());
        for chunk in &self.chunks {
            let (state, skip_bits, window) = match chunk.state {
                CodecState::Stored => (0u8, 0, WindowRef::default()),
                CodecState::GzipMember => (1, 0, WindowRef::default()),
                CodecState::Deflate {
                    skip_bits,
                    in_block,
                    window,
                } => (2 + u8::from(in_block), skip_bits, window),
            };
            // A chunk's tar offset is the end of the one before, so it is not written.
            let tar_len = u32::try_from(chunk.tar.len).unwrap_or(u32::MAX);
            let blob_len = u32::try_from(chunk.blob.len).unwrap_or(u32::MAX);
            out.extend_from_slice(&chunk.blob.offset.to_le_bytes());
            out.extend_from_slice(&blob_len.to_le_bytes());
            out.extend_from_slice(&tar_len.to_le_bytes());
            out.extend_from_slice(&window.offset.to_le_bytes());
            out.extend_from_slice(&window.len.to_le_bytes());
            out.extend_from_slice(&[state, skip_bits, 0, 0]);
            out.extend_from_slice(&[0; 8]);
            out.extend_from_slice(chunk.digest.as_bytes());
        }
        seal(out)
    }

    /// Reads what [`SeekTable::encode`] wrote, and checks all of it: that the chunks cover the tar
    /// without gap or overlap, that every range lies in its blob, that every length is bounded.
    ///
    /// # Errors
    /// [`FormatError`] with the field. Never allocates more than a constant times `bytes.len()`.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::open(WHAT, bytes, MAGIC, VERSION)?;
        let format = match reader.u32("format")? {
            0 => LayerFormat::Tar,
            1 => LayerFormat::Gzip,
            other => return Err(reader.bad("format", format!("{other} is unknown"))),
        };
        let blob = reader.digest("blob digest")?;
        let blob_size = reader.u64("blob size")?;
        let diff_id = DiffId(reader.digest("diffID")?);
        let tar_size = reader.u64("tar size")?;
        let windows_size = reader.u64("windows size")?;
        let count = reader.count("chunk count", ENTRY_BYTES, MAX_CHUNKS)?;
        let limits = Limits {
            format,
            blob_size,
            windows_size,
        };
        let mut chunks = Vec::with_capacity(count);
        let mut tar_offset = 0;
        for _ in 0..count {
            let chunk = limits.chunk(&mut reader, tar_offset)?;
            tar_offset = chunk.tar.end();
            chunks.push(chunk);
        }
        if tar_offset != tar_size {
            let reason = format!("the chunks hold {tar_offset} bytes, the tar {tar_size}");
            return Err(reader.bad("chunks", reason));
        }
        reader.end()?;
        Ok(Self {
            format,
            blob,
            blob_size,
            diff_id,
            tar_size,
            windows_size,
            chunks,
        })
    }
}

/// What a chunk's fields must stay within.
struct Limits {
    format: LayerFormat,
    blob_size: u64,
    windows_size: u64,
}

impl Limits {
    fn chunk(&self, reader: &mut Reader<'_>, tar_offset: u64) -> Result<Chunk, FormatError> {
        let blob_offset = reader.u64("blob offset")?;
        let blob_len = u64::from(reader.u32("blob length")?);
        let tar_len = u64::from(reader.u32("tar length")?);
        let window_offset = reader.u64("window offset")?;
        let window = WindowRef {
            offset: window_offset,
            len: reader.u32("window length")?,
        };
        let [state, skip_bits] = reader.bytes("codec state")?;
        reader.zero::<10>("reserved")?;
        let digest = ChunkDigest::from_bytes(reader.bytes("chunk digest")?);

        let tar = Extent::checked(tar_offset, tar_len)
            .filter(|tar| tar.len > 0 && tar.len <= MAX_CHUNK_TAR)
            .ok_or_else(|| reader.bad("tar length", format!("{tar_len} bytes at {tar_offset}")))?;
        let blob = Extent::checked(blob_offset, blob_len)
            .filter(|blob| blob.end() <= self.blob_size && blob.len <= MAX_CHUNK_BLOB)
            .ok_or_else(|| {
                reader.bad("blob range", format!("{blob_len} bytes at {blob_offset}"))
            })?;
        let window_fits = Extent::checked(window.offset, u64::from(window.len))
            .is_some_and(|extent| extent.end() <= self.windows_size);
        if window.len > MAX_WINDOW_BYTES || !window_fits {
            let reason = format!("{} bytes at {}", window.len, window.offset);
            return Err(reader.bad("window", reason));
        }
        let is_plain = skip_bits == 0 && window == WindowRef::default();
        let state = match (self.format, state) {
            (LayerFormat::Tar, 0) if blob == tar && is_plain => CodecState::Stored,
            (LayerFormat::Gzip, 1) if is_plain => CodecState::GzipMember,
            (LayerFormat::Gzip, 2 | 3) if skip_bits < 8 && (state == 2 || window.len > 0) => {
                CodecState::Deflate {
                    skip_bits,
                    in_block: state == 3,
                    window,
                }
            }
            (_, other) => {
                let reason = format!("{other} with {skip_bits} bits at {blob_offset}");
                return Err(reader.bad("codec state", reason));
            }
        };
        Ok(Chunk {
            tar,
            blob,
            state,
            digest,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn table() -> SeekTable {
        let digest = ChunkDigest::of(b"x");
        let chunk = |offset, len, blob_offset, state| Chunk {
            tar: Extent { offset, len },
            blob: Extent {
                offset: blob_offset,
                len: 100,
            },
            state,
            digest,
        };
        let window = WindowRef { offset: 5, len: 10 };
        SeekTable {
            format: LayerFormat::Gzip,
            blob: Digest::of(b"blob"),
            blob_size: 300,
            diff_id: DiffId(Digest::of(b"tar")),
            tar_size: 3000,
            windows_size: 15,
            chunks: vec![
                chunk(0, 1000, 0, CodecState::GzipMember),
                chunk(
                    1000,
                    1500,
                    99,
                    CodecState::Deflate {
                        skip_bits: 3,
                        in_block: true,
                        window,
                    },
                ),
                chunk(2500, 500, 200, CodecState::GzipMember),
            ],
        }
    }

    #[test]
    fn round_trips() {
        assert_eq!(SeekTable::decode(&table().encode()).unwrap(), table());
    }

    #[test]
    fn finds_the_chunks_of_an_extent() {
        let covering = |offset, len| table().covering(Extent { offset, len });
        assert_eq!(covering(0, 1), 0..1);
        assert_eq!(covering(999, 2), 0..2);
        assert_eq!(covering(1000, 1500), 1..2);
        assert_eq!(covering(0, 5000), 0..3);
        assert!(covering(3000, 10).is_empty());
        assert!(covering(10, 0).is_empty());
    }

    fn reason(change: impl FnOnce(&mut SeekTable)) -> String {
        let mut table = table();
        change(&mut table);
        SeekTable::decode(&table.encode()).unwrap_err().to_string()
    }

    #[test]
    fn lies_are_refused() {
        assert!(reason(|t| t.tar_size = 2999).contains("chunks"));
        assert!(reason(|t| t.blob_size = 299).contains("blob range"));
        assert!(reason(|t| t.windows_size = 14).contains("window"));
        assert!(reason(|t| t.format = LayerFormat::Tar).contains("codec state"));
        assert!(reason(|t| t.chunks[1].tar.len = 0).contains("tar length"));
        assert!(reason(|t| t.chunks[1].tar.len = MAX_CHUNK_TAR + 1).contains("tar length"));
        assert!(reason(|t| t.chunks[1].blob.offset = u64::MAX).contains("blob range"));
        let large = |t: &mut SeekTable| {
            t.blob_size = u64::MAX;
            t.chunks[1].blob.len = MAX_CHUNK_BLOB + 1;
        };
        assert!(reason(large).contains("blob range"));
        let no_header = |t: &mut SeekTable| match &mut t.chunks[1].state {
            CodecState::Deflate { window, .. } => window.len = 0,
            _ => unreachable!(),
        };
        assert!(reason(no_header).contains("codec state"));
    }

    #[test]
    fn versions_before_are_refused() {
        for version in 1..3 {
            let mut bytes = table().encode();
            bytes.truncate(bytes.len() - 32);
            bytes[8] = version;
            let error = SeekTable::decode(&seal(bytes)).unwrap_err().to_string();
            assert!(error.contains("version"), "{error}");
        }
    }

    #[test]
    fn what_has_no_meaning_is_zero() {
        // The first chunk is a gzip member: no window, no bits; and bytes for later versions.
        for at in [112 + 16, 112 + 24, 112 + 29, 112 + 30, 112 + 39] {
            let mut bytes = table().encode();
            bytes.truncate(bytes.len() - 32);
            assert_eq!(bytes[at], 0);
            bytes[at] = 1;
            assert!(SeekTable::decode(&seal(bytes)).is_err(), "byte {at}");
        }
    }

    #[test]
    fn damage_is_noticed() {
        let good = table().encode();
        for at in [0, 9, 40, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(SeekTable::decode(&bad).is_err(), "byte {at}");
        }
        for len in 0..good.len() {
            assert!(SeekTable::decode(&good[..len]).is_err(), "cut at {len}");
        }
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend_from_slice(&VERSION.to_le_bytes());
            bytes.extend_from_slice(&body);
            let _ = SeekTable::decode(&seal(bytes));
        }
    }
}
