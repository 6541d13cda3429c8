//! The smallest EROFS image that shows what a layout needs: 512-byte blocks, a device table with
//! one device, an empty root directory. Written by hand after include/uapi of erofs-utils and
//! `fs/erofs/erofs_fs.h`, so that this crate needs no other.

const BLOCK: usize = 512;
const SUPERBLOCK: usize = 1024;
/// Slot numbers and inode numbers count from here in units of 128 and of 32 bytes.
const DEVICE_SLOT: usize = 1280;
const META_BLOCK: usize = 3;
const DIRECTORY_BLOCK: usize = 4;
const BLOCKS: usize = 8;

/// The image without its device.
pub(super) fn layout() -> Vec<u8> {
    let mut image = vec![0; BLOCKS * BLOCK];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(SUPERBLOCK, &0xe0f5_e1e2u32.to_le_bytes());
    put(SUPERBLOCK + 12, &[9]); // block size: 2^9
    put(SUPERBLOCK + 16, &1u64.to_le_bytes()); // inodes
    put(SUPERBLOCK + 36, &word(BLOCKS)); // blocks
    put(SUPERBLOCK + 40, &word(META_BLOCK));
    put(SUPERBLOCK + 80, &8u32.to_le_bytes()); // incompatible feature: device table
    put(SUPERBLOCK + 86, &1u16.to_le_bytes()); // extra devices
    put(SUPERBLOCK + 88, &half(DEVICE_SLOT / 128));
    put(DEVICE_SLOT + 64, &1u32.to_le_bytes()); // blocks of the device
    let inode = META_BLOCK * BLOCK; // nid 0, the root
    put(inode + 4, &0o040_755u16.to_le_bytes());
    put(inode + 6, &2u16.to_le_bytes()); // links
    put(inode + 8, &27u32.to_le_bytes()); // bytes of the directory
    put(inode + 16, &word(DIRECTORY_BLOCK));
    let directory = DIRECTORY_BLOCK * BLOCK;
    put(directory + 8, &[24, 0, 2]); // name offset, type: directory
    put(directory + 12 + 8, &[25, 0, 2]);
    put(directory + 24, b"...");
    image
}

/// The device: one block.
pub(super) fn device() -> Vec<u8> {
    vec![0; BLOCK]
}

fn word(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap_or(0).to_le_bytes()
}

fn half(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(0).to_le_bytes()
}
