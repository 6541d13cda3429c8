//! Any bytes are read or refused, and what is read as a tree can be written again.

use thaw_erofs::{Image, write};

const SUPERBLOCK: usize = 1024;

/// Repairs what stands in front of everything else: length, block count and checksum.
fn repair(data: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = data.get(..data.len() / 512 * 512)?.to_vec();
    let blocks = u32::try_from(bytes.len() / 512).ok()?;
    let superblock = bytes.get_mut(SUPERBLOCK..SUPERBLOCK + 512)?;
    superblock[36..40].copy_from_slice(&blocks.to_le_bytes());
    superblock[4..8].fill(0);
    let sum = superblock.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0x82F6_3B78 & (sum & 1).wrapping_neg())
        })
    });
    superblock[4..8].copy_from_slice(&sum.to_le_bytes());
    Some(bytes)
}

pub(crate) fn run(data: &[u8]) {
    let _ = Image::open(data);
    let Some(bytes) = repair(data) else { return };
    let Ok(image) = Image::open(&bytes) else {
        return;
    };
    let _ = image.inode(image.root());
    if let Ok(tree) = image.to_tree() {
        let mut again = Vec::new();
        write(&tree, image.devices(), &mut again).expect("what was read can be written");
        let again = Image::open(&again).expect("what was written can be read");
        again.to_tree().expect("what was written is a tree");
    }
}
