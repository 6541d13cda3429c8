//! The scanner: a state machine over blocks, fed in pieces of any size.

use super::header::{BLOCK, Header, SparseBlock, is_zero, text};
use super::pax::Pax;
use super::sparse::{self, MapReader};
use super::{
    Entries, Entry, EntryKind, FileData, MAX_EXTENSION, MAX_PATH, MAX_SPARSE, TarError, TarReason,
    Timestamp,
};
use crate::Budget;

/// Finds the members of a tar that is pushed through it, in pieces of any size. Holds the entries
/// found and at most one extension header; file data is skipped where it stands.
#[derive(Debug)]
pub struct Scanner<'a> {
    /// Bytes consumed.
    offset: u64,
    /// Where the header being worked on starts.
    header_at: u64,
    block: [u8; BLOCK],
    filled: usize,
    state: State,
    pending: Pending,
    entries: Entries<'a>,
}

/// What the next bytes are.
#[derive(Debug)]
enum State {
    /// A header block, or a block of zeros, or the end.
    Header,
    /// The second of the two blocks of zeros.
    SecondZero,
    /// `left` more bytes of an extension header of type `kind`, then `pad` of padding.
    Extension {
        kind: u8,
        left: usize,
        pad: u64,
        payload: Vec<u8>,
    },
    /// Blocks of a GNU sparse map.
    SparseBlocks(Box<SparseMember>),
    /// Blocks of a PAX 1.0 sparse map.
    SparseMap(Box<SparseMember>, MapReader),
    /// `left` bytes that are of no interest, then `pad` of padding.
    Data { left: u64, pad: u64 },
    /// All that may still come is ignored.
    End,
}

/// What extension headers said about the next member.
#[derive(Default)]
struct Pending {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Pax>,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pending")
    }
}

/// A sparse member whose map is not complete yet.
#[derive(Debug)]
struct SparseMember {
    entry: Entry,
    map: Vec<(u64, u64)>,
    /// Bytes of the file.
    size: u64,
    /// Bytes of data in the tar, without what is already read of it.
    stored: u64,
}

impl<'a> Scanner<'a> {
    /// Stands at the start of a tar, whose entries take their memory from `budget`.
    #[must_use]
    pub fn new(budget: &'a Budget) -> Self {
        Self {
            offset: 0,
            header_at: 0,
            block: [0; BLOCK],
            filled: 0,
            state: State::Header,
            pending: Pending::default(),
            entries: Entries::new(budget),
        }
    }

    /// Takes the next bytes of the tar.
    ///
    /// # Errors
    /// [`TarError`], after which the scanner is of no more use.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), TarError> {
        while !bytes.is_empty() {
            let taken = self.step(bytes).map_err(|reason| TarError {
                offset: self.header_at,
                reason,
            })?;
            self.offset += taken as u64;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Takes out the members that were found since the last call. The data of all but the last
    /// one lies in what was pushed; that of the last one may be still to come.
    pub fn take(&mut self) -> Vec<Entry> {
        self.entries.take()
    }

    /// How many of the next bytes say nothing of members: data of a file, its padding, or what
    /// follows the end.
    #[must_use]
    pub const fn indifferent(&self) -> u64 {
        match self.state {
            State::Data { left, pad } => left + pad,
            State::End => u64::MAX,
            _ => 0,
        }
    }

    /// Ends the tar and gives its members.
    ///
    /// # Errors
    /// [`TarReason::Truncated`] if it ends in a header or in data. Missing padding behind the
    /// last data, or missing blocks of zeros, are forgiven, as Go and GNU tar do.
    pub fn finish(mut self) -> Result<Entries<'a>, TarError> {
        let complete = match self.state {
            State::Header | State::SecondZero => self.filled == 0,
            State::Data { left, .. } => left == 0,
            State::End => true,
            _ => false,
        };
        if !complete {
            return Err(TarError {
                offset: self.offset,
                reason: TarReason::Truncated,
            });
        }
        self.entries.shrink();
        Ok(self.entries)
    }

    /// Consumes some of `bytes`, at least one; how many.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, TarReason> {
        match &mut self.state {
            State::End => Ok(bytes.len()),
            State::Data { left, pad } => {
                let total = *left + *pad;
                let taken = total.min(bytes.len() as u64);
                let of_data = taken.min(*left);
                *left -= of_data;
                *pad -= taken - of_data;
                if taken == total {
                    self.state = State::Header;
                }
                Ok(usize::try_from(taken).unwrap_or(bytes.len()))
            }
            State::Extension { left, payload, .. } => {
                let taken = bytes.len().min(*left);
                payload.extend_from_slice(&bytes[..taken]);
                *left -= taken;
                if *left == 0 {
                    self.extension()?;
                }
                Ok(taken)
            }
            _ => {
                let taken = bytes.len().min(BLOCK - self.filled);
                self.block[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
                self.filled += taken;
                if self.filled == BLOCK {
                    self.filled = 0;
                    self.on_block(self.offset + taken as u64)?;
                }
                Ok(taken)
            }
        }
    }

    /// Acts on a whole block; `end` is where it ends.
    fn on_block(&mut self, end: u64) -> Result<(), TarReason> {
        let block = self.block;
        match std::mem::replace(&mut self.state, State::Header) {
            State::SecondZero if is_zero(&block) => self.state = State::End,
            State::SecondZero => return Err(TarReason::LoneZeroBlock),
            State::SparseBlocks(mut member) => {
                let extension = SparseBlock::extension(&block)?;
                member.extend(&extension.pieces)?;
                if extension.more {
                    self.state = State::SparseBlocks(member);
                } else {
                    self.finish_sparse(*member, end)?;
                }
            }
            State::SparseMap(mut member, mut reader) => {
                let left = member.stored.checked_sub(BLOCK as u64);
                member.stored = left.ok_or(TarReason::Sparse("the map is cut short"))?;
                if reader.push(&block)? {
                    member.map = reader.pairs();
                    self.finish_sparse(*member, end)?;
                } else {
                    self.state = State::SparseMap(member, reader);
                }
            }
            _ if is_zero(&block) => self.state = State::SecondZero,
            _ => {
                self.header_at = end - BLOCK as u64;
                self.header(&Header(&block), end)?;
            }
        }
        Ok(())
    }

    fn header(&mut self, header: &Header<'_>, end: u64) -> Result<(), TarReason> {
        header.check()?;
        let size = header.size()?;
        match header.typeflag() {
            kind @ (b'L' | b'K' | b'x' | b'X') => {
                let left = usize::try_from(size).unwrap_or(usize::MAX);
                if left > MAX_EXTENSION {
                    return Err(TarReason::limit("an extension header", MAX_EXTENSION));
                }
                self.state = State::Extension {
                    kind,
                    left,
                    pad: padding(size),
                    payload: Vec::with_capacity(left),
                };
                if left == 0 {
                    self.extension()?;
                }
                Ok(())
            }
            // Global headers, and the names of GNU volumes.
            b'g' | b'V' => self.skip(size, end),
            _ => self.member(header, size, end),
        }
    }

    /// Understands a whole extension header.
    fn extension(&mut self) -> Result<(), TarReason> {
        let State::Extension {
            kind, pad, payload, ..
        } = std::mem::replace(&mut self.state, State::Header)
        else {
            return Ok(());
        };
        match kind {
            b'L' => self.pending.long_name = Some(long("GNU long name", &payload)?),
            b'K' => self.pending.long_link = Some(long("GNU long link", &payload)?),
            _ => self.pending.pax = Some(Pax::parse(&payload)?),
        }
        if pad > 0 {
            self.state = State::Data { left: 0, pad };
        }
        Ok(())
    }

    /// Understands the header of a member, with what extensions said of it.
    fn member(&mut self, header: &Header<'_>, size: u64, end: u64) -> Result<(), TarReason> {
        let Pending {
            long_name,
            long_link,
            pax,
        } = std::mem::take(&mut self.pending);
        let mut pax = pax.unwrap_or_default();
        let path = long_name.or(pax.path.take());
        let link = long_link.or(pax.link.take());
        let header_time = Timestamp {
            seconds: header.mtime()?,
            nanoseconds: 0,
        };
        let mut entry = Entry {
            path: path.unwrap_or_else(|| header.path()),
            kind: EntryKind::Directory,
            mode: header.mode()?,
            uid: pax.uid.map_or_else(|| header.uid(), Ok)?,
            gid: pax.gid.map_or_else(|| header.gid(), Ok)?,
            mtime: pax.mtime.unwrap_or(header_time),
            xattrs: std::mem::take(&mut pax.xattrs),
        };
        let size = pax.size.unwrap_or(size);
        let link = || link.unwrap_or_else(|| header.link().to_vec());
        entry.kind = match header.typeflag() {
            0 if entry.path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' => return self.file(entry, &pax, size, end),
            b'S' => return self.gnu_sparse(entry, header, size, end),
            b'1' => EntryKind::HardLink(link()),
            b'2' => EntryKind::Symlink(link()),
            b'3' => {
                let (major, minor) = device(header, &pax)?;
                EntryKind::CharDevice { major, minor }
            }
            b'4' => {
                let (major, minor) = device(header, &pax)?;
                EntryKind::BlockDevice { major, minor }
            }
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            b'D' => {
                self.add(entry)?;
                return self.skip(size, end);
            }
            other => return Err(TarReason::Type(char::from(other))),
        };
        self.add(entry)
    }

    /// A regular file, which PAX records may make a sparse one.
    fn file(&mut self, entry: Entry, pax: &Pax, stored: u64, end: u64) -> Result<(), TarReason> {
        let sparse = &pax.sparse;
        let member = |entry| SparseMember {
            entry,
            map: sparse::pairs(&sparse.map),
            size: sparse.size.unwrap_or(stored),
            stored,
        };
        let renamed = |mut entry: Entry| {
            if let Some(name) = &sparse.name {
                entry.path.clone_from(name);
            }
            entry
        };
        match sparse.version {
            (Some(1), Some(0)) => {
                let member = Box::new(member(renamed(entry)));
                self.state = State::SparseMap(member, MapReader::default());
                Ok(())
            }
            // Versions 0.0 and 0.1 need not say so. A file that is one hole has an empty map.
            (Some(0), Some(0 | 1)) => self.finish_sparse(member(renamed(entry)), end),
            (None, None) if !sparse.map.is_empty() => {
                self.finish_sparse(member(renamed(entry)), end)
            }
            _ => self.contiguous(entry, stored, end),
        }
    }

    fn contiguous(&mut self, mut entry: Entry, size: u64, end: u64) -> Result<(), TarReason> {
        let data = FileData::Contiguous { tar_offset: end };
        entry.kind = EntryKind::File { size, data };
        self.add(entry)?;
        self.skip(size, end)
    }

    fn gnu_sparse(
        &mut self,
        entry: Entry,
        header: &Header<'_>,
        stored: u64,
        end: u64,
    ) -> Result<(), TarReason> {
        let (first, size) = header.sparse()?;
        let member = SparseMember {
            entry,
            map: first.pieces,
            size,
            stored,
        };
        if first.more {
            self.state = State::SparseBlocks(Box::new(member));
            return Ok(());
        }
        self.finish_sparse(member, end)
    }

    /// Adds a sparse member whose map is complete and whose data starts at `end`.
    fn finish_sparse(&mut self, mut member: SparseMember, end: u64) -> Result<(), TarReason> {
        let data = sparse::resolve(&member.map, member.size, end, member.stored)?;
        member.entry.kind = EntryKind::File {
            size: member.size,
            data,
        };
        self.add(member.entry)?;
        self.skip(member.stored, end)
    }

    /// Skips `size` bytes of data, which start at `end`, and their padding.
    fn skip(&mut self, size: u64, end: u64) -> Result<(), TarReason> {
        let pad = padding(size);
        let fits = end.checked_add(size).and_then(|sum| sum.checked_add(pad));
        if fits.is_none_or(|sum| sum > i64::MAX as u64) {
            return Err(TarReason::field("size", size.to_string().as_bytes()));
        }
        if size > 0 {
            self.state = State::Data { left: size, pad };
        }
        Ok(())
    }

    fn add(&mut self, entry: Entry) -> Result<(), TarReason> {
        Ok(self.entries.push(entry)?)
    }
}

impl SparseMember {
    fn extend(&mut self, pieces: &[(u64, u64)]) -> Result<(), TarReason> {
        self.map.extend_from_slice(pieces);
        if self.map.len() > MAX_SPARSE {
            return Err(TarReason::limit("a sparse map", MAX_SPARSE));
        }
        Ok(())
    }
}

/// Bytes that fill `size` up to whole blocks.
fn padding(size: u64) -> u64 {
    let block = BLOCK as u64;
    (block - size % block) % block
}

fn long(field: &'static str, payload: &[u8]) -> Result<Vec<u8>, TarReason> {
    let name = text(payload);
    if name.len() > MAX_PATH {
        return Err(TarReason::limit(field, MAX_PATH));
    }
    Ok(name.to_vec())
}

fn device(header: &Header<'_>, pax: &Pax) -> Result<(u32, u32), TarReason> {
    let number = |value: u64| {
        let text = value.to_string();
        u32::try_from(value).map_err(|_| TarReason::field("device number", text.as_bytes()))
    };
    let (major, minor) = match pax.device {
        (Some(major), Some(minor)) => (major, minor),
        (major, minor) => {
            let of_header = header.device()?;
            (major.unwrap_or(of_header.0), minor.unwrap_or(of_header.1))
        }
    };
    Ok((number(major)?, number(minor)?))
}
