//! Records first reads: one bit per block of a layer, and the runs in the order they came.

use std::time::Duration;

use thaw_image::{BLOCK, BlockRun, Extent};

use super::message::{PAGE_ENTRIES, Recorded, TracePage};

/// Most entries of all layers together: 12 MiB.
pub(crate) const MAX_ENTRIES: usize = 1 << 18;

/// What all layers share: the order, and the room.
#[derive(Debug)]
pub(crate) struct Order {
    next: u64,
    room: usize,
}

impl Order {
    pub(crate) fn new() -> Self {
        Self {
            next: 0,
            room: MAX_ENTRIES,
        }
    }
}

/// The trace of one layer.
#[derive(Debug)]
pub(crate) struct Recorder {
    size: u64,
    /// Untouched parts of it cost no memory: the allocator maps zero pages.
    seen: Vec<u64>,
    entries: Vec<Recorded>,
    started: Duration,
    dropped: u64,
}

impl Recorder {
    /// A trace of a layer of `size` bytes, started at `now`.
    pub(crate) fn new(size: u64, now: Duration) -> Self {
        let words = size.div_ceil(BLOCK).div_ceil(64);
        Self {
            size,
            seen: vec![0; usize::try_from(words).unwrap_or(0)],
            entries: Vec::new(),
            started: now,
            dropped: 0,
        }
    }

    /// Gives the room of its entries back.
    pub(crate) fn forget(&mut self, order: &mut Order) {
        order.room += self.entries.len();
        self.entries = Vec::new();
    }

    /// Starts afresh.
    pub(crate) fn restart(&mut self, order: &mut Order, now: Duration) {
        self.forget(order);
        *self = Self::new(self.size, now);
    }

    /// Notes a read; blocks that were read before are left out.
    pub(crate) fn record(&mut self, order: &mut Order, extent: Extent, now: Duration) {
        let blocks = extent.blocks();
        let mut block = blocks.first;
        while block < blocks.end() {
            if !self.set(block) {
                block += 1;
                continue;
            }
            let first = block;
            block += 1;
            while block < blocks.end() && self.set(block) {
                block += 1;
            }
            let run = BlockRun {
                first,
                count: block - first,
            };
            self.push(order, run.extent(self.size), now);
        }
    }

    /// Sets a block's bit; whether it was clear. Blocks behind the end count as seen.
    fn set(&mut self, block: u64) -> bool {
        let word = usize::try_from(block / 64)
            .ok()
            .and_then(|index| self.seen.get_mut(index));
        let Some(word) = word else {
            return false;
        };
        let bit = 1 << (block % 64);
        let clear = *word & bit == 0;
        *word |= bit;
        clear
    }

    fn push(&mut self, order: &mut Order, extent: Extent, now: Duration) {
        // A read that goes on where the one before it ended is the same run.
        if let Some(last) = self.entries.last_mut()
            && last.order + 1 == order.next
            && last.extent.end() == extent.offset
        {
            last.extent.len += extent.len;
            return;
        }
        if order.room == 0 {
            self.dropped += 1;
            return;
        }
        order.room -= 1;
        self.entries.push(Recorded {
            order: order.next,
            at: now,
            extent,
        });
        order.next += 1;
    }

    /// Entries from number `from` on, as many as fit into a message.
    pub(crate) fn page(&self, from: u64) -> TracePage {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        TracePage {
            started: self.started,
            dropped: self.dropped,
            total: self.entries.len() as u64,
            entries: self
                .entries
                .iter()
                .skip(from)
                .take(PAGE_ENTRIES)
                .copied()
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(recorder: &Recorder) -> Vec<(u64, u64)> {
        let page = recorder.page(0);
        let extents = page.entries.iter().map(|entry| entry.extent);
        extents.map(|e| (e.offset, e.len)).collect()
    }

    fn record(recorder: &mut Recorder, order: &mut Order, offset: u64, len: u64) {
        recorder.record(order, Extent { offset, len }, Duration::ZERO);
    }

    #[test]
    fn each_block_is_recorded_once() {
        let mut order = Order::new();
        let mut recorder = Recorder::new(100 * BLOCK + 100, Duration::ZERO);
        record(&mut recorder, &mut order, 2048, 1024);
        record(&mut recorder, &mut order, 1024, 4096);
        record(&mut recorder, &mut order, 2048, 1024);
        assert_eq!(
            extents(&recorder),
            [(2048, 1024), (1024, 1024), (3072, 2048)]
        );
        // The last block is short, and nothing lies behind it.
        record(&mut recorder, &mut order, 100 * BLOCK, 4096);
        assert_eq!(extents(&recorder)[3], (100 * BLOCK, 100));
        record(&mut recorder, &mut order, 1 << 40, 4096);
        assert_eq!(extents(&recorder).len(), 4);
    }

    #[test]
    fn a_sequential_read_is_one_run_unless_another_layer_was_read_between() {
        let mut order = Order::new();
        let mut first = Recorder::new(1 << 20, Duration::ZERO);
        let mut second = Recorder::new(1 << 20, Duration::ZERO);
        record(&mut first, &mut order, 0, 4096);
        record(&mut first, &mut order, 4096, 4096);
        assert_eq!(extents(&first), [(0, 8192)]);
        record(&mut second, &mut order, 0, 512);
        record(&mut first, &mut order, 8192, 512);
        assert_eq!(extents(&first), [(0, 8192), (8192, 512)]);
        let orders: Vec<_> = first.page(0).entries.iter().map(|e| e.order).collect();
        assert_eq!((orders, second.page(0).entries[0].order), (vec![0, 2], 1));
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let mut order = Order::new();
        let blocks = MAX_ENTRIES as u64 + 10;
        let mut recorder = Recorder::new(blocks * 2 * BLOCK, Duration::ZERO);
        for block in 0..blocks {
            record(&mut recorder, &mut order, block * 2 * BLOCK, BLOCK);
        }
        let page = recorder.page(MAX_ENTRIES as u64 - 1);
        assert_eq!((page.entries.len(), page.dropped), (1, 10));
        recorder.restart(&mut order, Duration::from_secs(1));
        assert_eq!((order.room, recorder.page(0).total), (MAX_ENTRIES, 0));
        record(&mut recorder, &mut order, 0, BLOCK);
        assert_eq!(recorder.page(0).total, 1);
    }
}
