//! The compressed side: a refillable buffer, and bits out of it.
//!
//! ```text
//!   data: | consumed | bits, not yet taken | to come ... | PAD |
//!         0               pos                           end
//! ```
//!
//! Whole words are read ahead into `bits`, so `pos` runs before what is really consumed by up to
//! 63 bits. At the end of the blob the buffer is followed by zeros, so that decoding needs no
//! second, careful loop for the last bytes: it may run into the zeros, and whoever stops asks
//! [`Input::overrun`] whether it did.

use std::io;

/// Zeros behind the last byte of the blob.
const PAD: usize = 64;
/// How far before the end of the buffer the hot loop stops: it reads up to three words in a turn.
const MARGIN: usize = 32;

/// The blob's bytes as they come, read as bits from the lowest of each byte on (RFC 1951, 3.1.1).
#[derive(Debug)]
pub(crate) struct Input {
    pub(super) data: Vec<u8>,
    pub(super) pos: usize,
    pub(super) end: usize,
    /// Nothing follows `end`.
    pub(super) eof: bool,
    /// The next bits, the next of all lowest. Above `count` there may be more, never wrong ones.
    pub(super) bits: u64,
    pub(super) count: u32,
    /// Offset in the blob of `data[0]`.
    base: u64,
}

impl Input {
    /// An empty buffer of `capacity` bytes for a blob that is to come.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self {
            data: vec![0; capacity + PAD],
            pos: 0,
            end: 0,
            eof: false,
            bits: 0,
            count: 0,
            base: 0,
        }
    }

    /// All that there is.
    pub(crate) fn whole(bytes: &[u8]) -> Self {
        let mut input = Self::with_capacity(bytes.len());
        input.data[..bytes.len()].copy_from_slice(bytes);
        input.end = bytes.len();
        input.eof = true;
        input
    }

    /// Fills the buffer from `read` until at least half of it is full or the blob ends. Gives the
    /// bytes that are new.
    pub(crate) fn fill(
        &mut self,
        mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<&[u8]> {
        self.give_back();
        // The byte that was begun stays: the header of a block may start in it.
        let start = self.pos.saturating_sub(1).min(self.end);
        let kept = self.end - start;
        self.data.copy_within(start..self.end, 0);
        self.base += start as u64;
        (self.pos, self.end) = (self.pos - start, kept);
        let capacity = self.data.len() - PAD;
        while !self.eof && self.end < capacity && self.end - kept < capacity / 2 {
            match read(&mut self.data[self.end..capacity]) {
                Ok(0) => self.eof = true,
                Ok(count) => self.end += count.min(capacity - self.end),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.data[self.end..self.end + PAD].fill(0);
        Ok(&self.data[kept..self.end])
    }

    /// Where the next bit is in the blob, counted in bits.
    pub(crate) fn bit_position(&self) -> u64 {
        (self.base + self.pos as u64) * 8 - u64::from(self.count)
    }

    /// Puts the bits from `from`, which must still be here, up to the next one into `out`, the
    /// first the lowest of the first byte. Spare bits of the last byte are zero.
    pub(super) fn bits_since(&self, from: u64, out: &mut Vec<u8>) {
        out.clear();
        let mut at = usize::try_from((from / 8).saturating_sub(self.base)).unwrap_or(usize::MAX);
        let mut left = self.bit_position().saturating_sub(from);
        while left > 0 {
            let byte = (word(&self.data, at) >> (from % 8)) & ((1 << left.min(8)) - 1);
            out.push(u8::try_from(byte).unwrap_or_default());
            left -= left.min(8);
            at += 1;
        }
    }

    /// Whether more was consumed than the blob has.
    pub(super) fn overrun(&self) -> bool {
        self.pos * 8 > self.end * 8 + self.count as usize
    }

    /// Where the hot loop must stop: up to here it may read [`MARGIN`] bytes at once.
    pub(super) fn limit(&self) -> usize {
        if self.eof {
            self.end + PAD - MARGIN
        } else {
            self.end.saturating_sub(MARGIN)
        }
    }

    /// Whether `bytes` more are here, or all that will ever be.
    pub(super) fn has(&self, bytes: usize) -> bool {
        self.eof || self.end.saturating_sub(self.pos) >= bytes
    }

    /// Brings at least 56 bits; zeros behind the end.
    pub(super) fn refill(&mut self) {
        self.bits |= word(&self.data, self.pos) << self.count;
        self.pos += ((63 - self.count) >> 3) as usize;
        self.count |= 56;
    }

    /// Takes `count` bits, at most 32, of those that [`Input::refill`] brought.
    pub(super) fn take(&mut self, count: u32) -> u32 {
        let low = self.bits & ((1 << count) - 1);
        self.bits >>= count;
        self.count -= count;
        u32::try_from(low).unwrap_or_default()
    }

    /// Drops the rest of a byte that was begun, and gives back the bytes read ahead: from here
    /// on, [`Input::rest`] is next.
    pub(super) fn align(&mut self) {
        self.give_back();
        (self.bits, self.count) = (0, 0);
    }

    /// Forgets the whole bytes read ahead.
    fn give_back(&mut self) {
        self.pos -= (self.count / 8) as usize;
        self.count %= 8;
        self.bits &= (1 << self.count) - 1;
    }

    /// The bytes that are here, once aligned.
    pub(super) fn rest(&self) -> &[u8] {
        self.data.get(self.pos..self.end).unwrap_or_default()
    }

    /// Drops `count` bytes, once aligned.
    pub(super) fn skip(&mut self, count: usize) {
        self.pos += count;
    }
}

/// Eight bytes from `pos`, the first one lowest; zero where there are not so many.
#[inline(always)]
pub(super) fn word(data: &[u8], pos: usize) -> u64 {
    match data.get(pos..).and_then(<[u8]>::first_chunk) {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_lowest_first() {
        let mut input = Input::whole(&[0b1010_0110, 0xff, 1, 2, 3]);
        input.refill();
        assert_eq!(input.take(3), 0b110);
        assert_eq!(input.take(7), 0b111_0100);
        assert_eq!(input.bit_position(), 10);
        input.align();
        assert_eq!(input.bit_position(), 16);
        assert_eq!(input.rest(), [1, 2, 3]);
        input.skip(3);
        assert!(!input.overrun());
        input.refill();
        assert_eq!(input.take(1), 0);
        assert!(input.overrun());
    }

    #[test]
    fn fills_from_small_reads() {
        let blob: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let mut left = blob.as_slice();
        let mut input = Input::with_capacity(100);
        let mut seen = Vec::new();
        loop {
            let read = |buffer: &mut [u8]| {
                let count = buffer.len().min(7).min(left.len());
                buffer[..count].copy_from_slice(&left[..count]);
                left = &left[count..];
                Ok(count)
            };
            input.fill(read).unwrap();
            if input.rest().is_empty() {
                break;
            }
            let take = input.rest().len().min(33);
            seen.extend_from_slice(&input.rest()[..take]);
            input.skip(take);
            assert_eq!(input.bit_position(), seen.len() as u64 * 8);
        }
        assert_eq!(seen, blob);
    }
}
