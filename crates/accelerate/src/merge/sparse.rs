//! Where the bytes of a sparse file lie in a layout.
//!
//! The map of a file in EROFS has one grain: 8 bytes for each chunk of 2^n blocks. A fine grain
//! makes a huge map of a large file with few bytes in it; a coarse one makes chunks that are data
//! in part, or whose data does not lie on a block boundary of the tar. Those chunks are copied,
//! padded with zeros, onto the generated device. The grain with the smallest sum of both is taken:
//!
//! ```text
//! file    │▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒     ·     ▒▒▒▒    ·           │
//! chunks  ├─ in the tar ─┼─ in the tar ─┼─ copied ────┼─ hole ──┤
//! ```

use thaw_erofs::{FileData, FileExtent};
use thaw_image::{BLOCK, Extent};
use thaw_layer::tar::SparsePiece;

use super::{Copy, EntryError, Generated};

/// Most bytes of the generated device, which is made in memory.
pub const MAX_GENERATED: u64 = 128 << 20;
/// Bytes of a chunk in the map.
const MAP_ENTRY: u64 = 8;
/// Most bytes of the map of one file.
const MAX_MAP: u64 = MAP_ENTRY * thaw_erofs::MAX_CHUNKS;
/// Base-2 logarithms of the smallest and the largest chunk (EROFS: 31 bits over a block).
const GRAINS: std::ops::RangeInclusive<u32> = 9..=40;

/// Where a file's data comes from.
pub(super) struct Source<'a> {
    /// Number of the layer, 0 for the lowest; its device slot is one more.
    pub(super) layer: u16,
    /// Bytes of the file.
    pub(super) size: u64,
    /// Within the file and within the tar, in order, none overlapping.
    pub(super) pieces: &'a [SparsePiece],
}

/// Makes the extents of a sparse file, and adds what has to be copied to `generated`, which is
/// device slot `slot`.
pub(super) fn place(
    source: &Source<'_>,
    generated: &mut Generated,
    slot: u16,
) -> Result<FileData, EntryError> {
    let room = MAX_GENERATED - generated.size;
    let grain = GRAINS
        .map(|bits| 1u64 << bits)
        .filter_map(|grain| cost(source, grain, room).map(|cost| (cost, grain)))
        .min_by_key(|(cost, grain)| (*cost, u64::MAX - grain))
        .ok_or(EntryError::Sparse)?
        .1;
    let mut extents = source.in_tar(grain);
    for range in source.copied(grain) {
        let range = Extent::between(range.offset, range.end().min(source.size));
        extents.push(FileExtent {
            file_block: range.offset / BLOCK,
            blocks: range.len.div_ceil(BLOCK),
            device: slot,
            device_block: generated.size / BLOCK,
        });
        source.copy(range, generated);
        generated.size += range.len.div_ceil(BLOCK) * BLOCK;
    }
    extents.sort_unstable_by_key(|extent| extent.file_block);
    Ok(FileData {
        size: source.size,
        extents,
    })
}

/// Bytes of map and copies with chunks of `grain` bytes; `None` where either is too much.
fn cost(source: &Source<'_>, grain: u64, room: u64) -> Option<u64> {
    let map = source.size.div_ceil(grain).checked_mul(MAP_ENTRY)?;
    if map > MAX_MAP {
        return None;
    }
    let mut copied = 0;
    for range in source.copied(grain) {
        copied += range.end().min(source.size.next_multiple_of(BLOCK)) - range.offset;
        if copied > room {
            return None;
        }
    }
    Some(map + copied)
}

impl Source<'_> {
    /// The bytes of a piece whose chunks it fills and which lie on block boundaries of the tar.
    fn direct(&self, piece: &SparsePiece, grain: u64) -> Option<Extent> {
        let end = piece.file_offset + piece.len;
        let first = piece.file_offset.next_multiple_of(grain);
        let last = if end == self.size {
            end
        } else {
            end / grain * grain
        };
        let aligned = (piece.tar_offset % BLOCK) == (piece.file_offset % BLOCK);
        (aligned && first < last).then(|| Extent::between(first, last))
    }

    /// Extents for what can be read where it lies.
    fn in_tar(&self, grain: u64) -> Vec<FileExtent> {
        let extent = |piece| {
            let direct = self.direct(piece, grain)?;
            Some(FileExtent {
                file_block: direct.offset / BLOCK,
                blocks: direct.len.div_ceil(BLOCK),
                device: self.layer + 1,
                device_block: (piece.tar_offset + (direct.offset - piece.file_offset)) / BLOCK,
            })
        };
        self.pieces.iter().filter_map(extent).collect()
    }

    /// The ranges of whole chunks that have to be copied, in order, neighbours joined.
    fn copied(&self, grain: u64) -> impl Iterator<Item = Extent> {
        let mut parts = self
            .pieces
            .iter()
            .flat_map(move |piece| {
                let whole = Extent {
                    offset: piece.file_offset,
                    len: piece.len,
                };
                let direct = self.direct(piece, grain);
                let before =
                    Extent::between(whole.offset, direct.map_or(whole.end(), |d| d.offset));
                let after = Extent::between(direct.map_or(whole.end(), |d| d.end()), whole.end());
                [before, after]
            })
            .filter(|part| !part.is_empty())
            .map(move |part| {
                let end = part
                    .end()
                    .checked_next_multiple_of(grain)
                    .unwrap_or(u64::MAX);
                Extent::between(part.offset / grain * grain, end)
            })
            .peekable();
        std::iter::from_fn(move || {
            let mut range = parts.next()?;
            while let Some(next) = parts.next_if(|next| next.offset <= range.end()) {
                range = Extent::between(range.offset, next.end().max(range.end()));
            }
            Some(range)
        })
    }

    /// Notes the copies of what pieces have in `range`, which goes to the end of `generated`.
    fn copy(&self, range: Extent, generated: &mut Generated) {
        let start = self
            .pieces
            .partition_point(|p| p.file_offset + p.len <= range.offset);
        for piece in self.pieces.get(start..).unwrap_or_default() {
            let whole = Extent {
                offset: piece.file_offset,
                len: piece.len,
            };
            let part = whole.intersect(&range);
            if part.is_empty() {
                break;
            }
            generated.copies.push(Copy {
                layer: usize::from(self.layer),
                tar: Extent {
                    offset: piece.tar_offset + (part.offset - piece.file_offset),
                    len: part.len,
                },
                to: generated.size + (part.offset - range.offset),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a file as the kernel would, from a tar whose byte `n` is `pattern(n)`.
    fn read(file: &FileData, generated: &Generated, slot: u16) -> Vec<u8> {
        let mut device = vec![0; usize::try_from(generated.size).unwrap()];
        for copy in &generated.copies {
            for n in 0..copy.tar.len {
                device[usize::try_from(copy.to + n).unwrap()] = pattern(copy.tar.offset + n);
            }
        }
        let mut bytes = vec![0; usize::try_from(file.size).unwrap()];
        let mut end = 0;
        for extent in &file.extents {
            assert!(extent.file_block >= end, "extents overlap");
            end = extent.file_block + extent.blocks;
            for n in 0..extent.blocks * BLOCK {
                let at = extent.device_block * BLOCK + n;
                let target = usize::try_from(extent.file_block * BLOCK + n).unwrap();
                if let Some(byte) = bytes.get_mut(target) {
                    *byte = if extent.device == slot {
                        device[usize::try_from(at).unwrap()]
                    } else {
                        pattern(at)
                    };
                }
            }
        }
        bytes
    }

    fn pattern(n: u64) -> u8 {
        (n % 251) as u8 + 1
    }

    fn placed(size: u64, pieces: &[SparsePiece]) -> (FileData, Generated) {
        let mut generated = Generated {
            size: 512,
            copies: Vec::new(),
        };
        let source = Source {
            layer: 0,
            size,
            pieces,
        };
        let file = place(&source, &mut generated, 2).unwrap();
        (file, generated)
    }

    fn piece(file_offset: u64, tar_offset: u64, len: u64) -> SparsePiece {
        SparsePiece {
            file_offset,
            tar_offset,
            len,
        }
    }

    #[test]
    fn aligned_data_stays_in_the_tar() {
        let (file, generated) = placed(
            3 << 20,
            &[
                piece(0, 512, 1 << 20),
                piece(2 << 20, 512 + (1 << 20), 1 << 20),
            ],
        );
        assert_eq!(file.extents.len(), 2);
        assert!(generated.copies.is_empty());
    }

    #[test]
    fn a_hole_has_no_extents() {
        let (file, generated) = placed(1 << 40, &[]);
        assert!(file.extents.is_empty() && generated.copies.is_empty());
    }

    #[test]
    fn few_bytes_in_a_huge_file_make_a_small_map() {
        let size = 400 << 30;
        let (file, generated) = placed(size, &[piece(300 << 30, 1024, 292)]);
        assert_eq!(file.extents.len(), 1);
        assert!(generated.size < 4 << 20, "{}", generated.size);
        let grain = file.extents[0].blocks * BLOCK;
        assert!(size / grain * 8 < 4 << 20);
    }

    #[test]
    fn what_would_be_huge_is_refused() {
        let pieces: Vec<_> = (0..1000).map(|n| piece(n << 40, 512 * n, 1)).collect();
        let source = Source {
            layer: 0,
            size: 1 << 60,
            pieces: &pieces,
        };
        assert_eq!(
            place(&source, &mut Generated::default(), 2),
            Err(EntryError::Sparse)
        );
    }

    proptest! {
        #[test]
        fn every_byte_is_where_it_was(
            gaps in proptest::collection::vec((0u64..6000, 1u64..6000, 0u64..3), 0..20),
            tail in 0u64..3000,
            blocks in any::<bool>(),
        ) {
            let (mut file_end, mut tar_end) = (0, 512);
            let mut pieces = Vec::new();
            let unit = if blocks { 512 } else { 1 };
            for (gap, len, skip) in gaps {
                let gap = if blocks { gap / 100 } else { gap };
                let len = if blocks { len / 100 + 1 } else { len };
                let new = piece(file_end + gap * unit, tar_end + skip * unit, len * unit);
                file_end = new.file_offset + new.len;
                tar_end = new.tar_offset + new.len;
                pieces.push(new);
            }
            let (file, generated) = placed(file_end + tail, &pieces);
            let mut expected = vec![0; usize::try_from(file.size).unwrap()];
            for piece in &pieces {
                for n in 0..piece.len {
                    expected[usize::try_from(piece.file_offset + n).unwrap()] = pattern(piece.tar_offset + n);
                }
            }
            prop_assert!(read(&file, &generated, 2) == expected);
            prop_assert_eq!(generated.size % BLOCK, 0);
        }
    }
}
