//! The scanner against archives that GNU tar and Python write of a difficult tree, judged by
//! Python's reading of them: every field of every member, and every byte of every file.
//!
//! Needs root (device nodes, owners), GNU tar and Python 3.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use thaw_image::Digest;
use thaw_layer::Budget;
use thaw_layer::tar::{Entry, EntryKind, FileData, Scanner};

/// Makes the tree in the directory given.
const MAKE: &str = r#"
import os, sys
os.chdir(sys.argv[1])
def write(path, data, mode=0o644):
    with open(path, 'wb') as f: f.write(data)
    os.chmod(path, mode)
os.mkdir('d'); os.mkdir('d/empty'); os.chmod('d', 0o1777)
write('d/plain', b'hello' * 1000)
write('d/none', b'')
write('d/block', b'x' * 512)
write('d/suid', b'#!', 0o4755)
os.symlink('plain', 'd/sym'); os.link('d/plain', 'd/hard')
os.mkfifo('d/fifo'); os.mknod('d/null', 0o20666, os.makedev(1, 3)); os.mknod('d/disk', 0o60600, os.makedev(259, 70000 % 256))
os.utime('d/plain', ns=(0, 1350244992023960108)); os.utime('d/none', ns=(0, 1000012345))
if sys.argv[2] == 'hard':
    write(b'd/not-\xff\xfeutf8', b'bytes')
    write('d/' + 'n' * 140, b'long name')
    deep = 'd/' + '/'.join(['p' * 60] * 5); os.makedirs(deep); write(deep + '/leaf', b'deep')
    os.symlink('t' * 300, 'd/far'); os.link(deep + '/leaf', 'd/' + 'h' * 130)
    os.chown('d/suid', 3000000, 4000000000); os.chmod('d/suid', 0o6755)
    os.utime('d/block', ns=(0, -1500000000)); os.utime('d/fifo', (0, 10000000000))
    os.setxattr('d/plain', 'user.note', b'a=b\nc\xff'); os.setxattr('d/plain', 'user.empty', b'')
    os.setxattr('d/suid', 'security.capability', bytes.fromhex('0100000200040000000000000000000000000000'))
    def sparse(path, size, pieces):
        with open(path, 'wb') as f:
            for at, data in pieces: f.seek(at); f.write(data)
            f.truncate(size)
    sparse('d/hole', 1 << 20, [])
    sparse('d/start', 1 << 20, [(0, b'head')])
    sparse('d/end', (1 << 20) + 7, [(1 << 20, b'tail...')])
    sparse('d/many', 8 << 20, [(n * 65536, bytes([n]) * (100 + n)) for n in range(120)])
    sparse('d/huge', 1 << 40, [((1 << 40) - 4096, b'z' * 4096)])
"#;

/// Prints a line for each member of the archive given, as [`line`] does.
const JUDGE: &str = r#"
import sys, tarfile, hashlib
from decimal import Decimal
def raw(s): return s.encode('utf-8', 'surrogateescape')
with tarfile.open(sys.argv[1], 'r:', errors='surrogateescape') as archive:
    for m in archive:
        mtime = int(Decimal(m.pax_headers['mtime']) * 10**9) if 'mtime' in m.pax_headers else int(m.mtime) * 10**9
        content = ''
        if m.isreg() and m.size < 1 << 30: content = hashlib.sha256(archive.extractfile(m).read()).hexdigest()
        link = m.linkname if m.islnk() or m.issym() else ''
        dev = (m.devmajor, m.devminor) if m.isdev() and not m.isfifo() else (0, 0)
        kind = 'file' if m.isreg() else {b'1': 'hard', b'2': 'sym', b'3': 'char', b'4': 'block', b'5': 'dir', b'6': 'fifo'}[m.type]
        prefix = 'SCHILY.xattr.'
        xattrs = sorted((raw(k[len(prefix):]).hex(), raw(v).hex()) for k, v in m.pax_headers.items() if k.startswith(prefix))
        print(raw(m.name).hex(), kind, m.size if m.isreg() else 0, m.mode & 0o7777, m.uid, m.gid, mtime,
              raw(link).hex(), dev[0], dev[1], content, ' '.join(k + '=' + v for k, v in xattrs))
"#;

/// Python writes the archive: format, tree, file.
const PACK: &str = r"
import sys, tarfile
formats = {'ustar': tarfile.USTAR_FORMAT, 'gnu': tarfile.GNU_FORMAT, 'pax': tarfile.PAX_FORMAT}
with tarfile.open(sys.argv[3], 'w', format=formats[sys.argv[1]], errors='surrogateescape') as archive: archive.add(sys.argv[2], 'd')
";

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn python(script: &str, args: &[&Path]) -> String {
    run(Command::new("python3").args(["-c", script]).args(args))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn slice(tar: &[u8], offset: u64, len: u64) -> &[u8] {
    let offset = usize::try_from(offset).unwrap();
    &tar[offset..offset + usize::try_from(len).unwrap()]
}

fn content(tar: &[u8], size: u64, data: &FileData) -> String {
    if size >= 1 << 30 {
        return String::new();
    }
    let mut file = vec![0; usize::try_from(size).unwrap()];
    match data {
        FileData::Contiguous { tar_offset } => {
            file.copy_from_slice(slice(tar, *tar_offset, size));
        }
        FileData::Sparse(pieces) => {
            for piece in pieces {
                let at = usize::try_from(piece.file_offset).unwrap();
                let bytes = slice(tar, piece.tar_offset, piece.len);
                file[at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
    }
    Digest::of(&file).hex()
}

/// A member as one line of text. Python takes the slash off a directory's name.
fn line(entry: &Entry, tar: &[u8]) -> String {
    let none = (0, Vec::new(), (0, 0), String::new());
    let (kind, (size, link, device, content)) = match &entry.kind {
        EntryKind::File { size, data } => (
            "file",
            (*size, Vec::new(), (0, 0), content(tar, *size, data)),
        ),
        EntryKind::HardLink(target) => ("hard", (0, target.clone(), none.2, none.3)),
        EntryKind::Symlink(target) => ("sym", (0, target.clone(), none.2, none.3)),
        EntryKind::CharDevice { major, minor } => ("char", (0, none.1, (*major, *minor), none.3)),
        EntryKind::BlockDevice { major, minor } => ("block", (0, none.1, (*major, *minor), none.3)),
        EntryKind::Directory => ("dir", none),
        EntryKind::Fifo => ("fifo", none),
    };
    let mut path = entry.path.as_slice();
    while kind == "dir" && path.ends_with(b"/") {
        path = &path[..path.len() - 1];
    }
    let time =
        i128::from(entry.mtime.seconds) * 1_000_000_000 + i128::from(entry.mtime.nanoseconds);
    let mut xattrs: Vec<String> = entry
        .xattrs
        .iter()
        .map(|(name, value)| format!("{}={}", hex(name), hex(value)))
        .collect();
    xattrs.sort();
    format!(
        "{} {kind} {size} {} {} {} {time} {} {} {} {content} {}",
        hex(path),
        entry.mode,
        entry.uid,
        entry.gid,
        hex(&link),
        device.0,
        device.1,
        xattrs.join(" "),
    )
}

/// Compares; gives how many members are sparse.
fn judge(name: &str, archive: &Path) -> usize {
    let tar = std::fs::read(archive).unwrap();
    let budget = Budget::new(64 << 20);
    let mut scanner = Scanner::new(&budget);
    for piece in tar.chunks(10_007) {
        scanner
            .push(piece)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let entries = scanner
        .finish()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let ours: Vec<String> = entries.iter().map(|entry| line(entry, &tar)).collect();
    let theirs = python(JUDGE, &[archive]);
    let theirs: Vec<&str> = theirs.lines().collect();
    assert!(ours.len() >= 8, "{name}: {} members", ours.len());
    assert_eq!(ours.len(), theirs.len(), "{name}");
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert_eq!(ours, theirs, "{name}");
    }
    let sparse = |entry: &&Entry| {
        matches!(
            &entry.kind,
            EntryKind::File {
                data: FileData::Sparse(_),
                ..
            }
        )
    };
    entries.iter().filter(sparse).count()
}

fn tree(kind: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    python(MAKE, &[dir.path(), Path::new(kind)]);
    dir
}

#[test]
fn gnu_tar() {
    let xattrs = ["--xattrs", "--xattrs-include=*"].as_slice();
    for (name, kind, args, sparse) in [
        ("v7", "easy", ["--format=v7"].as_slice(), 0),
        ("ustar", "easy", &["--format=ustar"], 0),
        ("oldgnu", "hard", &["--format=oldgnu", "--sparse"], 5),
        ("gnu", "hard", &["--format=gnu", "--sparse"], 5),
        (
            "pax, not sparse",
            "easy",
            &[&["--format=posix"], xattrs].concat(),
            0,
        ),
        (
            "pax 0.0",
            "hard",
            &[&["--format=posix", "-S", "--sparse-version=0.0"], xattrs].concat(),
            5,
        ),
        (
            "pax 0.1",
            "hard",
            &[&["--format=posix", "-S", "--sparse-version=0.1"], xattrs].concat(),
            5,
        ),
        (
            "pax 1.0",
            "hard",
            &[&["--format=posix", "-S", "--sparse-version=1.0"], xattrs].concat(),
            5,
        ),
    ] {
        let dir = tree(kind);
        let archive = dir.path().join("out.tar");
        // V7 has no devices and no FIFOs.
        let without =
            (name == "v7").then_some(["--exclude=fifo", "--exclude=null", "--exclude=disk"]);
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(dir.path()).arg("-cf").arg(&archive);
        run(tar.args(args).args(without.into_iter().flatten()).arg("d"));
        assert_eq!(judge(name, &archive), sparse, "{name}");
    }
}

#[test]
fn python_tarfile() {
    for (format, kind) in [
        ("ustar", "easy"),
        ("gnu", "easy"),
        ("pax", "easy"),
        ("gnu", "hard"),
        ("pax", "hard"),
    ] {
        let dir = tree(kind);
        if kind == "hard" {
            // Python stores holes, all 1 TiB of them.
            std::fs::remove_file(dir.path().join("d/huge")).unwrap();
        }
        let archive = dir.path().join("out.tar");
        python(PACK, &[Path::new(format), &dir.path().join("d"), &archive]);
        assert_eq!(judge(&format!("python {format} {kind}"), &archive), 0);
    }
}
