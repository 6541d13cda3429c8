//! From a tree to a layout.
//!
//! ```text
//! 0        1024         1152          +128 per device   every inode, 32-byte slots   blocks
//! ├─ zeros ─┼─ superblock ┼─ device table ─┼─ ... ─ 512 ─┼─ inodes ─────────── 512 ─┼─ blocks ─┤
//! ```
//!
//! One function, [`Pass::run`], lays the image out. It runs twice: the first pass counts, notes
//! where each inode and each run of blocks begins, and takes a digest for the UUID; the second
//! writes, and knows from the first what lies where. So layout and writing cannot disagree, and
//! the image is never in memory.

use std::io::{self, BufWriter, Write};

use sha2::{Digest as _, Sha256};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use crate::directory::{self, Name};
use crate::extents::{Chunks, MAX_CHUNKS};
use crate::format::{self, BLOCK_LEN, ChunkIndex, DeviceSlot, INODE, Kind, SLOT, Superblock};
use crate::plan::Plan;
use crate::{
    Attributes, BLOCK, Content, Device, DeviceNumber, ExtentError, FileData, InodeError, InodeId,
    MAX_DEVICES, Nid, Tree, WriteError, xattr,
};

/// Most bytes in the target of a symbolic link, as Linux has it.
pub(crate) const MAX_TARGET: usize = 4095;

/// Most bytes in a layout.
const MAX_LAYOUT: u64 = 8 << 30;

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Bytes of the layout.
    pub bytes: u64,
    /// Inodes in it.
    pub inodes: u64,
    /// Its UUID, taken from its content.
    pub uuid: [u8; 16],
}

/// Writes the layout of a tree whose file data lies on `devices`. The same tree gives the same
/// bytes, whatever its ids are. Writes in large pieces: `out` needs no buffer.
///
/// # Errors
/// [`WriteError`] when EROFS or Linux cannot hold something in the tree (then nothing has been
/// written), or when `out` fails.
pub fn write(tree: &Tree, devices: &[Device], out: &mut dyn Write) -> Result<Written, WriteError> {
    check_devices(devices)?;
    let plan = Plan::new(tree).map_err(|(path, reason)| WriteError::Inode { path, reason })?;
    let source = Source {
        tree,
        devices,
        plan: &plan,
    };
    source.write(out).map_err(|stop| match stop {
        Stop::Inode(id, reason) => WriteError::Inode {
            path: plan.any_path(tree, id),
            reason,
        },
        Stop::Size => WriteError::Size,
        Stop::Io(error) => WriteError::Io(error),
    })
}

fn check_devices(devices: &[Device]) -> Result<(), WriteError> {
    if devices.len() > MAX_DEVICES {
        return Err(WriteError::Devices(devices.len()));
    }
    let large = |(_, device): &(usize, &Device)| device.blocks > u64::from(u32::MAX);
    match devices.iter().enumerate().find(large) {
        None => Ok(()),
        Some((index, device)) => Err(WriteError::Device {
            slot: index + 1,
            blocks: device.blocks,
        }),
    }
}

/// Why a pass stopped.
enum Stop {
    Inode(InodeId, InodeError),
    Size,
    Io(io::Error),
}

/// What a layout is made of.
struct Source<'a> {
    tree: &'a Tree,
    devices: &'a [Device],
    plan: &'a Plan,
}

/// Where things lie, by inode id.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Places {
    nids: Vec<Nid>,
    blocks: Vec<u32>,
}

impl Source<'_> {
    fn write(&self, out: &mut dyn Write) -> Result<Written, Stop> {
        let devices = u16::try_from(self.devices.len()).unwrap_or(u16::MAX);
        let superblock = Superblock::new(self.plan.order.len() as u64, devices);
        let mut count = Pass::new(self, self.sequence(), Hasher(Sha256::new()));
        count.run(&self.head(superblock))?;
        let uuid = uuid(count.out.0);
        let superblock = Superblock {
            root_nid: U16::new(u16::try_from(count.places.nids[0].0).map_err(|_| Stop::Size)?),
            blocks: U32::new(u32::try_from(count.offset / BLOCK).map_err(|_| Stop::Size)?),
            uuid,
            ..superblock
        };
        let out = BufWriter::with_capacity(1 << 18, out);
        let mut write = Pass::new(self, count.places, out);
        write.run(&self.head(superblock))?;
        debug_assert_eq!((&write.places, write.offset), (&write.known, count.offset));
        write.out.flush().map_err(Stop::Io)?;
        Ok(Written {
            bytes: write.offset,
            inodes: self.plan.order.len() as u64,
            uuid,
        })
    }

    /// Stand-ins for places while they are not known: the order of inodes, which tells apart trees
    /// that differ in nothing else, so that their UUIDs differ.
    fn sequence(&self) -> Places {
        let len = self.tree.len();
        let mut nids = vec![Nid(0); len];
        for (place, id) in self.plan.order.iter().enumerate() {
            nids[id.index()] = Nid(place as u64);
        }
        Places {
            nids,
            blocks: vec![0; len],
        }
    }

    /// All in front of the inodes, with the superblock's checksum in it.
    fn head(&self, superblock: Superblock) -> Vec<u8> {
        let mut head = vec![0; format::SUPERBLOCK_OFFSET];
        head.extend_from_slice(superblock.as_bytes());
        for device in self.devices {
            let slot = DeviceSlot {
                tag: device.tag,
                blocks: U32::new(u32::try_from(device.blocks).unwrap_or(u32::MAX)),
                unified_block: U32::new(0),
                reserved: [0; 56],
            };
            head.extend_from_slice(slot.as_bytes());
        }
        head.resize(head.len().next_multiple_of(BLOCK_LEN), 0);
        let sum = format::crc32c(&head[format::SUPERBLOCK_OFFSET..][..BLOCK_LEN]);
        head[format::SUPERBLOCK_OFFSET + 4..][..4].copy_from_slice(&sum.to_le_bytes());
        head
    }
}

/// A version 8 UUID (RFC 9562): its bits are our own, but for six.
fn uuid(hasher: Sha256) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&hasher.finalize()[..16]);
    uuid[6] = 0x80 | uuid[6] & 0x0F;
    uuid[8] = 0x80 | uuid[8] & 0x3F;
    uuid
}

struct Hasher(Sha256);

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One pass over the layout.
struct Pass<'a, W> {
    source: &'a Source<'a>,
    /// Where things lie, as the pass before found it.
    known: Places,
    /// Where this pass puts them.
    places: Places,
    /// Inodes with data in blocks of their own, and how many bytes of it: the rest is inline.
    spilled: Vec<(InodeId, usize)>,
    out: W,
    offset: u64,
}

/// An inode's fields that its content decides, and what follows its xattrs.
struct Body {
    format: u16,
    kind: Kind,
    size: u64,
    data: u32,
    behind: Vec<u8>,
}

impl Body {
    fn bare(kind: Kind, data: u32) -> Self {
        Self {
            format: format::FLAT_PLAIN,
            kind,
            size: 0,
            data,
            behind: Vec::new(),
        }
    }
}

impl<'a, W: Write> Pass<'a, W> {
    fn new(source: &'a Source<'a>, known: Places, out: W) -> Self {
        Self {
            source,
            places: known.clone(),
            known,
            spilled: Vec::new(),
            out,
            offset: 0,
        }
    }

    fn run(&mut self, head: &[u8]) -> Result<(), Stop> {
        self.put(head)?;
        for &id in &self.source.plan.order {
            self.inode(id)?;
        }
        self.align(BLOCK_LEN)?;
        for (id, len) in std::mem::take(&mut self.spilled) {
            let block = u32::try_from(self.offset / BLOCK).map_err(|_| Stop::Size)?;
            self.places.blocks[id.index()] = block;
            let data = self.flat_data(id);
            self.put(&data[..len])?;
            self.align(BLOCK_LEN)?;
        }
        Ok(())
    }

    fn inode(&mut self, id: InodeId) -> Result<(), Stop> {
        let attributes = &self.source.tree.get(id).attributes;
        let stop = |reason| Stop::Inode(id, reason);
        check_attributes(attributes).map_err(stop)?;
        let (xattrs, xattr_count) =
            xattr::encode(&attributes.xattrs).map_err(|error| stop(error.into()))?;
        let body = self.body(id, xattrs.len())?;
        let nid = self.offset / SLOT as u64;
        self.places.nids[id.index()] = Nid(nid);
        let inode = format::Inode {
            format: U16::new(body.format),
            xattr_count: U16::new(xattr_count),
            mode: U16::new(body.kind.mode() | attributes.mode),
            reserved: U16::new(0),
            size: U64::new(body.size),
            data: U32::new(body.data),
            number: U32::new(u32::try_from(nid).map_err(|_| Stop::Size)?),
            uid: U32::new(attributes.uid),
            gid: U32::new(attributes.gid),
            mtime: U64::new(attributes.mtime.seconds.cast_unsigned()),
            mtime_nanoseconds: U32::new(attributes.mtime.nanoseconds),
            links: U32::new(self.source.plan.links[id.index()]),
            reserved2: [0; 16],
        };
        self.put(inode.as_bytes())?;
        self.put(&xattrs)?;
        self.put(&body.behind)?;
        self.align(SLOT)
    }

    /// Works out an inode's body; puts zeros in front of the inode where its tail needs them.
    fn body(&mut self, id: InodeId, xattrs_len: usize) -> Result<Body, Stop> {
        let stop = |reason| Stop::Inode(id, reason);
        match &self.source.tree.get(id).content {
            Content::Directory(_) => self.flat(id, Kind::Directory, xattrs_len),
            Content::Symlink(target) => {
                if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
                    return Err(stop(InodeError::Target(target.len())));
                }
                self.flat(id, Kind::Symlink, xattrs_len)
            }
            Content::File(data) => self
                .file(data, xattrs_len)
                .map_err(|error| stop(error.into())),
            Content::CharDevice(number) => Ok(Body::bare(
                Kind::CharDevice,
                encode_device(*number).map_err(stop)?,
            )),
            Content::BlockDevice(number) => Ok(Body::bare(
                Kind::BlockDevice,
                encode_device(*number).map_err(stop)?,
            )),
            Content::Fifo => Ok(Body::bare(Kind::Fifo, 0)),
            Content::Socket => Ok(Body::bare(Kind::Socket, 0)),
        }
    }

    /// Data in the layout itself: the whole blocks among the other blocks, and the tail behind the
    /// inode if that costs less than a block.
    fn flat(&mut self, id: InodeId, kind: Kind, xattrs_len: usize) -> Result<Body, Stop> {
        let mut data = self.flat_data(id);
        let size = data.len();
        let tail = size % BLOCK_LEN;
        let gap = inline_gap(self.offset, xattrs_len, tail);
        let (format, spilled) = match gap {
            Some(gap) => {
                self.zeros(gap)?;
                (format::FLAT_INLINE, size - tail)
            }
            None => (format::FLAT_PLAIN, size),
        };
        if spilled > 0 {
            self.spilled.push((id, spilled));
        }
        Ok(Body {
            format,
            kind,
            size: size as u64,
            data: self.known.blocks[id.index()],
            behind: data.split_off(spilled),
        })
    }

    /// The bytes of a directory or the target of a symbolic link.
    fn flat_data(&self, id: InodeId) -> Vec<u8> {
        match &self.source.tree.get(id).content {
            Content::Directory(entries) => {
                let parent = self.source.plan.parents[id.index()];
                let name = |name, id: InodeId| Name {
                    name,
                    nid: self.known.nids[id.index()],
                    kind: Kind::of(&self.source.tree.get(id).content),
                };
                let mut names = vec![name(b".".as_slice(), id), name(b"..", parent)];
                names.extend(entries.iter().map(|(key, id)| name(key, *id)));
                // Some names sort before the dots. The sort finds the runs: it costs next to nothing.
                names.sort_by_key(|name| name.name);
                directory::encode(&names)
            }
            Content::Symlink(target) => target.clone(),
            _ => Vec::new(),
        }
    }

    fn file(&self, data: &FileData, xattrs_len: usize) -> Result<Body, ExtentError> {
        data.check(self.source.devices)?;
        let runs = data.runs();
        let body = Body {
            size: data.size,
            ..Body::bare(Kind::File, 0)
        };
        if runs.is_empty() {
            return Ok(body);
        }
        let chunks = Chunks::new(&runs);
        if chunks.count > MAX_CHUNKS {
            return Err(ExtentError::Fragments(chunks.count));
        }
        // The table begins at a multiple of 8.
        let mut behind = vec![0; xattrs_len.next_multiple_of(8) - xattrs_len];
        for place in chunks.places(&runs) {
            behind.extend_from_slice(chunk_index(place).as_bytes());
        }
        Ok(Body {
            format: format::CHUNK_BASED,
            data: format::CHUNK_INDEXES | chunks.bits,
            behind,
            ..body
        })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.offset += bytes.len() as u64;
        if self.offset > MAX_LAYOUT {
            return Err(Stop::Size);
        }
        self.out.write_all(bytes).map_err(Stop::Io)
    }

    fn zeros(&mut self, len: usize) -> Result<(), Stop> {
        self.put(&[0; BLOCK_LEN][..len])
    }

    fn align(&mut self, to: usize) -> Result<(), Stop> {
        self.zeros((to - within(self.offset, to)) % to)
    }
}

/// Whether mode, owner and time are in range.
pub(crate) fn check_attributes(attributes: &Attributes) -> Result<(), InodeError> {
    let &Attributes {
        mode,
        uid,
        gid,
        mtime,
        ..
    } = attributes;
    if mode > 0o7777 {
        return Err(InodeError::Mode(mode));
    }
    if uid == u32::MAX || gid == u32::MAX {
        return Err(InodeError::Owner { uid, gid });
    }
    if mtime.nanoseconds >= 1_000_000_000 {
        return Err(InodeError::Nanoseconds(mtime.nanoseconds));
    }
    Ok(())
}

/// How far an offset lies behind the last multiple of `unit`.
fn within(offset: u64, unit: usize) -> usize {
    usize::try_from(offset % unit as u64).unwrap_or_default()
}

/// How many bytes to leave out in front of an inode at `offset` so that its xattrs and a tail of
/// `tail` bytes end in the block in which the inode itself ends. The kernel wants the tail in one
/// block; older ones want it in that block. `None` if a block of its own costs no more.
fn inline_gap(offset: u64, xattrs_len: usize, tail: usize) -> Option<usize> {
    if tail == 0 {
        return None;
    }
    let slots = (0..BLOCK_LEN).step_by(SLOT);
    let mut gaps = slots.take_while(|gap| gap + tail <= BLOCK_LEN);
    gaps.find(|gap| {
        let end = within(offset + (*gap + INODE - 1) as u64, BLOCK_LEN) + 1;
        end + xattrs_len + tail <= BLOCK_LEN
    })
}

fn chunk_index(place: Option<(u16, u64)>) -> ChunkIndex {
    let (device, block) = place
        // It lies within a device of fewer than 2^32 blocks, so it is never cut.
        .map(|(device, block)| (device, u32::try_from(block).unwrap_or(format::NULL_BLOCK)))
        .unwrap_or((0, format::NULL_BLOCK));
    ChunkIndex {
        reserved: U16::new(0),
        device: U16::new(device),
        block: U32::new(block),
    }
}

/// The encoding that Linux itself uses for numbers of 12 and 20 bits.
fn encode_device(number: DeviceNumber) -> Result<u32, InodeError> {
    let DeviceNumber { major, minor } = number;
    if major > 0xFFF || minor > 0xF_FFFF {
        return Err(InodeError::DeviceNumber { major, minor });
    }
    Ok(minor & 0xFF | major << 8 | (minor & !0xFF) << 12)
}
