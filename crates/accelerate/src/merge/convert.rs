//! An entry of a tar becomes an inode.

use thaw_erofs::{Attributes, Content, DeviceNumber, FileData, Timestamp};
use thaw_image::{BLOCK, Extent};
use thaw_layer::tar::{self, Entry, EntryKind, SparsePiece};

use super::WarningKind;
use super::path::PathError;
use super::{EntryError, path};

/// Most bytes of an xattr's value that a layout takes.
const MAX_XATTR_VALUE: usize = u16::MAX as usize;

/// What an entry becomes. Hard links become nothing of their own.
pub(super) enum Converted {
    Content(Content),
    Sparse(u64, Vec<SparsePiece>),
}

/// The attributes of an entry, and what of its xattrs is left out.
pub(crate) fn attributes(entry: &Entry) -> Result<(Attributes, Vec<WarningKind>), EntryError> {
    let id = |what, id: u64| match u32::try_from(id) {
        // The last one means "none" to every system call.
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(EntryError::Id { what, id }),
    };
    let mut attributes = Attributes {
        mode: (entry.mode & 0o7777) as u16,
        uid: id("uid", entry.uid)?,
        gid: id("gid", entry.gid)?,
        mtime: Timestamp {
            seconds: entry.mtime.seconds,
            nanoseconds: entry.mtime.nanoseconds,
        },
        ..Attributes::default()
    };
    let mut left_out = Vec::new();
    for (name, value) in &entry.xattrs {
        if name.starts_with(b"trusted.overlay.") {
            left_out.push(WarningKind::OverlayXattr(name.clone()));
        } else if !thaw_erofs::is_storable(name) {
            left_out.push(WarningKind::UnknownXattr(name.clone()));
        } else if value.len() > MAX_XATTR_VALUE {
            return Err(EntryError::XattrSize {
                name: name.clone(),
                size: value.len(),
            });
        } else {
            attributes.xattrs.insert(name.clone(), value.clone());
        }
    }
    Ok((attributes, left_out))
}

/// What an entry of the layer in device slot `slot`, whose tar has `tar_size` bytes, is.
pub(super) fn content(entry: &Entry, slot: u16, tar_size: u64) -> Result<Converted, EntryError> {
    let device = |major: u32, minor: u32| {
        if major < 1 << 12 && minor < 1 << 20 {
            Ok(DeviceNumber { major, minor })
        } else {
            Err(EntryError::DeviceNumber { major, minor })
        }
    };
    Ok(Converted::Content(match &entry.kind {
        EntryKind::File { size, data } => return file(*size, data, slot, tar_size),
        EntryKind::Symlink(target) => Content::Symlink(symlink(target)?),
        EntryKind::CharDevice { major, minor } => Content::CharDevice(device(*major, *minor)?),
        EntryKind::BlockDevice { major, minor } => Content::BlockDevice(device(*major, *minor)?),
        EntryKind::Fifo => Content::Fifo,
        EntryKind::Directory | EntryKind::HardLink(_) => Content::Directory(Default::default()),
    }))
}

fn symlink(target: &[u8]) -> Result<Vec<u8>, EntryError> {
    let reason = match target {
        b"" => PathError::Empty,
        _ if target.len() >= path::MAX_PATH => PathError::Long(target.len()),
        _ if target.contains(&0) => PathError::Nul,
        _ => return Ok(target.to_vec()),
    };
    Err(EntryError::Target {
        target: target.to_vec(),
        reason,
    })
}

fn file(
    size: u64,
    data: &tar::FileData,
    slot: u16,
    tar_size: u64,
) -> Result<Converted, EntryError> {
    let within =
        |offset, len| Extent::checked(offset, len).is_some_and(|extent| extent.end() <= tar_size);
    match data {
        tar::FileData::Contiguous { .. } if size == 0 => {
            Ok(Converted::Content(Content::File(FileData::default())))
        }
        tar::FileData::Contiguous { tar_offset } => {
            if !within(*tar_offset, size) || tar_offset % BLOCK != 0 {
                return Err(EntryError::Outside);
            }
            let data = FileData::contiguous(size, slot, tar_offset / BLOCK);
            Ok(Converted::Content(Content::File(data)))
        }
        tar::FileData::Sparse(pieces) => {
            let mut end = 0;
            for piece in pieces {
                let fits = Extent::checked(piece.file_offset, piece.len)
                    .is_some_and(|in_file| in_file.offset >= end && in_file.end() <= size);
                if !fits || piece.len == 0 || !within(piece.tar_offset, piece.len) {
                    return Err(EntryError::Outside);
                }
                end = piece.file_offset + piece.len;
            }
            Ok(Converted::Sparse(size, pieces.clone()))
        }
    }
}
