//! Sparse files: four spellings of one map.
//!
//! GNU's type `S` keeps it in header blocks; PAX 0.0 and 0.1 in records of the extended header;
//! PAX 1.0 in decimal lines at the start of the data, padded to a block. Behind all of them the
//! stored pieces follow each other without gaps.

use super::header::BLOCK;
use super::pax::decimal;
use super::{FileData, MAX_SPARSE, SparsePiece, TarReason};

/// Turns a map into pieces with places in the tar. `stored` is how many bytes of data there are,
/// from `tar_offset` on, `size` what the file has with its holes.
pub(super) fn resolve(
    map: &[(u64, u64)],
    size: u64,
    tar_offset: u64,
    stored: u64,
) -> Result<FileData, TarReason> {
    let mut pieces = Vec::with_capacity(map.len());
    let (mut file_end, mut used) = (0, 0u64);
    for &(file_offset, len) in map {
        let end = file_offset.checked_add(len).filter(|end| *end <= size);
        let end = end.ok_or(TarReason::Sparse("a piece ends behind the file"))?;
        if file_offset < file_end {
            return Err(TarReason::Sparse("pieces overlap"));
        }
        file_end = end;
        if len > 0 {
            let tar_offset = tar_offset + used;
            pieces.push(SparsePiece {
                file_offset,
                tar_offset,
                len,
            });
        }
        used = used.saturating_add(len);
        if used > stored {
            return Err(TarReason::Sparse("the pieces are more than is stored"));
        }
    }
    if used != stored {
        return Err(TarReason::Sparse("the pieces are less than is stored"));
    }
    pieces.shrink_to_fit();
    Ok(FileData::Sparse(pieces))
}

/// The map of PAX 1.0, read block by block: a count, then offset and length for each piece, all
/// in decimal, each on a line.
#[derive(Debug, Default)]
pub(super) struct MapReader {
    line: Vec<u8>,
    count: Option<usize>,
    numbers: Vec<u64>,
}

impl MapReader {
    /// Takes one block; whether the map is complete.
    pub(super) fn push(&mut self, block: &[u8; BLOCK]) -> Result<bool, TarReason> {
        for byte in block {
            if self.is_complete() {
                return Ok(true);
            }
            if *byte != b'\n' {
                // The longest number of 64 bits has 20 digits.
                if self.line.len() >= 20 {
                    return Err(TarReason::field("sparse map", &self.line));
                }
                self.line.push(*byte);
                continue;
            }
            let number = decimal(&self.line).ok_or(TarReason::field("sparse map", &self.line))?;
            self.line.clear();
            if self.count.is_some() {
                self.numbers.push(number);
                continue;
            }
            let count = usize::try_from(number).unwrap_or(usize::MAX);
            if count > MAX_SPARSE {
                return Err(TarReason::limit("a sparse map", MAX_SPARSE));
            }
            self.count = Some(count);
        }
        Ok(self.is_complete())
    }

    fn is_complete(&self) -> bool {
        self.count
            .is_some_and(|count| self.numbers.len() >= count * 2)
    }

    /// The map that was read.
    pub(super) fn pairs(&self) -> Vec<(u64, u64)> {
        pairs(&self.numbers)
    }
}

/// Offsets and lengths in turns.
pub(super) fn pairs(numbers: &[u64]) -> Vec<(u64, u64)> {
    let pairs = numbers.chunks_exact(2);
    pairs.map(|pair| (pair[0], pair[1])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_checked() {
        let check = |map: &[(u64, u64)], stored| resolve(map, 100, 512, stored);
        let piece = |file_offset, tar_offset, len| SparsePiece {
            file_offset,
            tar_offset,
            len,
        };
        assert_eq!(
            check(&[(0, 10), (50, 5), (100, 0)], 15),
            Ok(FileData::Sparse(vec![piece(0, 512, 10), piece(50, 522, 5)]))
        );
        assert!(check(&[(0, 10), (5, 5)], 15).is_err());
        assert!(check(&[(96, 5)], 5).is_err());
        assert!(check(&[(u64::MAX, 5)], 5).is_err());
        assert!(check(&[(0, 10)], 9).is_err());
        assert!(check(&[(0, 10)], 11).is_err());
    }

    #[test]
    fn a_map_may_straddle_blocks() {
        let mut text = b"60\n".to_vec();
        for number in 0..60 {
            text.extend_from_slice(format!("{}\n{}\n", number * 1000, 100).as_bytes());
        }
        text.resize(text.len().next_multiple_of(BLOCK), 0);
        let mut reader = MapReader::default();
        let (blocks, _) = text.as_chunks::<BLOCK>();
        for (number, block) in blocks.iter().enumerate() {
            assert_eq!(reader.push(block).unwrap(), number + 1 == blocks.len());
        }
        assert_eq!(reader.pairs().len(), 60);
        assert_eq!(reader.pairs()[59], (59_000, 100));
    }
}
