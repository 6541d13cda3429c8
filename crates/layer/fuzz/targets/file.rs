//! A tar of one file, which has what a target makes of its input.

const BLOCK: usize = 512;

/// What goes before the file's data, and what after it.
pub(crate) fn around(data: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let padding = data.len().next_multiple_of(BLOCK) - data.len();
    (header(data.len()), vec![0; padding + 2 * BLOCK])
}

/// The header of a file of `size` bytes.
fn header(size: usize) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    for (at, text) in [
        (0, "f"),
        (100, "0000644"),
        (108, "0000000"),
        (116, "0000000"),
    ] {
        block[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"00000000000");
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}
