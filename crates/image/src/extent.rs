//! Ranges of bytes, and the block, the grain in which a layer tar fills up.

use serde::{Deserialize, Serialize};

/// Bytes in a block: the grain of presence maps, of working sets and of the layout.
///
/// 512 and not 4,096, because file data starts on 512-byte boundaries of a tar: a 4 KiB page of a
/// file nearly always straddles two aligned 4 KiB blocks of the tar, so a coarser grain would
/// fetch up to twice what was read. The map costs 256 KiB for each GiB of tar.
pub const BLOCK: u64 = 512;

/// A contiguous range of bytes in a blob or a tar. Its end never overflows.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Extent {
    /// The range of `len` bytes from `offset`; `None` if its end would pass 2^63.
    #[must_use]
    pub const fn checked(offset: u64, len: u64) -> Option<Self> {
        match offset.checked_add(len) {
            Some(end) if end <= i64::MAX as u64 => Some(Self { offset, len }),
            _ => None,
        }
    }

    /// The range from `start` up to and without `end`; empty when `end <= start`.
    #[must_use]
    pub const fn between(start: u64, end: u64) -> Self {
        Self {
            offset: start,
            len: end.saturating_sub(start),
        }
    }

    /// The byte behind the last.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    /// Whether there is no byte in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether every byte of `other` is in it.
    #[must_use]
    pub const fn contains(&self, other: &Self) -> bool {
        self.offset <= other.offset && other.end() <= self.end()
    }

    /// The bytes that are in both.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        Self::between(self.offset.max(other.offset), self.end().min(other.end()))
    }

    /// The blocks that it touches.
    #[must_use]
    pub const fn blocks(&self) -> BlockRun {
        if self.len == 0 {
            return BlockRun {
                first: self.offset / BLOCK,
                count: 0,
            };
        }
        let first = self.offset / BLOCK;
        BlockRun {
            first,
            count: (self.end() - 1) / BLOCK - first + 1,
        }
    }
}

/// A run of consecutive [blocks](BLOCK) of a layer tar.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct BlockRun {
    /// Number of the first block.
    pub first: u64,
    /// Number of blocks.
    pub count: u64,
}

impl BlockRun {
    /// The bytes of these blocks, cut at `limit` (the size of the tar).
    #[must_use]
    pub fn extent(&self, limit: u64) -> Extent {
        let start = self.first.saturating_mul(BLOCK);
        let end = self.end().saturating_mul(BLOCK);
        Extent::between(start.min(limit), end.min(limit))
    }

    /// The block behind the last.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_bytes() {
        let blocks = |offset, len| Extent { offset, len }.blocks();
        assert_eq!(blocks(0, 1), BlockRun { first: 0, count: 1 });
        assert_eq!(blocks(511, 2), BlockRun { first: 0, count: 2 });
        assert_eq!(blocks(512, 512), BlockRun { first: 1, count: 1 });
        assert_eq!(blocks(700, 0).count, 0);
        assert_eq!(
            blocks(511, 2).extent(600),
            Extent {
                offset: 0,
                len: 600
            }
        );
    }

    #[test]
    fn ends_do_not_overflow() {
        assert!(Extent::checked(u64::MAX, 1).is_none());
        assert!(Extent::checked(i64::MAX as u64, 1).is_none());
        assert_eq!(
            Extent {
                offset: u64::MAX,
                len: 2
            }
            .end(),
            u64::MAX
        );
        assert!(
            BlockRun {
                first: u64::MAX,
                count: u64::MAX
            }
            .extent(10)
            .is_empty()
        );
    }
}
