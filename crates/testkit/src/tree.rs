//! All that can be told about a directory tree, and how two of them differ.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use thaw_image::{Digest, Hasher};

/// What a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Char,
    Block,
    Fifo,
    Socket,
}

/// Everything about one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, set-id and sticky included.
    pub mode: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification: seconds since 1970, nanoseconds.
    pub mtime: (i64, i64),
    /// Bytes of a file; 0 for everything else (directories count in their filesystem's own way).
    pub size: u64,
    /// Digest of a file's bytes.
    pub content: Option<Digest>,
    /// Target of a symbolic link.
    pub target: Option<Vec<u8>>,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path of the group, where the file has several in this tree.
    pub link_of: Option<Vec<u8>>,
}

/// A tree: paths relative to its root, which itself is the empty path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(pub BTreeMap<Vec<u8>, Record>);

/// One way in which two trees differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub path: Vec<u8>,
    /// In what: `presence`, `mode`, `mtime`, `content`, …
    pub what: &'static str,
    /// In the first tree.
    pub left: String,
    /// In the second tree.
    pub right: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.escape_ascii();
        write!(f, "/{path}: {}: {} ≠ {}", self.what, self.left, self.right)
    }
}

impl Snapshot {
    /// Walks `root`, not into other filesystems mounted below it, and reads every file.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn of(root: &Path) -> Result<Self> {
        let metadata = fs::symlink_metadata(root)
            .with_context(|| format!("cannot look at {}", root.display()))?;
        let mut walk = Walk {
            root,
            device: metadata.dev(),
            records: BTreeMap::new(),
            inodes: HashMap::new(),
        };
        walk.visit(Vec::new(), &metadata)?;
        Ok(walk.finish())
    }

    /// What differs between `self` (left) and `other` (right), in the order of paths.
    #[must_use]
    pub fn diff(&self, other: &Self) -> Vec<Difference> {
        let mut differences = Vec::new();
        for (path, left) in &self.0 {
            match other.0.get(path) {
                Some(right) => compare(path, left, right, &mut differences),
                None => differences.push(presence(path, "there", "absent")),
            }
        }
        let added = other.0.keys().filter(|path| !self.0.contains_key(*path));
        differences.extend(added.map(|path| presence(path, "absent", "there")));
        differences.sort_by(|a, b| a.path.cmp(&b.path));
        differences
    }

    /// Panics with all differences between `self` (left) and `other` (right), if there are any.
    ///
    /// # Panics
    /// See above: this is an assertion.
    pub fn assert_same(&self, other: &Self) {
        let differences = self.diff(other);
        assert!(differences.is_empty(), "{}", list(&differences));
    }
}

/// Differences as lines, no more than anyone would read.
#[must_use]
pub fn list(differences: &[Difference]) -> String {
    const SHOWN: usize = 40;
    let mut text = format!("{} differences", differences.len());
    for difference in differences.iter().take(SHOWN) {
        text.push_str(&format!("\n  {difference}"));
    }
    if differences.len() > SHOWN {
        text.push_str("\n  …");
    }
    text
}

fn presence(path: &[u8], left: &str, right: &str) -> Difference {
    Difference {
        path: path.to_vec(),
        what: "presence",
        left: left.into(),
        right: right.into(),
    }
}

fn compare(path: &[u8], left: &Record, right: &Record, differences: &mut Vec<Difference>) {
    let mut field = |what, left: String, right: String| {
        if left != right {
            let path = path.to_vec();
            differences.push(Difference {
                path,
                what,
                left,
                right,
            });
        }
    };
    field(
        "kind",
        format!("{:?}", left.kind),
        format!("{:?}", right.kind),
    );
    field(
        "mode",
        format!("{:04o}", left.mode),
        format!("{:04o}", right.mode),
    );
    let owner = |record: &Record| format!("{}:{}", record.uid, record.gid);
    field("owner", owner(left), owner(right));
    let time = |record: &Record| format!("{}.{:09}", record.mtime.0, record.mtime.1);
    field("mtime", time(left), time(right));
    field("size", left.size.to_string(), right.size.to_string());
    field(
        "content",
        format!("{:?}", left.content),
        format!("{:?}", right.content),
    );
    let bytes = |bytes: &Option<Vec<u8>>| match bytes {
        Some(bytes) => bytes.escape_ascii().to_string(),
        None => "-".into(),
    };
    field("target", bytes(&left.target), bytes(&right.target));
    field(
        "device",
        format!("{:?}", left.device),
        format!("{:?}", right.device),
    );
    field("xattrs", xattr_text(left), xattr_text(right));
    field("hard link of", bytes(&left.link_of), bytes(&right.link_of));
}

fn xattr_text(record: &Record) -> String {
    let pairs = record.xattrs.iter().map(|(name, value)| {
        let name = name.escape_ascii();
        format!("{name}={}", value.escape_ascii())
    });
    pairs.collect::<Vec<_>>().join(", ")
}

struct Walk<'a> {
    root: &'a Path,
    device: u64,
    records: BTreeMap<Vec<u8>, Record>,
    /// Device and inode of files with several names → the names seen.
    inodes: HashMap<(u64, u64), Vec<Vec<u8>>>,
}

impl Walk<'_> {
    fn absolute(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() {
            return self.root.to_owned();
        }
        self.root.join(OsStr::from_bytes(path))
    }

    fn visit(&mut self, path: Vec<u8>, metadata: &Metadata) -> Result<()> {
        let absolute = self.absolute(&path);
        let record = record(&absolute, metadata)
            .with_context(|| format!("cannot read {}", absolute.display()))?;
        let kind = record.kind;
        if kind != Kind::Directory && metadata.nlink() > 1 {
            let names = self.inodes.entry((metadata.dev(), metadata.ino()));
            names.or_default().push(path.clone());
        }
        self.records.insert(path.clone(), record);
        if kind != Kind::Directory || metadata.dev() != self.device {
            return Ok(());
        }
        let entries = fs::read_dir(&absolute)
            .with_context(|| format!("cannot list {}", absolute.display()))?;
        for entry in entries {
            let name = entry?.file_name().into_vec();
            let child = if path.is_empty() {
                name
            } else {
                [&path, b"/".as_slice(), &name].concat()
            };
            let absolute = self.absolute(&child);
            let metadata = fs::symlink_metadata(&absolute)
                .with_context(|| format!("cannot look at {}", absolute.display()))?;
            self.visit(child, &metadata)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Snapshot {
        for mut names in self.inodes.into_values().filter(|names| names.len() > 1) {
            names.sort();
            for name in &names {
                if let Some(record) = self.records.get_mut(name) {
                    record.link_of = Some(names[0].clone());
                }
            }
        }
        Snapshot(self.records)
    }
}

fn record(path: &Path, metadata: &Metadata) -> io::Result<Record> {
    let kind = kind(metadata.file_type());
    let device = matches!(kind, Kind::Char | Kind::Block).then(|| {
        let device = metadata.rdev();
        (rustix::fs::major(device), rustix::fs::minor(device))
    });
    Ok(Record {
        kind,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        size: if kind == Kind::File {
            metadata.size()
        } else {
            0
        },
        content: if kind == Kind::File {
            Some(digest(path)?)
        } else {
            None
        },
        target: match kind {
            Kind::Symlink => Some(fs::read_link(path)?.into_os_string().into_vec()),
            _ => None,
        },
        device,
        xattrs: xattrs(path)?,
        link_of: None,
    })
}

fn kind(file_type: fs::FileType) -> Kind {
    match file_type {
        t if t.is_dir() => Kind::Directory,
        t if t.is_symlink() => Kind::Symlink,
        t if t.is_char_device() => Kind::Char,
        t if t.is_block_device() => Kind::Block,
        t if t.is_fifo() => Kind::Fifo,
        t if t.is_socket() => Kind::Socket,
        _ => Kind::File,
    }
}

fn digest(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0u8; 65_536];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut xattrs = BTreeMap::new();
    let mut value = vec![0u8; 65_536];
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..])?;
        xattrs.insert(name.to_vec(), value[..length].to_vec());
    }
    Ok(xattrs)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn every_difference_is_named() {
        let directory = crate::scratch::directory().unwrap();
        let (a, b) = (directory.path().join("a"), directory.path().join("b"));
        for root in [&a, &b] {
            fs::create_dir_all(root.join("d")).unwrap();
            fs::write(root.join("same"), "same").unwrap();
            fs::write(root.join("d/mode"), "m").unwrap();
            fs::write(root.join("d/linked"), "l").unwrap();
        }
        symlink("x", a.join("link")).unwrap();
        symlink("y", b.join("link")).unwrap();
        fs::write(a.join("content"), "1").unwrap();
        fs::write(b.join("content"), "2").unwrap();
        fs::write(b.join("extra"), "").unwrap();
        fs::set_permissions(b.join("d/mode"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::hard_link(a.join("d/linked"), a.join("second")).unwrap();
        fs::write(b.join("second"), "l").unwrap();
        let found: Vec<(String, &str)> = Snapshot::of(&a)
            .unwrap()
            .diff(&Snapshot::of(&b).unwrap())
            .into_iter()
            .filter(|difference| difference.what != "mtime")
            .map(|difference| (String::from_utf8(difference.path).unwrap(), difference.what))
            .collect();
        let expected = [
            ("content", "content"),
            ("d/linked", "hard link of"),
            ("d/mode", "mode"),
            ("extra", "presence"),
            ("link", "target"),
            ("second", "hard link of"),
        ];
        let expected: Vec<_> = expected
            .iter()
            .map(|(path, what)| ((*path).into(), *what))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_tree_is_like_itself() {
        let directory = crate::scratch::directory().unwrap();
        fs::write(directory.path().join("file"), "x").unwrap();
        let snapshot = Snapshot::of(directory.path()).unwrap();
        snapshot.assert_same(&Snapshot::of(directory.path()).unwrap());
        assert_eq!(snapshot.0.len(), 2);
    }
}
