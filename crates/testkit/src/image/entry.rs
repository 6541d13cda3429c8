//! One entry of a layer tar, and how it is written.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use tar::{EntryType, Header};

/// How a tar says what its plain header cannot (long names, big numbers, fractions of a second,
/// attributes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Dialect {
    /// POSIX.1-2001 extended headers. Go's archive/tar, and so Docker and buildkit, write these.
    #[default]
    Pax,
    /// GNU tar's `L` and `K` entries and base-256 numbers. No attributes, whole seconds only.
    Gnu,
}

/// What an entry is.
#[derive(Clone, Debug)]
enum Kind {
    File(Vec<u8>),
    Sparse {
        size: u64,
        pieces: Vec<(u64, Vec<u8>)>,
    },
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// An entry of a layer tar. Made by [`Entry::file`] and its like, changed by the methods that
/// follow; owner 0:0, time 1,000,000,000 s, mode 0755 (directories) or 0644 until told otherwise.
#[derive(Clone, Debug)]
pub struct Entry {
    path: Vec<u8>,
    kind: Kind,
    mode: u32,
    owner: (u64, u64),
    seconds: i64,
    nanoseconds: u32,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    fn new(path: impl AsRef<[u8]>, kind: Kind) -> Self {
        let mode = match kind {
            Kind::Directory => 0o755,
            Kind::Symlink(_) => 0o777,
            _ => 0o644,
        };
        Self {
            path: path.as_ref().to_vec(),
            kind,
            mode,
            owner: (0, 0),
            seconds: 1_000_000_000,
            nanoseconds: 0,
            xattrs: Vec::new(),
        }
    }

    /// A regular file.
    #[must_use]
    pub fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        Self::new(path, Kind::File(content.as_ref().to_vec()))
    }

    /// A sparse file of `size` bytes: `(offset, bytes)` pieces in order, zeros between them.
    /// Written in the dialect's own way (PAX: format 1.0, GNU: the old format).
    #[must_use]
    pub fn sparse(path: impl AsRef<[u8]>, size: u64, mut pieces: Vec<(u64, Vec<u8>)>) -> Self {
        // GNU tar marks a hole at the end by an empty piece there, and wants one to restore it.
        let end = pieces
            .last()
            .map_or(0, |(offset, bytes)| offset + bytes.len() as u64);
        if end < size {
            pieces.push((size, Vec::new()));
        }
        Self::new(path, Kind::Sparse { size, pieces })
    }

    /// A directory.
    #[must_use]
    pub fn directory(path: impl AsRef<[u8]>) -> Self {
        Self::new(path, Kind::Directory)
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::new(path, Kind::Symlink(target.as_ref().to_vec()))
    }

    /// A hard link to another path of the merged tree.
    #[must_use]
    pub fn hard_link(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::new(path, Kind::HardLink(target.as_ref().to_vec()))
    }

    /// A character device.
    #[must_use]
    pub fn char_device(path: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        Self::new(path, Kind::Char(major, minor))
    }

    /// A block device.
    #[must_use]
    pub fn block_device(path: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        Self::new(path, Kind::Block(major, minor))
    }

    /// A named pipe.
    #[must_use]
    pub fn fifo(path: impl AsRef<[u8]>) -> Self {
        Self::new(path, Kind::Fifo)
    }

    /// A whiteout: `path` of the layers below is gone (OCI image-spec, layer.md, "Whiteouts").
    #[must_use]
    pub fn whiteout(path: &str) -> Self {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let separator = if parent.is_empty() { "" } else { "/" };
        Self::file(format!("{parent}{separator}.wh.{name}"), b"")
    }

    /// An opaque whiteout: what the layers below have in `directory` is gone.
    #[must_use]
    pub fn opaque(directory: &str) -> Self {
        Self::file(format!("{directory}/.wh..wh..opq"), b"")
    }

    /// Sets the permission bits, set-id and sticky bits included.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets user and group.
    #[must_use]
    pub fn owner(mut self, user: u64, group: u64) -> Self {
        self.owner = (user, group);
        self
    }

    /// Sets the time of last modification, in seconds since 1970 and nanoseconds (PAX only).
    #[must_use]
    pub fn time(mut self, seconds: i64, nanoseconds: u32) -> Self {
        (self.seconds, self.nanoseconds) = (seconds, nanoseconds);
        self
    }

    /// Adds an extended attribute (PAX only).
    #[must_use]
    pub fn xattr(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.xattrs.push((name.into(), value.as_ref().to_vec()));
        self
    }

    /// Adds the file capability `cap_net_bind_service=ep` (`vfs_cap_data`, revision 2).
    #[must_use]
    pub fn capability(self) -> Self {
        let mut value = vec![0u8; 20];
        value[..4].copy_from_slice(&0x0200_0001u32.to_le_bytes());
        value[4..8].copy_from_slice(&(1u32 << 10).to_le_bytes());
        self.xattr("security.capability", value)
    }

    /// Adds a POSIX ACL that lets `user` read, beside the file's own mode `rw-r--r--`.
    #[must_use]
    pub fn acl(self, user: u32) -> Self {
        const NOBODY: u32 = u32::MAX;
        // Tag, permissions, id of each entry: owner, user, group, mask, other (acl(5)).
        let entries = [
            (1, 6, NOBODY),
            (2, 4, user),
            (4, 4, NOBODY),
            (16, 4, NOBODY),
            (32, 4, NOBODY),
        ];
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            value.extend_from_slice(&u16::to_le_bytes(tag));
            value.extend_from_slice(&u16::to_le_bytes(permissions));
            value.extend_from_slice(&id.to_le_bytes());
        }
        self.xattr("system.posix_acl_access", value)
    }

    /// Writes the entry: its extended headers, its header, its content and padding.
    pub(super) fn write(&self, out: &mut impl Write, dialect: Dialect) -> Result<()> {
        self.write_to(out, dialect)
            .with_context(|| format!("cannot write {}", String::from_utf8_lossy(&self.path)))
    }

    fn write_to(&self, out: &mut impl Write, dialect: Dialect) -> Result<()> {
        let mut header = match dialect {
            Dialect::Pax => Header::new_ustar(),
            Dialect::Gnu => Header::new_gnu(),
        };
        header.set_mode(self.mode);
        header.set_entry_type(self.entry_type());
        match dialect {
            Dialect::Pax => self.write_pax(header, out),
            Dialect::Gnu => self.write_gnu(header, out),
        }
    }

    fn entry_type(&self) -> EntryType {
        match self.kind {
            Kind::File(_) | Kind::Sparse { .. } => EntryType::Regular,
            Kind::Directory => EntryType::Directory,
            Kind::Symlink(_) => EntryType::Symlink,
            Kind::HardLink(_) => EntryType::Link,
            Kind::Char(..) => EntryType::Char,
            Kind::Block(..) => EntryType::Block,
            Kind::Fifo => EntryType::Fifo,
        }
    }

    fn target(&self) -> Option<&[u8]> {
        match &self.kind {
            Kind::Symlink(target) | Kind::HardLink(target) => Some(target),
            _ => None,
        }
    }

    fn set_device(&self, header: &mut Header) -> Result<()> {
        if let Kind::Char(major, minor) | Kind::Block(major, minor) = self.kind {
            header.set_device_major(major)?;
            header.set_device_minor(minor)?;
        }
        Ok(())
    }

    fn write_pax(&self, mut header: Header, out: &mut impl Write) -> Result<()> {
        let mut records = Records::default();
        records.text(&mut header.as_old_mut().name, "path", &self.path);
        if let Some(target) = self.target() {
            records.text(&mut header.as_old_mut().linkname, "linkpath", target);
        }
        records.number(self.owner.0, "uid", |id| header.set_uid(id));
        records.number(self.owner.1, "gid", |id| header.set_gid(id));
        match u64::try_from(self.seconds) {
            Ok(seconds) if self.nanoseconds == 0 => header.set_mtime(seconds),
            _ => {
                header.set_mtime(0);
                records.add(b"mtime", self.pax_time().as_bytes());
            }
        }
        for (name, value) in &self.xattrs {
            records.add(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        self.set_device(&mut header)?;
        let content = self.pax_content(&mut records);
        records.write(out)?;
        finish(header, &content, out)
    }

    /// Seconds as a decimal: for times before 1970 the fraction counts towards zero.
    fn pax_time(&self) -> String {
        if self.seconds < 0 && self.nanoseconds > 0 {
            let seconds = self.seconds + 1;
            let sign = if seconds == 0 { "-" } else { "" };
            return format!("{sign}{seconds}.{:09}", 1_000_000_000 - self.nanoseconds);
        }
        format!("{}.{:09}", self.seconds, self.nanoseconds)
    }

    fn pax_content(&self, records: &mut Records) -> Vec<u8> {
        let (size, pieces) = match &self.kind {
            Kind::File(content) => return content.clone(),
            Kind::Sparse { size, pieces } => (size, pieces),
            _ => return Vec::new(),
        };
        // GNU's PAX format 1.0: the map in decimal lines before the data, padded to a block.
        records.add(b"GNU.sparse.major", b"1");
        records.add(b"GNU.sparse.minor", b"0");
        records.add(b"GNU.sparse.name", &self.path);
        records.add(b"GNU.sparse.realsize", size.to_string().as_bytes());
        let mut content = format!("{}\n", pieces.len()).into_bytes();
        for (offset, bytes) in pieces {
            content.extend_from_slice(format!("{offset}\n{}\n", bytes.len()).as_bytes());
        }
        content.resize(content.len().next_multiple_of(512), 0);
        pieces
            .iter()
            .for_each(|(_, bytes)| content.extend_from_slice(bytes));
        content
    }

    fn write_gnu(&self, mut header: Header, out: &mut impl Write) -> Result<()> {
        ensure!(
            self.xattrs.is_empty() && self.nanoseconds == 0,
            "GNU tar cannot say this"
        );
        long(&mut header.as_old_mut().name, b'L', &self.path, out)?;
        if let Some(target) = self.target() {
            long(&mut header.as_old_mut().linkname, b'K', target, out)?;
        }
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        match u64::try_from(self.seconds) {
            Ok(seconds) => header.set_mtime(seconds),
            // Base-256, two's complement over twelve bytes.
            Err(_) => {
                let mtime = &mut header.as_old_mut().mtime;
                mtime.fill(0xff);
                mtime[4..].copy_from_slice(&self.seconds.to_be_bytes());
            }
        }
        self.set_device(&mut header)?;
        match &self.kind {
            Kind::File(content) => finish(header, content, out),
            Kind::Sparse { size, pieces } => gnu_sparse(header, *size, pieces, out),
            _ => finish(header, b"", out),
        }
    }
}

/// Records of one PAX extended header.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    /// `LENGTH KEY=VALUE\n`, where the length counts itself.
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.0.extend_from_slice(format!("{length} ").as_bytes());
        self.0.extend_from_slice(key);
        self.0.push(b'=');
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    /// Into the header's own field where it fits, else truncated there and whole in a record.
    fn text(&mut self, field: &mut [u8], key: &str, text: &[u8]) {
        let fits = text.len().min(field.len());
        field[..fits].copy_from_slice(&text[..fits]);
        if fits < text.len() || !text.is_ascii() {
            self.add(key.as_bytes(), text);
        }
    }

    fn number(&mut self, number: u64, key: &str, set: impl FnOnce(u64)) {
        let fits = number < 1 << 21;
        set(if fits { number } else { 0 });
        if !fits {
            self.add(key.as_bytes(), number.to_string().as_bytes());
        }
    }

    fn write(self, out: &mut impl Write) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.as_old_mut().name[..10].copy_from_slice(b"PaxHeaders");
        header.set_mode(0o644);
        finish(header, &self.0, out)
    }
}

/// A name in GNU's way: into the header, and before it as an entry of its own if it is long.
fn long(field: &mut [u8], kind: u8, text: &[u8], out: &mut impl Write) -> Result<()> {
    let fits = text.len().min(field.len());
    field[..fits].copy_from_slice(&text[..fits]);
    if fits == text.len() {
        return Ok(());
    }
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::new(kind));
    header.as_old_mut().name[..13].copy_from_slice(b"././@LongLink");
    finish(header, &[text, b"\0"].concat(), out)
}

/// GNU's old sparse format: four pieces in the header, 21 in each block behind it.
fn gnu_sparse(
    mut header: Header,
    size: u64,
    pieces: &[(u64, Vec<u8>)],
    out: &mut impl Write,
) -> Result<()> {
    header.set_entry_type(EntryType::GNUSparse);
    let number = |number: u64| format!("{number:011o}\0").into_bytes();
    let entry =
        |(offset, bytes): &(u64, Vec<u8>)| [number(*offset), number(bytes.len() as u64)].concat();
    let data: Vec<u8> = pieces.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    header.set_size(data.len() as u64);
    let (first, more) = pieces.split_at(pieces.len().min(4));
    let block = header.as_mut_bytes();
    for (slot, piece) in first.iter().enumerate() {
        block[386 + slot * 24..][..24].copy_from_slice(&entry(piece));
    }
    block[482] = u8::from(!more.is_empty());
    block[483..495].copy_from_slice(&number(size));
    header.set_cksum();
    out.write_all(header.as_bytes())?;
    let mut rest = more.chunks(21).peekable();
    while let Some(chunk) = rest.next() {
        let mut block = [0u8; 512];
        for (slot, piece) in chunk.iter().enumerate() {
            block[slot * 24..][..24].copy_from_slice(&entry(piece));
        }
        block[504] = u8::from(rest.peek().is_some());
        out.write_all(&block)?;
    }
    pad(&data, out)
}

fn finish(mut header: Header, content: &[u8], out: &mut impl Write) -> Result<()> {
    header.set_size(content.len() as u64);
    header.set_cksum();
    out.write_all(header.as_bytes())?;
    pad(content, out)
}

fn pad(content: &[u8], out: &mut impl Write) -> Result<()> {
    out.write_all(content)?;
    let padding = content.len().next_multiple_of(512) - content.len();
    Ok(out.write_all(&[0; 512][..padding])?)
}
