//! What the parts of a tree take in memory, estimated on the high side: with the allocator's and the
//! B-trees' overhead, and with what writing the layout notes of each inode.

use thaw_erofs::{Attributes, Content, FileExtent, Inode};
use thaw_layer::tar::SparsePiece;

/// Of an inode beside itself: its origin, and its places while the layout is written.
const INODE: usize = 64;
/// A B-tree that is not empty: room for eleven names, or names and values.
const TREE: usize = 560;
/// A name in a B-tree beside its bytes: nodes are half full at worst.
const NAME: usize = 80;

/// An inode with all that it owns.
pub(crate) fn inode(inode: &Inode) -> usize {
    let content = match &inode.content {
        Content::Directory(_) => TREE,
        Content::Symlink(target) => target.len(),
        // A file in one piece has one; those of a sparse file are counted by its pieces.
        Content::File(_) => size_of::<FileExtent>(),
        _ => 0,
    };
    size_of::<Inode>() + INODE + content + attributes(&inode.attributes)
}

/// The xattrs of an inode.
pub(crate) fn attributes(attributes: &Attributes) -> usize {
    let pair = |(key, value): (&Vec<u8>, &Vec<u8>)| name(key) + value.len();
    let xattrs: usize = attributes.xattrs.iter().map(pair).sum();
    xattrs + if xattrs > 0 { TREE } else { 0 }
}

/// A name in a directory.
pub(crate) fn name(name: &[u8]) -> usize {
    NAME + name.len()
}

/// The map of a sparse file: its pieces, and the extents and copies that they become.
pub(crate) fn pieces(pieces: &[SparsePiece]) -> usize {
    let copy = size_of::<super::Copy>();
    pieces.len() * (size_of::<SparsePiece>() + 2 * size_of::<FileExtent>() + copy)
}
