//! The kernel as the judge: what is written is mounted, file-backed, with device files beside it,
//! and all that a program can see of it is compared with the tree. Needs root and Linux 6.12.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use support::{Described, any_tree, attributes, describe, device, devices, directory, put};
use tempfile::TempDir;
use thaw_erofs::{
    Attributes, Content, Device, DeviceNumber, FileData, FileExtent, Timestamp, Tree, write,
};

/// Blocks at the start of each device file that hold its pattern.
const FILLED: u64 = 10_000;
/// The first of those at the end of the largest device that do. Between them is a hole.
const LAST: u64 = u32::MAX as u64 - 10;

/// The bytes of a block of a device: no two are alike.
fn pattern(device: u16, block: u64) -> [u8; 512] {
    let mut bytes = [0; 512];
    if !(FILLED..LAST).contains(&block) {
        for (word, chunk) in (0u64..).zip(bytes.chunks_exact_mut(8)) {
            let value = (u64::from(device) << 48 | block << 8 | word | 1 << 63)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15);
            chunk.copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

/// A mounted layout; unmounted and removed when dropped.
struct Mounted {
    directory: TempDir,
}

impl Mounted {
    fn new(tree: &Tree, devices: &[Device]) -> Self {
        let directory = TempDir::with_prefix_in("thaw-erofs-", "/var/tmp").unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut out = File::create(path("layout")).unwrap();
        write(tree, devices, &mut out).unwrap();
        for (slot, device) in (1..).zip(devices) {
            let file = File::create(path(&slot.to_string())).unwrap();
            file.set_len(device.blocks * 512).unwrap();
            for blocks in [0..device.blocks.min(FILLED), LAST..device.blocks] {
                let at = blocks.start * 512;
                let bytes: Vec<u8> = blocks.flat_map(|block| pattern(slot, block)).collect();
                file.write_all_at(&bytes, at).unwrap();
            }
        }
        fs::create_dir(path("mnt")).unwrap();
        let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).expect("run this test as root");
        fsconfig_set_string(&context, "source", path("layout")).unwrap();
        for slot in 1..=devices.len() {
            fsconfig_set_string(&context, "device", path(&slot.to_string())).unwrap();
        }
        fsconfig_set_flag(&context, "ro").unwrap();
        fsconfig_create(&context).expect("mounting a file needs Linux 6.12");
        let mount = fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )
        .unwrap();
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&mount, "", rustix::fs::CWD, path("mnt"), flags).unwrap();
        Self { directory }
    }

    fn path(&self, path: &[u8]) -> PathBuf {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        self.directory
            .path()
            .join("mnt")
            .join(OsStr::from_bytes(path))
    }

    /// Compares all of the mount with the tree.
    fn compare(&self, tree: &Tree) {
        let described = describe(tree);
        let links = links(tree, &described);
        let mut inodes: HashMap<u64, &[u8]> = HashMap::new();
        for (path, expected) in &described {
            let at = self.path(path);
            let name = path.escape_ascii().to_string();
            let found = fs::symlink_metadata(&at).expect(&name);
            let first = inodes.entry(found.ino()).or_insert(&expected.first_path);
            assert_eq!(*first, expected.first_path, "inode number of {name}");
            compare_attributes(&found, &expected.attributes, &name);
            assert_eq!(
                found.nlink(),
                links[&expected.first_path],
                "links of {name}"
            );
            compare_content(&at, &found, &expected.content, &name);
            compare_xattrs(&at, expected, &name);
        }
        assert_eq!(self.listed(), described.into_keys().collect());
    }

    /// Every path that listing directories gives.
    fn listed(&self) -> BTreeSet<Vec<u8>> {
        let mut paths = BTreeSet::from([Vec::new()]);
        let mut pending = vec![Vec::new()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(self.path(&directory)).unwrap() {
                let entry = entry.unwrap();
                let path = [&directory, b"/".as_slice(), entry.file_name().as_bytes()].concat();
                if entry.file_type().unwrap().is_dir() {
                    pending.push(path.clone());
                }
                assert!(paths.insert(path), "a name is listed twice");
            }
        }
        paths
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let path = self.directory.path().join("mnt");
        let _ = unmount(path, UnmountFlags::DETACH);
    }
}

/// Number of links by first path, counted here once more.
fn links(tree: &Tree, described: &BTreeMap<Vec<u8>, Described>) -> HashMap<Vec<u8>, u64> {
    let mut links = HashMap::from([(Vec::new(), 1)]);
    for (path, inode) in described {
        *links.entry(inode.first_path.clone()).or_default() += 1;
        if matches!(inode.content, Content::Directory(_)) && *path != b"" {
            *links.get_mut(path).unwrap() += 1;
            let end = path.iter().rposition(|byte| *byte == b'/').unwrap();
            *links.entry(path[..end].to_vec()).or_default() += 1;
        }
    }
    assert_eq!(
        links[&Vec::new()] - 2,
        tree.entries(tree.root())
            .unwrap()
            .values()
            .filter(|id| tree.entries(**id).is_some())
            .count() as u64
    );
    links
}

fn compare_attributes(found: &fs::Metadata, expected: &Attributes, name: &str) {
    assert_eq!(
        found.mode() & 0o7777,
        u32::from(expected.mode),
        "mode of {name}"
    );
    assert_eq!(
        (found.uid(), found.gid()),
        (expected.uid, expected.gid),
        "owner of {name}"
    );
    let mtime = (
        expected.mtime.seconds,
        i64::from(expected.mtime.nanoseconds),
    );
    assert_eq!(
        (found.mtime(), found.mtime_nsec()),
        mtime,
        "mtime of {name}"
    );
}

fn compare_content(at: &Path, found: &fs::Metadata, expected: &Content, name: &str) {
    let kind = found.file_type();
    let number = |number: &DeviceNumber| rustix::fs::makedev(number.major, number.minor);
    match expected {
        Content::Directory(_) => assert!(kind.is_dir(), "{name}"),
        Content::Fifo => assert!(kind.is_fifo(), "{name}"),
        Content::Socket => assert!(kind.is_socket(), "{name}"),
        Content::CharDevice(expected) => {
            assert!(kind.is_char_device(), "{name}");
            assert_eq!(found.rdev(), number(expected), "{name}");
        }
        Content::BlockDevice(expected) => {
            assert!(kind.is_block_device(), "{name}");
            assert_eq!(found.rdev(), number(expected), "{name}");
        }
        Content::Symlink(target) => {
            let found = fs::read_link(at).expect(name).into_os_string().into_vec();
            assert_eq!(found, *target, "target of {name}");
        }
        Content::File(data) => {
            assert!(kind.is_file(), "{name}");
            assert_eq!(found.len(), data.size, "size of {name}");
            if data.size < 1 << 30 {
                assert!(
                    fs::read(at).expect(name) == bytes_of(data),
                    "bytes of {name}"
                );
            }
        }
    }
}

fn bytes_of(data: &FileData) -> Vec<u8> {
    let mut bytes = vec![0; data.size.next_multiple_of(512) as usize];
    for extent in &data.extents {
        for block in 0..extent.blocks {
            let at = (extent.file_block + block) as usize * 512;
            let from = pattern(extent.device, extent.device_block + block);
            bytes[at..at + 512].copy_from_slice(&from);
        }
    }
    bytes.truncate(data.size as usize);
    bytes
}

/// Linux shows no `user.*` of an inode that is neither file nor directory, no ACL of a symbolic
/// link, and a default ACL only of a directory.
fn shown(name: &[u8], content: &Content) -> bool {
    let directory = matches!(content, Content::Directory(_));
    match name {
        b"system.posix_acl_default" => directory,
        b"system.posix_acl_access" => !matches!(content, Content::Symlink(_)),
        _ if name.starts_with(b"user.") => directory || matches!(content, Content::File(_)),
        _ => true,
    }
}

fn compare_xattrs(at: &Path, expected: &Described, name: &str) {
    let mut list = vec![0; 70_000];
    let len = rustix::fs::llistxattr(at, &mut list[..]).expect(name);
    let listed: BTreeSet<&[u8]> = list[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .collect();
    for (key, value) in &expected.attributes.xattrs {
        if !shown(key, &expected.content) {
            continue;
        }
        assert!(
            listed.contains(key.as_slice()),
            "{} of {name}",
            key.escape_ascii()
        );
        let mut found = vec![0; 70_000];
        let key = OsString::from_vec(key.clone());
        let len = rustix::fs::lgetxattr(at, &key, &mut found[..]).expect(name);
        assert_eq!(found[..len], **value, "{key:?} of {name}");
    }
    if expected.attributes.xattrs.is_empty() {
        assert_eq!(listed, BTreeSet::new(), "xattrs of {name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_trees_look_the_same_through_the_kernel(tree in any_tree()) {
        prop_assume!(describe(&tree).keys().all(|path| path.len() < 3500));
        Mounted::new(&tree, &devices()).compare(&tree);
    }
}

fn tree() -> Tree {
    Tree::new(attributes(0o755))
}

/// Lengths around every border of inline data, beside inodes that shift each other's places.
#[test]
fn symlinks_of_any_length() {
    let mut tree = tree();
    let root = tree.root();
    for len in (1..1100).chain([2000, 4000, 4094, 4095]) {
        let target: Vec<u8> = (0..len).map(|at| b'a' + ((at + len) % 26) as u8).collect();
        let id = put(
            &mut tree,
            root,
            format!("{len}").as_bytes(),
            Content::Symlink(target),
        );
        if len % 3 == 0 {
            let value = vec![b'v'; len * 7 % 200];
            let xattrs = &mut tree.get_mut(id).attributes.xattrs;
            xattrs.insert(b"trusted.some".to_vec(), value);
        }
    }
    Mounted::new(&tree, &[]).compare(&tree);
}

#[test]
fn directories_of_any_size() {
    let mut tree = tree();
    let root = tree.root();
    for count in 0..120 {
        let id = put(&mut tree, root, format!("{count}").as_bytes(), directory());
        for number in 0..count {
            let name = [
                b"!-.~\xFF"[number % 5..=number % 5].to_vec(),
                vec![b'n'; number * 37 % 250],
                number.to_string().into_bytes(),
            ]
            .concat();
            put(&mut tree, id, &name, Content::Fifo);
        }
    }
    let mut deep = root;
    for _ in 0..500 {
        deep = put(&mut tree, deep, b"deep", directory());
    }
    Mounted::new(&tree, &[]).compare(&tree);
}

#[test]
fn a_directory_of_100k_names() {
    let mut tree = tree();
    let root = tree.root();
    let big = put(&mut tree, root, b"big", directory());
    let file = put(&mut tree, big, b"file", Content::Fifo);
    for number in 0..100_000 {
        let name = format!("name {number}");
        if number % 2 == 0 {
            tree.link(big, name.as_bytes(), file).unwrap();
        } else {
            put(&mut tree, big, name.as_bytes(), Content::Fifo);
        }
    }
    Mounted::new(&tree, &[]).compare(&tree);
}

#[test]
fn files_of_any_size_and_shape() {
    let mut tree = tree();
    let root = tree.root();
    for size in [
        0, 1, 511, 512, 513, 4095, 4096, 4097, 65_536, 1_000_001, 4_000_000,
    ] {
        for device in [1, 2] {
            let name = format!("{size} on {device}");
            put(
                &mut tree,
                root,
                name.as_bytes(),
                Content::File(FileData::contiguous(size, device, 3 + size % 50)),
            );
        }
    }
    let extent = |file_block, blocks, device, device_block| FileExtent {
        file_block,
        blocks,
        device,
        device_block,
    };
    let mut file = |name: &str, size, extents: &[FileExtent]| {
        let data = FileData {
            size,
            extents: extents.to_vec(),
        };
        put(&mut tree, root, name.as_bytes(), Content::File(data));
    };
    file("hole", 5_000_000, &[]);
    file("hole of 8 TiB", 8 << 40, &[]);
    file("hole in front", 10 * 512, &[extent(8, 2, 1, 77)]);
    file("hole behind", 100 * 512, &[extent(0, 64, 2, 77)]);
    file(
        "odd hole",
        33 * 512 - 100,
        &[extent(0, 7, 1, 50), extent(8, 25, 1, 58)],
    );
    file(
        "many",
        2000 * 512,
        &(0..1000)
            .map(|n| extent(n * 2, 1, 1 + (n % 2) as u16, n * 9))
            .collect::<Vec<_>>(),
    );
    file(
        "swapped",
        128 * 1024,
        &[extent(0, 128, 1, 128), extent(128, 128, 1, 0)],
    );
    file(
        "last block",
        512,
        &[extent(0, 1, 2, u64::from(u32::MAX) - 1)],
    );
    file("last of the first", 512, &[extent(0, 1, 1, FILLED - 1)]);
    Mounted::new(&tree, &devices()).compare(&tree);
}

#[test]
fn xattrs_of_any_size() {
    let mut tree = tree();
    let root = tree.root();
    for len in (0..700).step_by(3).chain([4000, 65_535]) {
        let contents = [
            directory(),
            Content::File(FileData::contiguous(1000, 1 + (len % 2) as u16, 9)),
        ];
        let id = put(
            &mut tree,
            root,
            len.to_string().as_bytes(),
            contents[len % 2].clone(),
        );
        let xattrs = &mut tree.get_mut(id).attributes.xattrs;
        xattrs.insert(b"user.long".to_vec(), vec![b'x'; len]);
        xattrs.insert(
            [b"security.".as_slice(), &[b'n'; 246]].concat(),
            vec![b'y'; len % 9],
        );
    }
    let many = put(&mut tree, root, b"many", directory());
    let xattrs = &mut tree.get_mut(many).attributes.xattrs;
    xattrs.extend((0..3000).map(|n| (format!("user.{n}").into_bytes(), vec![b'z'; n % 50])));
    put(&mut tree, many, b"below", Content::Fifo);
    Mounted::new(&tree, &devices()).compare(&tree);
}

#[test]
fn times_and_owners_at_their_limits() {
    let mut tree = tree();
    let root = tree.root();
    for (index, seconds) in [i64::MIN, -1, 0, 1, 1 << 33, i64::MAX]
        .into_iter()
        .enumerate()
    {
        let id = put(&mut tree, root, index.to_string().as_bytes(), Content::Fifo);
        let attributes = &mut tree.get_mut(id).attributes;
        attributes.mtime = Timestamp {
            seconds,
            nanoseconds: 999_999_999,
        };
        (attributes.uid, attributes.gid) = (u32::MAX - 1, 1 << 20);
        attributes.mode = 0o7777;
    }
    Mounted::new(&tree, &[]).compare(&tree);
}

#[test]
fn a_hundred_and_twenty_eight_devices() {
    let mut tree = tree();
    let root = tree.root();
    let devices: Vec<Device> = (0..128).map(|slot| device(50 + slot)).collect();
    for slot in 1..=128 {
        let content = Content::File(FileData::contiguous(
            49 * 512 + u64::from(slot),
            slot,
            u64::from(slot) - 1,
        ));
        put(&mut tree, root, slot.to_string().as_bytes(), content);
    }
    Mounted::new(&tree, &devices).compare(&tree);
}
