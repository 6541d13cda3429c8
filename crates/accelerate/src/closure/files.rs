//! Reading files of a layout: paths, bytes, and where those lie in the layer tars.

use std::io;

use thaw_erofs::{Content, FileData, InodeId, Tree};
use thaw_image::{BLOCK, DiffId, Extent};

use crate::merge::resolve;

/// Reads bytes of a layer's tar.
pub type ReadTar<'a> = &'a dyn Fn(&DiffId, Extent) -> io::Result<Vec<u8>>;

/// A root filesystem that can be read: its tree, the layers on its devices, and their bytes.
#[derive(Clone, Copy)]
pub struct Root<'a> {
    /// The merged tree.
    pub tree: &'a Tree,
    /// The layer of each device slot, in order. Slots behind have none: the generated device.
    pub layers: &'a [DiffId],
    /// Gives bytes of a layer's tar.
    pub read: ReadTar<'a>,
}

impl std::fmt::Debug for Root<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Root({} inodes)", self.tree.len())
    }
}

impl Root<'_> {
    /// The regular file that a path leads to. Looking for it takes from `steps`.
    pub(super) fn file(&self, path: &[u8], steps: &mut u64) -> Option<InodeId> {
        let id = resolve(self.tree, path, steps)?;
        self.data(id).map(|_| id)
    }

    /// Whether anybody may execute it.
    pub(super) fn is_executable(&self, id: InodeId) -> bool {
        self.tree.get(id).attributes.mode & 0o111 != 0
    }

    pub(super) fn size(&self, id: InodeId) -> u64 {
        self.data(id).map_or(0, |data| data.size)
    }

    fn data(&self, id: InodeId) -> Option<&FileData> {
        match &self.tree.get(id).content {
            Content::File(data) => Some(data),
            _ => None,
        }
    }

    /// Where a range of a file lies, in order; holes and generated parts are left out.
    pub(super) fn places(&self, id: InodeId, range: Extent) -> Vec<(u64, DiffId, Extent)> {
        let Some(data) = self.data(id) else {
            return Vec::new();
        };
        let range = range.intersect(&Extent {
            offset: 0,
            len: data.size,
        });
        let place = |extent: &thaw_erofs::FileExtent| {
            let start = extent.file_block.checked_mul(BLOCK)?;
            let whole = Extent::checked(start, extent.blocks.checked_mul(BLOCK)?)?;
            let part = whole.intersect(&range);
            let layer = self
                .layers
                .get(usize::from(extent.device).checked_sub(1)?)?;
            let tar = extent.device_block.checked_mul(BLOCK)?;
            let tar = Extent::checked(tar.checked_add(part.offset.checked_sub(start)?)?, part.len)?;
            (!part.is_empty()).then_some((part.offset, *layer, tar))
        };
        data.extents.iter().filter_map(place).collect()
    }

    /// Reads a range of a file, as far as the file goes. The caller caps `range`.
    pub(super) fn read(&self, id: InodeId, range: Extent) -> io::Result<Vec<u8>> {
        let range = range.intersect(&Extent {
            offset: 0,
            len: self.size(id),
        });
        let mut bytes = vec![0; usize::try_from(range.len).map_err(io::Error::other)?];
        for (offset, layer, tar) in self.places(id, range) {
            let part = (self.read)(&layer, tar)?;
            let start = usize::try_from(offset - range.offset).map_err(io::Error::other)?;
            bytes
                .get_mut(start..start.saturating_add(part.len()))
                .ok_or(io::ErrorKind::InvalidData)?
                .copy_from_slice(&part);
        }
        Ok(bytes)
    }
}
