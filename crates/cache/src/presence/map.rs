//! The bits in memory: set and tested by many threads, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

use thaw_image::BlockRun;

const WORD: u64 = 64;

/// One bit per block.
#[derive(Debug)]
pub(crate) struct BlockMap {
    words: Box<[AtomicU64]>,
    blocks: u64,
    present: AtomicU64,
}

/// The bits `from..to` of a word.
const fn mask(from: u64, to: u64) -> u64 {
    let upper = if to == WORD { u64::MAX } else { (1 << to) - 1 };
    upper & (u64::MAX << from)
}

const fn index(word: u64) -> usize {
    // The map was allocated, so every index into it is a usize.
    #[expect(clippy::cast_possible_truncation, reason = "bounded by an allocation")]
    {
        word as usize
    }
}

impl BlockMap {
    /// A map of `blocks` bits: those of `bits`, eight to a byte, the lowest first.
    pub(crate) fn new(blocks: u64, bits: &[u8]) -> Self {
        let words = (0..blocks.div_ceil(WORD)).map(|_| AtomicU64::new(0));
        let map = Self {
            words: words.collect(),
            blocks,
            present: AtomicU64::new(0),
        };
        map.replace(bits);
        map
    }

    /// Sets exactly the bits of `bits`.
    pub(crate) fn replace(&self, bits: &[u8]) {
        let mut chunks = bits.chunks(8);
        for (number, word) in (0u64..).zip(&self.words) {
            let mut bytes = [0; 8];
            if let Some(chunk) = chunks.next() {
                bytes[..chunk.len()].copy_from_slice(chunk);
            }
            let valid = mask(0, WORD.min(self.blocks - number * WORD));
            let new = u64::from_le_bytes(bytes) & valid;
            let old = word.swap(new, Ordering::AcqRel);
            self.present
                .fetch_add(u64::from(new.count_ones()), Ordering::Relaxed);
            self.present
                .fetch_sub(u64::from(old.count_ones()), Ordering::Relaxed);
        }
    }

    /// The words that `run` touches, each with the bits of it that are in the run.
    fn touched(&self, run: BlockRun) -> impl Iterator<Item = (u64, u64)> + use<> {
        let (first, end) = (run.first.min(self.blocks), run.end().min(self.blocks));
        (first / WORD..end.div_ceil(WORD)).filter_map(move |word| {
            let from = first.max(word * WORD) - word * WORD;
            let to = end.min((word + 1) * WORD) - word * WORD;
            (from < to).then(|| (word, mask(from, to)))
        })
    }

    /// Sets the bits of `run`; gives the number of those that were clear.
    pub(crate) fn set(&self, run: BlockRun) -> u64 {
        let mut new = 0;
        for (word, mask) in self.touched(run) {
            let old = self.words[index(word)].fetch_or(mask, Ordering::AcqRel);
            new += u64::from((mask & !old).count_ones());
        }
        self.present.fetch_add(new, Ordering::Relaxed);
        new
    }

    /// Clears the bits of `run`; gives the number of those that were set.
    pub(crate) fn clear(&self, run: BlockRun) -> u64 {
        let mut gone = 0;
        for (word, mask) in self.touched(run) {
            let old = self.words[index(word)].fetch_and(!mask, Ordering::AcqRel);
            gone += u64::from((mask & old).count_ones());
        }
        self.present.fetch_sub(gone, Ordering::Relaxed);
        gone
    }

    /// Whether all bits of `run` are set. Blocks behind the last do not count.
    pub(crate) fn contains(&self, run: BlockRun) -> bool {
        self.touched(run)
            .all(|(word, mask)| mask & !self.words[index(word)].load(Ordering::Acquire) == 0)
    }

    /// The clear bits within `run`, as runs in order.
    pub(crate) fn missing(&self, run: BlockRun) -> Vec<BlockRun> {
        let mut runs: Vec<BlockRun> = Vec::new();
        for (word, mask) in self.touched(run) {
            let mut clear = mask & !self.words[index(word)].load(Ordering::Acquire);
            while clear != 0 {
                let from = u64::from(clear.trailing_zeros());
                let count = u64::from((clear >> from).trailing_ones());
                clear &= !self::mask(from, from + count);
                let first = word * WORD + from;
                match runs.last_mut() {
                    Some(last) if last.end() == first => last.count += count,
                    _ => runs.push(BlockRun { first, count }),
                }
            }
        }
        runs
    }

    /// The bytes of the bitmap that hold `run`, and the number of the first of them.
    pub(crate) fn bytes(&self, run: BlockRun) -> (u64, Vec<u8>) {
        let first = run.first.min(self.blocks) / 8;
        let end = run.end().min(self.blocks).div_ceil(8).max(first);
        let mut bytes = Vec::with_capacity(index(end - first) + 16);
        for word in first / 8..end.div_ceil(8) {
            bytes.extend_from_slice(
                &self.words[index(word)]
                    .load(Ordering::Acquire)
                    .to_le_bytes(),
            );
        }
        bytes.drain(..index(first % 8).min(bytes.len()));
        bytes.truncate(index(end - first));
        (first, bytes)
    }

    /// Number of bits set.
    pub(crate) fn present(&self) -> u64 {
        self.present.load(Ordering::Relaxed)
    }

    /// Whether every bit is set.
    pub(crate) fn is_full(&self) -> bool {
        self.contains(BlockRun {
            first: 0,
            count: self.blocks,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_vector_of_booleans(
            blocks in 1u64..400,
            runs in proptest::collection::vec((0u64..420, 0u64..200), 0..12),
            ask in (0u64..420, 0u64..420),
        ) {
            let map = BlockMap::new(blocks, &[]);
            let mut model = vec![false; usize::try_from(blocks).unwrap()];
            for (first, count) in runs {
                let range = index(first.min(blocks))..index((first + count).min(blocks));
                let new = model[range.clone()].iter().filter(|bit| !**bit).count();
                model[range].fill(true);
                prop_assert_eq!(map.set(BlockRun { first, count }), new as u64);
            }
            let present = model.iter().filter(|bit| **bit).count();
            prop_assert_eq!(map.present(), present as u64);
            prop_assert_eq!(map.is_full(), present as u64 == blocks);

            let run = BlockRun { first: ask.0, count: ask.1 };
            let range = index(run.first.min(blocks))..index(run.end().min(blocks));
            prop_assert_eq!(map.contains(run), model[range.clone()].iter().all(|bit| *bit));
            let mut asked = vec![true; model.len()];
            asked[range.clone()].copy_from_slice(&model[range]);
            for missing in map.missing(run) {
                for block in missing.first..missing.end() {
                    prop_assert!(!asked[index(block)]);
                    asked[index(block)] = true;
                }
            }
            prop_assert!(asked.iter().all(|bit| *bit));

            let all = map.bytes(BlockRun { first: 0, count: blocks }).1;
            let (first, bytes) = map.bytes(run);
            let first = index(first);
            prop_assert_eq!(&all[first..first + bytes.len()], &bytes[..]);
            let again = BlockMap::new(blocks, &all);
            prop_assert_eq!(again.present(), map.present());
            prop_assert_eq!(again.missing(run), map.missing(run));
            let before = again.present();
            let gone = again.clear(run);
            prop_assert_eq!(again.present() + gone, before);
            let clear = BlockRun { first: run.first.min(blocks), count: run.end().min(blocks) - run.first.min(blocks) };
            let missing: u64 = again.missing(run).iter().map(|run| run.count).sum();
            prop_assert_eq!(missing, clear.count);
        }
    }
}
