//! The hot loop: literals and matches of one block.
//!
//! All of thaw's decompression speed is here. What it rests on:
//!
//! - 64 bits are kept; one unaligned word brings at least 56, enough for a length with its extra
//!   bits after two literals, and mostly for the distance too.
//! - The first look-up of a turn is made in the turn before, ahead of the copy, so that memory
//!   answers while bytes are copied (13 % faster on a layer of Python packages).
//! - Matches are copied 32 bytes at once: how long one is, is hard to predict for a processor.
//! - One table look-up per symbol, two for the rare long codes; an entry says how many bits it
//!   took including its extra bits, so the next look-up need not wait for them.
//! - Indexes into tables are masked to the arrays' sizes, so the compiler drops their checks.
//! - The state lives in local variables, and is written back once.

#![expect(
    clippy::cast_possible_truncation,
    reason = "values are masked or shifted down to what they are cast to"
)]

use super::InflateError;
use super::input::{Input, word};
use super::output::{Output, WINDOW};
use super::table::{
    DISTANCE_BITS, DISTANCE_ENTRIES, END, LITERAL, LITERAL_BITS, LITERAL_ENTRIES, SPECIAL,
    SUBTABLE, Tables,
};

/// Symbols of a turn that may each bring a byte: so far before a pause the fast loop ends.
pub(super) const STRIDE: usize = 3;
/// Most bits that a distance takes: a code of 15 and 13 extra.
const MAX_DISTANCE_BITS: u32 = 28;

/// The next bits of the stream.
struct Bits {
    bits: u64,
    /// How many of them are known, in the low 6 bits; above is of no meaning.
    count: u32,
}

impl Bits {
    /// Brings at least 56 bits from `pos` on.
    #[inline(always)]
    fn refill(&mut self, data: &[u8], pos: &mut usize) {
        self.bits |= word(data, *pos).wrapping_shl(self.count);
        *pos += ((!self.count >> 3) & 7) as usize;
        self.count |= 56;
    }

    /// Drops the bits that an entry says it took.
    #[inline(always)]
    fn consume(&mut self, entry: u32) {
        self.bits = self.bits.wrapping_shr(entry);
        self.count = self.count.wrapping_sub(entry);
    }

    /// Refills, and looks the next symbol up.
    #[inline(always)]
    fn next(&mut self, data: &[u8], pos: &mut usize, tables: &Tables) -> u32 {
        self.refill(data, pos);
        tables.literals[self.low(LITERAL_BITS)]
    }

    #[inline(always)]
    fn low(&self, bits: u32) -> usize {
        (self.bits & ((1 << bits) - 1)) as usize
    }
}

/// The base value of an entry and the extra bits behind its code in `before`, the bits that
/// stood there before the entry was consumed.
#[inline(always)]
fn value(entry: u32, before: u64) -> usize {
    let extra = before & !(u64::MAX.wrapping_shl(entry));
    let base = entry >> 16;
    base as usize + extra.wrapping_shr(entry >> 8) as usize
}

/// Decodes symbols until the block ends (`true`), or there is not enough input or room for one
/// more turn (`false`). With `TRACK`, notes references to what is before the checkpoint. With
/// `STEP`, decodes one symbol in a turn, and stops at the pause instead of before it.
pub(super) fn decode<const TRACK: bool, const STEP: bool>(
    tables: &Tables,
    input: &mut Input,
    output: &mut Output,
) -> Result<bool, InflateError> {
    let limit = input.limit();
    let ahead = if STEP { 0 } else { STRIDE - 1 };
    let mut room = output
        .limit()
        .min(output.pause.unwrap_or(usize::MAX).saturating_sub(ahead));
    let floor = output.floor;
    let start = output.tracker.start.unwrap_or(0);
    if TRACK && !STEP {
        room = room.min(start + WINDOW);
    }
    let tracker = &mut output.tracker;
    let data = input.data.as_slice();
    let out = output.data.as_mut_slice();
    let (mut pos, mut at) = (input.pos, output.at);
    let mut b = Bits {
        bits: input.bits,
        count: input.count,
    };
    if pos >= limit || at >= room {
        return Ok(false);
    }
    let mut result = Ok(false);
    let mut next = b.next(data, &mut pos, tables);
    while pos < limit && at < room {
        let mut entry = next;
        if entry & LITERAL != 0 {
            b.consume(entry);
            out[at] = (entry >> 16) as u8;
            at += 1;
            if STEP {
                next = b.next(data, &mut pos, tables);
                continue;
            }
            entry = tables.literals[b.low(LITERAL_BITS)];
            if entry & LITERAL != 0 {
                b.consume(entry);
                out[at] = (entry >> 16) as u8;
                at += 1;
                entry = tables.literals[b.low(LITERAL_BITS)];
                if entry & LITERAL != 0 {
                    b.consume(entry);
                    out[at] = (entry >> 16) as u8;
                    at += 1;
                    next = b.next(data, &mut pos, tables);
                    continue;
                }
            }
        }
        let mut before = b.bits;
        b.consume(entry);
        if entry & SPECIAL != 0 {
            if entry & SUBTABLE != 0 {
                let index = (entry >> 16) as usize + b.low(entry >> 8 & 31);
                entry = tables.literals[index % LITERAL_ENTRIES];
                before = b.bits;
                b.consume(entry);
            }
            if entry & LITERAL != 0 {
                out[at] = (entry >> 16) as u8;
                at += 1;
                next = b.next(data, &mut pos, tables);
                continue;
            }
            if entry & END != 0 {
                result = Ok(true);
                break;
            }
            if entry & SPECIAL != 0 {
                result = Err(InflateError::Symbol);
                break;
            }
        }
        let len = value(entry, before);

        // Not always: an unneeded refill here costs 13 %.
        if b.count & 63 < MAX_DISTANCE_BITS {
            b.refill(data, &mut pos);
        }
        entry = tables.distances[b.low(DISTANCE_BITS)];
        if entry & SPECIAL != 0 {
            if entry & SUBTABLE == 0 {
                result = Err(InflateError::Symbol);
                break;
            }
            b.consume(entry);
            let index = (entry >> 16) as usize + b.low(entry >> 8 & 31);
            entry = tables.distances[index % DISTANCE_ENTRIES];
            if entry & SPECIAL != 0 {
                result = Err(InflateError::Symbol);
                break;
            }
        }
        let distance = value(entry, b.bits);
        b.consume(entry);
        if distance > at - floor {
            result = Err(InflateError::Distance);
            break;
        }
        if TRACK {
            tracker.note(start, at - distance, len);
        }
        next = b.next(data, &mut pos, tables);
        copy(out, at, distance, len);
        at += len;
    }
    (input.pos, output.at) = (pos, at);
    input.count = b.count & 63;
    input.bits = b.bits;
    result
}

/// Copies `len` bytes to `at` from `distance` before it. May write up to 32 bytes behind them.
#[inline(always)]
fn copy(out: &mut [u8], at: usize, distance: usize, len: usize) {
    let mut from = at - distance;
    let mut to = at;
    let end = at + len;
    if distance >= 16 {
        copy_16(out, from, to);
        copy_16(out, from + 16, to + 16);
        if len <= 32 {
            return;
        }
        from += 32;
        to += 32;
    } else if distance == 1 {
        let byte = out[from];
        out[to..end].fill(byte);
        return;
    } else {
        // The bytes repeat every `distance`: each step doubles how far back the next may read.
        while to - from < 16 {
            copy_16(out, from, to);
            to += to - from;
        }
    }
    while to < end {
        copy_16(out, from, to);
        from += 16;
        to += 16;
    }
}

#[inline(always)]
fn copy_16(out: &mut [u8], from: usize, to: usize) {
    let mut chunk = [0; 16];
    chunk.copy_from_slice(&out[from..from + 16]);
    out[to..to + 16].copy_from_slice(&chunk);
}
