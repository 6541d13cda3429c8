//! Headers of deflate blocks (RFC 1951, 3.2.3 to 3.2.7).

use super::InflateError;
use super::input::Input;
use super::table::{PRECODE_BITS, PRECODE_ENTRIES, SPECIAL, Tables, build_precode};

/// More bytes than any block header has, words read ahead included: 17 bits, 19 code lengths of 3
/// bits, and 316 code lengths of at most 14 bits.
pub(crate) const MAX_HEADER: usize = 640;

/// In which order the lengths of the precode are written.
const PRECODE_ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];
const MAX_LITERALS: usize = 286;
const MAX_DISTANCES: usize = 30;
const END_OF_BLOCK: usize = 256;

/// Reads the header of a stored block: how many bytes follow.
pub(super) fn stored(input: &mut Input) -> Result<usize, InflateError> {
    input.align();
    let Some([a, b, c, d]) = input.rest().first_chunk() else {
        return Err(InflateError::Truncated);
    };
    let len = u16::from_le_bytes([*a, *b]);
    if len != !u16::from_le_bytes([*c, *d]) {
        return Err(InflateError::Stored);
    }
    input.skip(4);
    Ok(usize::from(len))
}

/// Reads the codes of a block and builds their tables.
pub(super) fn dynamic(input: &mut Input, tables: &mut Tables) -> Result<(), InflateError> {
    input.refill();
    let literals = input.take(5) as usize + 257;
    let distances = input.take(5) as usize + 1;
    let precodes = input.take(4) as usize + 4;
    if literals > MAX_LITERALS || distances > MAX_DISTANCES {
        return Err(InflateError::Code);
    }
    let mut precode = [0; 19];
    for symbol in &PRECODE_ORDER[..precodes] {
        input.refill();
        precode[*symbol] = (input.take(3) & 7) as u8;
    }
    let mut table = [SPECIAL; PRECODE_ENTRIES];
    build_precode(&mut table, &precode)?;

    let mut lengths = [0; MAX_LITERALS + MAX_DISTANCES];
    read_lengths(input, &table, &mut lengths[..literals + distances])?;
    if lengths[END_OF_BLOCK] == 0 {
        return Err(InflateError::Code);
    }
    let (literals, distances) = lengths[..literals + distances].split_at(literals);
    tables.build(literals, distances)
}

/// Reads code lengths, run-length coded, until `lengths` is full.
fn read_lengths(
    input: &mut Input,
    table: &[u32; PRECODE_ENTRIES],
    lengths: &mut [u8],
) -> Result<(), InflateError> {
    let mut at = 0;
    while at < lengths.len() {
        input.refill();
        let low = input.bits & ((1 << PRECODE_BITS) - 1);
        let entry = table[low as usize % PRECODE_ENTRIES];
        if entry & SPECIAL != 0 {
            return Err(InflateError::Code);
        }
        input.take(entry & 63);
        let (value, count) = match entry >> 16 {
            16 if at == 0 => return Err(InflateError::Code),
            16 => (lengths[at - 1], 3 + input.take(2)),
            17 => (0, 3 + input.take(3)),
            18 => (0, 11 + input.take(7)),
            length => ((length & 15) as u8, 1),
        };
        let run = lengths.get_mut(at..at + count as usize);
        run.ok_or(InflateError::Code)?.fill(value);
        at += count as usize;
    }
    Ok(())
}
