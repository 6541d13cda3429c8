//! Decoding tables for canonical Huffman codes (RFC 1951, 3.2.2).
//!
//! A table has `2^bits` entries, indexed by the next bits of the stream as they are: a code of
//! `n` bits fills all entries whose low `n` bits are the code, first bit lowest. Codes longer than
//! `bits` share an entry that leads to a second table behind the first.
//!
//! An entry packs all that the hot loop wants to know into 32 bits:
//!
//! ```text
//!   literal   1 . byte:8 at 16 ............................. consumed:6 at 0
//!   length    0 . base:9 at 16 ... code:5 at 8 ............. consumed:6 at 0
//!   distance  0 . base:15 at 16 .. code:5 at 8 ............. consumed:6 at 0
//!   subtable  0 . first:13 at 16 . 1 1 0 at 15 . bits:5 at 8 consumed:6 at 0
//!   end       0 .................. 1 0 1 at 15 ............. consumed:6 at 0
//!   invalid   0 .................. 1 0 0 at 15
//! ```
//!
//! `consumed` is the bits of code and extra bits together, `code` those of the code alone.

#![expect(
    clippy::cast_possible_truncation,
    reason = "symbols, bits and places in a table are small numbers"
)]

use super::InflateError;

/// The entry is a literal byte.
pub(super) const LITERAL: u32 = 1 << 31;
/// The entry is neither a literal nor a base value.
pub(super) const SPECIAL: u32 = 1 << 15;
/// A special entry that leads to a subtable.
pub(super) const SUBTABLE: u32 = 1 << 14;
/// A special entry that ends the block.
pub(super) const END: u32 = 1 << 13;

/// Longest code of literals, lengths and distances.
const MAX_CODE: usize = 15;
pub(super) const LITERAL_BITS: u32 = 11;
pub(super) const DISTANCE_BITS: u32 = 8;
pub(super) const PRECODE_BITS: u32 = 7;
pub(super) const MAX_LITERALS: usize = 288;
pub(super) const MAX_DISTANCES: usize = 32;
/// Room for the largest tables: powers of two, so that a masked index needs no check. No complete
/// code of 288 symbols takes more than 2,342 entries with a first table of 11 bits, none of 32
/// more than 402 with one of 8 bits.
pub(super) const LITERAL_ENTRIES: usize = 4096;
pub(super) const DISTANCE_ENTRIES: usize = 512;
pub(super) const PRECODE_ENTRIES: usize = 128;

/// The two tables that a block's symbols are read with.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) literals: [u32; LITERAL_ENTRIES],
    pub(super) distances: [u32; DISTANCE_ENTRIES],
}

/// Base values and extra bits of the length symbols 257 to 285 (RFC 1951, 3.2.5).
const LENGTHS: [(u16, u8); 29] = bases(3, 4, 258);
/// Base values and extra bits of the distance symbols 0 to 29.
const DISTANCES: [(u16, u8); 30] = bases(1, 2, 0);

/// Each group of `group` symbols has one more extra bit than the one before; the first two groups
/// have none. `last`, unless 0, is a value of its own for the last symbol.
const fn bases<const N: usize>(first: u16, group: usize, last: u16) -> [(u16, u8); N] {
    let mut table = [(0, 0); N];
    let mut base = first;
    let mut symbol = 0;
    while symbol < N {
        let extra = (symbol / group).saturating_sub(1) as u8;
        table[symbol] = (base, extra);
        base += 1 << extra;
        symbol += 1;
    }
    if last != 0 {
        table[N - 1] = (last, 0);
    }
    table
}

/// Symbol → entry, all but the bits of the code.
const LITERAL_SYMBOLS: [u32; MAX_LITERALS] = {
    let mut entries = [SPECIAL; MAX_LITERALS];
    let mut symbol = 0;
    while symbol < 256 {
        entries[symbol] = LITERAL | (symbol as u32) << 16;
        symbol += 1;
    }
    entries[256] = SPECIAL | END;
    symbol = 0;
    while symbol < LENGTHS.len() {
        entries[257 + symbol] = base_entry(LENGTHS[symbol]);
        symbol += 1;
    }
    entries
};

const DISTANCE_SYMBOLS: [u32; MAX_DISTANCES] = {
    let mut entries = [SPECIAL; MAX_DISTANCES];
    let mut symbol = 0;
    while symbol < DISTANCES.len() {
        entries[symbol] = base_entry(DISTANCES[symbol]);
        symbol += 1;
    }
    entries
};

/// The symbols of the code in which code lengths are written: themselves.
const PRECODE_SYMBOLS: [u32; 19] = {
    let mut entries = [0; 19];
    let mut symbol = 0;
    while symbol < 19 {
        entries[symbol] = (symbol as u32) << 16;
        symbol += 1;
    }
    entries
};

const fn base_entry((base, extra): (u16, u8)) -> u32 {
    (base as u32) << 16 | extra as u32
}

impl Tables {
    pub(super) fn new() -> Box<Self> {
        Box::new(Self {
            literals: [SPECIAL; LITERAL_ENTRIES],
            distances: [SPECIAL; DISTANCE_ENTRIES],
        })
    }

    /// Builds both tables from code lengths, 0 for a symbol that does not occur.
    pub(super) fn build(&mut self, literals: &[u8], distances: &[u8]) -> Result<(), InflateError> {
        build(&mut self.literals, LITERAL_BITS, literals, &LITERAL_SYMBOLS)?;
        build(
            &mut self.distances,
            DISTANCE_BITS,
            distances,
            &DISTANCE_SYMBOLS,
        )
    }

    /// The fixed codes (RFC 1951, 3.2.6).
    pub(super) fn build_fixed(&mut self) -> Result<(), InflateError> {
        let mut literals = [8; MAX_LITERALS];
        literals[144..256].fill(9);
        literals[256..280].fill(7);
        self.build(&literals, &[5; MAX_DISTANCES])
    }
}

/// Builds the table of the code in which code lengths are written.
pub(super) fn build_precode(
    table: &mut [u32; PRECODE_ENTRIES],
    lengths: &[u8; 19],
) -> Result<(), InflateError> {
    build(table, PRECODE_BITS, lengths, &PRECODE_SYMBOLS)?;
    // Alone of all codes, this one may not be a single bit.
    match lengths.iter().filter(|length| **length != 0).count() {
        1 => Err(InflateError::Code),
        _ => Ok(()),
    }
}

/// Fills `table` for the code in which the symbol `s` has `lengths[s]` bits. As zlib has it, a
/// code must be complete, but for an empty one and one of a single symbol with one bit.
fn build(
    table: &mut [u32],
    table_bits: u32,
    lengths: &[u8],
    symbols: &[u32],
) -> Result<(), InflateError> {
    let mut counts = [0u16; MAX_CODE + 1];
    for length in lengths {
        counts[usize::from(*length)] += 1;
    }
    counts[0] = 0;
    let mut starts = [0u16; MAX_CODE + 2];
    let mut space = 0u32;
    for length in 1..=MAX_CODE {
        starts[length + 1] = starts[length] + counts[length];
        space += u32::from(counts[length]) << (MAX_CODE - length);
    }
    let used = usize::from(starts[MAX_CODE + 1]);
    let single = used == 1 && counts[1] == 1;
    if space != 1 << MAX_CODE && used != 0 && !single {
        return Err(InflateError::Code);
    }
    let mut sorted = [0u16; MAX_LITERALS];
    for (symbol, length) in (0u16..).zip(lengths) {
        if *length != 0 {
            let start = &mut starts[usize::from(*length)];
            sorted[usize::from(*start)] = symbol;
            *start += 1;
        }
    }
    if used <= 1 {
        table[..1 << table_bits].fill(SPECIAL);
    }
    fill(
        table,
        table_bits,
        &counts,
        &sorted[..used],
        |symbol, code| {
            let entry = symbols[usize::from(symbol)];
            // `consumed` so far holds the extra bits alone.
            (entry + code) | (code << 8)
        },
    );
    Ok(())
}

/// Walks the codes from the shortest on, each with its first bit lowest, and writes their entries.
fn fill(
    table: &mut [u32],
    table_bits: u32,
    counts: &[u16; MAX_CODE + 1],
    sorted: &[u16],
    entry: impl Fn(u16, u32) -> u32,
) {
    let mut symbols = sorted.iter();
    let mut code = 0usize;
    // The first table, doubled whenever codes get a bit longer: the upper half starts as a copy.
    let mut filled = 1usize;
    for length in 1..=table_bits {
        table.copy_within(..filled, filled);
        filled *= 2;
        for _ in 0..counts[length as usize] {
            let Some(symbol) = symbols.next() else { return };
            table[code] = entry(*symbol, length);
            code = next_code(code, length);
        }
    }
    // Longer codes: a subtable for each value of their first bits, as wide as its longest code.
    let mask = filled - 1;
    let (mut prefix, mut start, mut end) = (usize::MAX, 0, filled);
    for length in table_bits + 1..=MAX_CODE as u32 {
        let mut left = counts[length as usize];
        while left > 0 {
            let Some(symbol) = symbols.next() else { return };
            if code & mask != prefix {
                prefix = code & mask;
                start = end;
                let bits = subtable_bits(counts, length, left, table_bits);
                end = start + (1 << bits);
                table[prefix] = (start as u32) << 16 | SPECIAL | SUBTABLE | bits << 8 | table_bits;
            }
            let first = start + (code >> table_bits);
            let step = 1 << (length - table_bits);
            for slot in (first..end).step_by(step) {
                table[slot] = entry(*symbol, length - table_bits);
            }
            code = next_code(code, length);
            left -= 1;
        }
    }
}

/// How many bits the subtable takes that starts with a code of `length` bits, `left` of which are
/// still to come.
fn subtable_bits(counts: &[u16; MAX_CODE + 1], length: u32, left: u16, table_bits: u32) -> u32 {
    let mut bits = length - table_bits;
    let mut used = u32::from(left);
    while used < 1 << bits && ((table_bits + bits) as usize) < MAX_CODE {
        bits += 1;
        used = (used << 1) + u32::from(counts[(table_bits + bits) as usize]);
    }
    bits
}

/// Adds one to a code of `length` bits whose first, most significant bit is the lowest. The code
/// keeps its value when it gets longer: canonical codes continue with a zero bit appended.
fn next_code(code: usize, length: u32) -> usize {
    let zeros = !code & ((1 << length) - 1);
    if zeros == 0 {
        return 0;
    }
    let bit = 1 << zeros.ilog2();
    code & (bit - 1) | bit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_of_the_standard() {
        assert_eq!(LENGTHS[0], (3, 0));
        assert_eq!(LENGTHS[8], (11, 1));
        assert_eq!(LENGTHS[27], (227, 5));
        assert_eq!(LENGTHS[28], (258, 0));
        assert_eq!(DISTANCES[3], (4, 0));
        assert_eq!(DISTANCES[4], (5, 1));
        assert_eq!(DISTANCES[29], (24577, 13));
    }

    #[test]
    fn the_example_of_the_standard() {
        // RFC 1951, 3.2.2: A to H with lengths 3 3 3 3 3 2 4 4.
        let mut table = [0; PRECODE_ENTRIES];
        let mut lengths = [0; 19];
        lengths[..8].copy_from_slice(&[3, 3, 3, 3, 3, 2, 4, 4]);
        build_precode(&mut table, &lengths).unwrap();
        let symbol = |code: &str| {
            let bits = usize::from_str_radix(&code.chars().rev().collect::<String>(), 2).unwrap();
            let entry = table[bits];
            assert_eq!(entry & 63, code.len() as u32);
            entry >> 16
        };
        let codes = ["010", "011", "100", "101", "110", "00", "1110", "1111"];
        for (expected, code) in codes.iter().enumerate() {
            assert_eq!(symbol(code) as usize, expected, "{code}");
        }
    }

    #[test]
    fn codes_that_are_none_are_refused() {
        let mut tables = Tables::new();
        let mut check = |literals: &[u8], distances: &[u8]| tables.build(literals, distances);
        assert!(check(&[1, 1], &[]).is_ok());
        assert!(check(&[1, 1, 1], &[]).is_err());
        assert!(check(&[1, 2], &[]).is_err());
        assert!(check(&[2], &[1]).is_err());
        assert!(check(&[1], &[1]).is_ok());
        assert!(check(&[1, 1], &[1, 15]).is_err());
        assert!(check(&[1, 1], &[15; 32]).is_err());
    }

    #[test]
    fn the_largest_tables_fit() {
        // One code of each length: the deepest tree.
        let deep = |size: usize| {
            let mut lengths = vec![0u8; size];
            for (length, slot) in (1..=15).zip(lengths.iter_mut()) {
                *slot = length;
            }
            lengths[15] = 15;
            lengths
        };
        Tables::new().build(&deep(288), &deep(32)).unwrap();
    }
}
