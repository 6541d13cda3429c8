//! Blocks of which a part is written: where one chunk ends and the next begins.

use std::collections::BTreeMap;

use thaw_image::Extent;

/// Which bytes of incomplete blocks are written. At most two blocks for each chunk.
#[derive(Debug, Default)]
pub(crate) struct Edges {
    /// Offset of a block's first byte → its written ranges: sorted, apart from each other.
    blocks: BTreeMap<u64, Vec<Extent>>,
}

impl Edges {
    /// Notes that the bytes of `block` that lie in `written` are there; says whether now all of
    /// `block` is.
    pub(crate) fn cover(&mut self, block: Extent, written: Extent) -> bool {
        let mut part = block.intersect(&written);
        let ranges = self.blocks.entry(block.offset).or_default();
        ranges.retain(|range| {
            let apart = range.end() < part.offset || part.end() < range.offset;
            if !apart {
                let start = part.offset.min(range.offset);
                part = Extent::between(start, part.end().max(range.end()));
            }
            apart
        });
        let at = ranges.partition_point(|range| range.offset < part.offset);
        ranges.insert(at, part);
        part == block
    }

    /// Forgets a block: its bit is set.
    pub(crate) fn forget(&mut self, block: Extent) {
        self.blocks.remove(&block.offset);
    }

    /// What of `extent`, which starts at a block's start, is not covered. In order.
    pub(crate) fn absent(&self, extent: Extent) -> Vec<Extent> {
        let mut absent = Vec::new();
        let mut at = extent.offset;
        let blocks = self.blocks.range(extent.offset..extent.end());
        for range in blocks.flat_map(|(_, ranges)| ranges) {
            let gap = Extent::between(at, range.offset);
            if !gap.is_empty() {
                absent.push(gap);
            }
            at = range.end();
        }
        let rest = Extent::between(at, extent.end());
        if !rest.is_empty() {
            absent.push(rest);
        }
        absent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn e(start: u64, end: u64) -> Extent {
        Extent::between(start, end)
    }

    #[test]
    fn parts_add_up() {
        let mut edges = Edges::default();
        let block = e(512, 1024);
        assert!(!edges.cover(block, e(0, 600)));
        assert!(!edges.cover(block, e(900, 5000)));
        assert_eq!(
            edges.absent(e(0, 2048)),
            [e(0, 512), e(600, 900), e(1024, 2048)]
        );
        assert!(!edges.cover(block, e(700, 800)));
        assert_eq!(edges.absent(block), [e(600, 700), e(800, 900)]);
        assert!(!edges.cover(block, e(600, 700)));
        assert!(edges.cover(block, e(800, 900)));
        edges.forget(block);
        assert_eq!(edges.absent(block), [block]);
    }
}
