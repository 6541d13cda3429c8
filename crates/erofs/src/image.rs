//! Reading a layout back: for checks before the kernel gets it, and to show what is in it.
//!
//! It reads what [`crate::write()`] writes, a small part of EROFS, and nothing else. A layout may
//! come from anywhere, so every offset is checked, and memory is bounded by the layout's size:
//! [`Image::check`] refuses one whose parts overlap.

use std::borrow::Cow;

use zerocopy::{FromBytes, IntoBytes};

use crate::extents::{Run, push_run};
use crate::format::{
    self, BLOCK_LEN, ChunkIndex, DeviceSlot, INODE, Kind, SLOT, SUPERBLOCK_OFFSET, Superblock,
};
use crate::write::{MAX_TARGET, check_attributes};
use crate::{
    Attributes, BLOCK, Content, Device, DeviceNumber, ExtentError, FileData, MAX_DEVICES, Nid,
    Timestamp, directory, xattr,
};

/// Why bytes are not a layout.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// They are not EROFS at all, or too short to be.
    #[error("not an EROFS image")]
    Magic,
    /// The superblock's checksum is wrong.
    #[error("the layout is damaged: its superblock's checksum does not match")]
    Checksum,
    /// It is EROFS, but made by something else, or not as long as it says.
    #[error("not a layout of this program: {0}")]
    Foreign(&'static str),
    /// An inode is damaged.
    #[error("inode {} of the layout: {reason}", nid.0)]
    Inode {
        /// Which.
        nid: Nid,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The extents of a file are damaged.
    #[error("inode {} of the layout: {reason}", nid.0)]
    Extent {
        /// Which inode.
        nid: Nid,
        /// What is wrong with them.
        reason: ExtentError,
    },
    /// Inodes share bytes: together they would be larger than the layout.
    #[error("the layout's inodes overlap")]
    Overlap,
}

/// A layout in memory. Opening it checks the superblock and the device table, nothing else.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    bytes: &'a [u8],
    root: Nid,
    inodes: u64,
    uuid: [u8; 16],
    devices: Vec<Device>,
}

/// An inode as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredInode {
    /// What every kind has.
    pub attributes: Attributes,
    /// Number of links.
    pub links: u32,
    /// What this one is.
    pub content: StoredContent,
}

/// What a stored inode is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoredContent {
    /// A directory.
    Directory {
        /// Where `..` leads.
        parent: Nid,
        /// The other names, ascending.
        entries: Vec<Entry>,
    },
    /// Anything else; never [`Content::Directory`].
    Other(Content),
}

/// A name in a stored directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The name.
    pub name: Vec<u8>,
    /// Where it leads.
    pub nid: Nid,
    pub(crate) file_type: u8,
}

/// An inode's fixed part, and where its other parts begin.
struct Raw {
    nid: Nid,
    fields: format::Inode,
    kind: Kind,
    /// Bytes up to the end of the xattrs, from the start of the layout.
    end: usize,
}

impl Raw {
    fn bad(&self, reason: &'static str) -> ReadError {
        ReadError::Inode {
            nid: self.nid,
            reason,
        }
    }
}

impl<'a> Image<'a> {
    /// Reads superblock and device table.
    ///
    /// # Errors
    /// [`ReadError`] when they are damaged or not of this program.
    pub fn open(bytes: &'a [u8]) -> Result<Self, ReadError> {
        let (superblock, _) = bytes
            .get(SUPERBLOCK_OFFSET..)
            .and_then(|bytes| Superblock::read_from_prefix(bytes).ok())
            .filter(|(superblock, _)| superblock.magic.get() == format::MAGIC)
            .ok_or(ReadError::Magic)?;
        check_superblock(&superblock, bytes)?;
        let count = usize::from(superblock.extra_devices.get());
        if count > MAX_DEVICES {
            return Err(ReadError::Foreign("it has too many devices"));
        }
        let slots = bytes
            .get(format::DEVICES_OFFSET..)
            .and_then(|bytes| bytes.get(..count * size_of::<DeviceSlot>()))
            .and_then(|bytes| <[DeviceSlot]>::ref_from_bytes(bytes).ok())
            .ok_or(ReadError::Foreign("it ends in the device table"))?;
        let device = |slot: &DeviceSlot| Device {
            tag: slot.tag,
            blocks: u64::from(slot.blocks.get()),
        };
        if slots.iter().any(|slot| slot.unified_block.get() != 0) {
            return Err(ReadError::Foreign("its devices share an address space"));
        }
        Ok(Self {
            bytes,
            root: Nid(u64::from(superblock.root_nid.get())),
            inodes: superblock.inodes.get(),
            uuid: superblock.uuid,
            devices: slots.iter().map(device).collect(),
        })
    }

    /// Bytes of the layout.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The root directory.
    #[must_use]
    pub const fn root(&self) -> Nid {
        self.root
    }

    /// Number of inodes, as the superblock has it.
    #[must_use]
    pub const fn inode_count(&self) -> u64 {
        self.inodes
    }

    /// The UUID.
    #[must_use]
    pub const fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// The device table.
    #[must_use]
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// Reads one inode with all that belongs to it.
    ///
    /// # Errors
    /// [`ReadError`] when there is no inode of this number or it is damaged. What its names lead
    /// to is not read.
    pub fn inode(&self, nid: Nid) -> Result<StoredInode, ReadError> {
        self.inode_and_size(nid).map(|(inode, _)| inode)
    }

    /// An inode, and how many bytes of the layout it takes.
    pub(crate) fn inode_and_size(&self, nid: Nid) -> Result<(StoredInode, usize), ReadError> {
        let raw = self.raw(nid)?;
        let fields = &raw.fields;
        let start = raw.end - xattr::len(fields.xattr_count.get());
        let xattrs = self.bytes.get(start..raw.end).unwrap_or_default();
        let mtime = Timestamp {
            seconds: fields.mtime.get().cast_signed(),
            nanoseconds: fields.mtime_nanoseconds.get(),
        };
        let attributes = Attributes {
            mode: fields.mode.get() & 0o7777,
            uid: fields.uid.get(),
            gid: fields.gid.get(),
            mtime,
            xattrs: xattr::decode(xattrs).map_err(|reason| raw.bad(reason))?,
        };
        check_attributes(&attributes).map_err(|_| raw.bad("its owner or time is out of range"))?;
        let (content, content_len) = self.content(&raw)?;
        let inode = StoredInode {
            attributes,
            links: fields.links.get(),
            content,
        };
        Ok((inode, INODE + xattrs.len() + content_len))
    }

    fn raw(&self, nid: Nid) -> Result<Raw, ReadError> {
        let bad = |reason| ReadError::Inode { nid, reason };
        let start = usize::try_from(nid.0)
            .ok()
            .and_then(|slot| slot.checked_mul(SLOT))
            .filter(|start| *start >= format::DEVICES_OFFSET);
        let (fields, _) = start
            .and_then(|start| self.bytes.get(start..))
            .and_then(|bytes| format::Inode::read_from_prefix(bytes).ok())
            .ok_or_else(|| bad("it lies outside of the layout"))?;
        let end = start
            .map(|start| start + INODE + xattr::len(fields.xattr_count.get()))
            .filter(|end| *end <= self.bytes.len())
            .ok_or_else(|| bad("its xattrs end behind the layout"))?;
        let kind = Kind::of_mode(fields.mode.get()).ok_or_else(|| bad("its type is unknown"))?;
        Ok(Raw {
            nid,
            fields,
            kind,
            end,
        })
    }

    /// What the inode is, and how many bytes of the layout that takes.
    fn content(&self, raw: &Raw) -> Result<(StoredContent, usize), ReadError> {
        let number = || decode_device(raw.fields.data.get());
        let content = match raw.kind {
            Kind::Directory => {
                let data = self.flat_data(raw)?;
                let content = read_directory(raw, &data)?;
                return Ok((content, data.len()));
            }
            Kind::File => {
                let (data, table_len) = self.file(raw)?;
                return Ok((StoredContent::Other(Content::File(data)), table_len));
            }
            Kind::Symlink => {
                let target = self.flat_data(raw)?;
                if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
                    return Err(raw.bad("its target is empty, too long or has a zero byte"));
                }
                let len = target.len();
                let content = Content::Symlink(target.into_owned());
                return Ok((StoredContent::Other(content), len));
            }
            Kind::CharDevice => Content::CharDevice(number()),
            Kind::BlockDevice => Content::BlockDevice(number()),
            Kind::Fifo => Content::Fifo,
            Kind::Socket => Content::Socket,
        };
        Ok((StoredContent::Other(content), 0))
    }

    /// Data in the layout itself.
    fn flat_data(&self, raw: &Raw) -> Result<Cow<'a, [u8]>, ReadError> {
        let outside = || raw.bad("its data lies outside of the layout");
        let size = usize::try_from(raw.fields.size.get()).map_err(|_| outside())?;
        let tail = match raw.fields.format.get() {
            format::FLAT_INLINE => size % BLOCK_LEN,
            format::FLAT_PLAIN => 0,
            _ => return Err(raw.bad("its data layout is not supported")),
        };
        let tail_end = raw.end + tail;
        // The block in which the inode's fixed part ends: see the writer.
        let fixed_end = raw.end - xattr::len(raw.fields.xattr_count.get());
        if tail > 0 && (fixed_end - 1) / BLOCK_LEN != (tail_end - 1) / BLOCK_LEN {
            return Err(raw.bad("its inline data crosses a block"));
        }
        let tail = self.bytes.get(raw.end..tail_end).ok_or_else(outside)?;
        let start =
            usize::try_from(u64::from(raw.fields.data.get()) * BLOCK).map_err(|_| outside())?;
        let blocks = match size - tail.len() {
            0 => &[],
            len => self
                .bytes
                .get(start..)
                .and_then(|bytes| bytes.get(..len))
                .ok_or_else(outside)?,
        };
        Ok(match (blocks.is_empty(), tail.is_empty()) {
            (false, true) => Cow::Borrowed(blocks),
            (true, _) => Cow::Borrowed(tail),
            (false, false) => Cow::Owned([blocks, tail].concat()),
        })
    }

    /// Where a file's data lies, and how many bytes of the layout say so.
    fn file(&self, raw: &Raw) -> Result<(FileData, usize), ReadError> {
        let size = raw.fields.size.get();
        let (runs, table_len) = match raw.fields.format.get() {
            format::FLAT_PLAIN if size == 0 => (Vec::new(), 0),
            format::CHUNK_BASED => self.chunk_runs(raw)?,
            _ => return Err(raw.bad("its data layout is not supported")),
        };
        let data = FileData::from_runs(size, &runs);
        match data.check(&self.devices) {
            Ok(()) => Ok((data, table_len)),
            Err(reason) => Err(ReadError::Extent {
                nid: raw.nid,
                reason,
            }),
        }
    }

    fn chunk_runs(&self, raw: &Raw) -> Result<(Vec<Run>, usize), ReadError> {
        let chunk_format = raw.fields.data.get();
        if chunk_format & !format::MAX_CHUNK_BITS != format::CHUNK_INDEXES {
            return Err(raw.bad("its chunk format is not supported"));
        }
        let chunk_blocks = 1u64 << (chunk_format & format::MAX_CHUNK_BITS);
        let blocks = raw.fields.size.get().div_ceil(BLOCK);
        let start = raw.end.next_multiple_of(size_of::<ChunkIndex>());
        let table = usize::try_from(blocks.div_ceil(chunk_blocks))
            .ok()
            .and_then(|count| count.checked_mul(size_of::<ChunkIndex>()))
            .and_then(|len| self.bytes.get(start..)?.get(..len))
            .and_then(|bytes| <[ChunkIndex]>::ref_from_bytes(bytes).ok())
            .ok_or_else(|| raw.bad("its chunks lie outside of the layout"))?;
        let mut runs = Vec::new();
        let mut at = 0;
        for chunk in table {
            let block = chunk.block.get();
            let place =
                (block != format::NULL_BLOCK).then(|| (chunk.device.get(), u64::from(block)));
            let len = chunk_blocks.min(blocks - at);
            push_run(&mut runs, at, len, place);
            at += len;
        }
        Ok((runs, size_of_val(table)))
    }
}

/// Compares the superblock with the one that would be written: all but a few fields are constants.
fn check_superblock(superblock: &Superblock, bytes: &[u8]) -> Result<(), ReadError> {
    let mut block = bytes
        .get(SUPERBLOCK_OFFSET..SUPERBLOCK_OFFSET + BLOCK_LEN)
        .ok_or(ReadError::Magic)?
        .to_vec();
    block[4..8].fill(0);
    if format::crc32c(&block) != superblock.checksum.get() {
        return Err(ReadError::Checksum);
    }
    let expected = Superblock {
        checksum: superblock.checksum,
        root_nid: superblock.root_nid,
        blocks: superblock.blocks,
        uuid: superblock.uuid,
        ..Superblock::new(superblock.inodes.get(), superblock.extra_devices.get())
    };
    if expected.as_bytes() != superblock.as_bytes() {
        return Err(ReadError::Foreign("it uses other features of EROFS"));
    }
    let blocks = usize::try_from(superblock.blocks.get());
    if blocks.ok().and_then(|blocks| blocks.checked_mul(BLOCK_LEN)) != Some(bytes.len()) {
        return Err(ReadError::Foreign("it has another length than it says"));
    }
    Ok(())
}

fn read_directory(raw: &Raw, data: &[u8]) -> Result<StoredContent, ReadError> {
    let found = directory::decode(data).map_err(|reason| raw.bad(reason))?;
    let mut parent = None;
    let mut own = None;
    let mut entries = Vec::with_capacity(found.len());
    for found in found {
        match found.name {
            b"." => own = Some(found.nid),
            b".." => parent = Some(found.nid),
            name => entries.push(Entry {
                name: name.to_vec(),
                nid: found.nid,
                file_type: found.file_type,
            }),
        }
    }
    if own != Some(raw.nid) {
        return Err(raw.bad("its `.` does not lead to itself"));
    }
    let parent = parent.ok_or_else(|| raw.bad("it has no `..`"))?;
    Ok(StoredContent::Directory { parent, entries })
}

fn decode_device(number: u32) -> DeviceNumber {
    DeviceNumber {
        major: number >> 8 & 0xFFF,
        minor: number & 0xFF | number >> 12 & 0xF_FF00,
    }
}
