//! What is written reads back the same, and anything else is read or refused.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod support;

use std::collections::BTreeMap;
use std::time::Instant;

use proptest::prelude::*;
use sha2::{Digest, Sha256};
use support::{any_tree, attributes, describe, device, devices, directory, put};
use thaw_erofs::{
    Attributes, Content, Device, DeviceNumber, ExtentError, FileData, FileExtent, Image, Inode,
    InodeError, Nid, ReadError, StoredContent, Timestamp, Tree, WriteError, write,
};

fn layout(tree: &Tree, devices: &[Device]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let written = write(tree, devices, &mut bytes).unwrap();
    assert_eq!(written.bytes, bytes.len() as u64);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn trees_read_back_the_same(tree in any_tree()) {
        let bytes = layout(&tree, &devices());
        let image = Image::open(&bytes).unwrap();
        let again = image.to_tree().unwrap();
        prop_assert_eq!(describe(&again), describe(&tree));
        prop_assert_eq!(image.check(), Ok(()));
        prop_assert_eq!(image.devices(), devices());
        // Ids differ, bytes do not.
        prop_assert_eq!(layout(&again, &devices()), bytes);
    }

    #[test]
    fn damage_is_read_or_refused(
        tree in any_tree(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = layout(&tree, &devices());
        for (at, byte) in damage {
            // The superblock's own block is behind a checksum.
            let at = 1536 + at.index(bytes.len() - 1536);
            bytes[at] = byte;
        }
        if let Ok(tree) = Image::open(&bytes).unwrap().to_tree() {
            layout(&tree, &devices());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(Image::open(&bytes).is_err());
    }
}

/// One of everything.
fn fixed_tree() -> Tree {
    let mut tree = Tree::new(attributes(0o755));
    let root = tree.root();
    let etc = put(&mut tree, root, b"etc", directory());
    tree.get_mut(etc).attributes.mode = 0o1777;
    let passwd = put(
        &mut tree,
        etc,
        b"passwd",
        Content::File(FileData::contiguous(1234, 1, 77)),
    );
    tree.get_mut(passwd).attributes = Attributes {
        mode: 0o4750,
        uid: 1000,
        gid: u32::MAX - 1,
        mtime: Timestamp {
            seconds: -1,
            nanoseconds: 999_999_999,
        },
        xattrs: BTreeMap::from([
            (b"user.x".to_vec(), b"y".to_vec()),
            (b"security.capability".to_vec(), vec![7; 20]),
        ]),
    };
    tree.link(root, b"!first", passwd).unwrap();
    put(
        &mut tree,
        root,
        b"chunks",
        Content::File(FileData::contiguous(1 << 20, 2, 5)),
    );
    put(
        &mut tree,
        root,
        b"empty",
        Content::File(FileData::default()),
    );
    put(
        &mut tree,
        root,
        b"link",
        Content::Symlink(b"etc/passwd".to_vec()),
    );
    put(&mut tree, root, b"long", Content::Symlink(vec![b'x'; 4095]));
    put(&mut tree, root, b"pipe", Content::Fifo);
    put(&mut tree, root, b"socket", Content::Socket);
    let number = |major, minor| DeviceNumber { major, minor };
    put(&mut tree, root, b"null", Content::CharDevice(number(1, 3)));
    put(
        &mut tree,
        root,
        b"disk",
        Content::BlockDevice(number(259, 70_000)),
    );
    let sparse = FileExtent {
        file_block: 8,
        blocks: 2,
        device: 1,
        device_block: 3,
    };
    let sparse = FileData {
        size: 9 * 512 + 1,
        extents: vec![sparse],
    };
    put(&mut tree, root, b"sparse", Content::File(sparse));
    for number in 0..100 {
        put(
            &mut tree,
            etc,
            format!("file {number}").as_bytes(),
            Content::Fifo,
        );
    }
    tree
}

/// The bytes are a promise: layouts are found by their digest.
#[test]
fn the_digest_of_a_fixed_tree_is_fixed() {
    let digest = Sha256::digest(layout(&fixed_tree(), &devices()));
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        digest,
        "9e1808ab0481ab42d6511ffee0770118dc0a9b1cf50250d152742c2cc128833e"
    );
}

#[test]
fn the_fixed_tree_reads_back_the_same() {
    let tree = fixed_tree();
    let bytes = layout(&tree, &devices());
    let image = Image::open(&bytes).unwrap();
    assert_eq!(describe(&image.to_tree().unwrap()), describe(&tree));
    assert_eq!(image.inode_count(), 112);
}

#[test]
fn trees_that_differ_in_hard_links_alone_have_other_uuids() {
    let tree = |second: &[u8]| {
        let mut tree = Tree::new(attributes(0o755));
        let root = tree.root();
        let file = put(&mut tree, root, b"a", Content::Fifo);
        tree.link(root, second, file).unwrap();
        let other: &[u8] = if second == b"b" { b"c" } else { b"b" };
        let other = put(&mut tree, root, other, Content::Fifo);
        put(&mut tree, root, b"d", directory());
        let d = tree.lookup(root, b"d").unwrap();
        tree.link(d, b"e", other).unwrap();
        tree
    };
    let uuid = |tree: Tree| write(&tree, &[], &mut Vec::new()).unwrap().uuid;
    assert_ne!(uuid(tree(b"b")), uuid(tree(b"c")));
}

fn refused(content: Content) -> String {
    let mut tree = Tree::new(attributes(0o755));
    let root = tree.root();
    let directory = put(&mut tree, root, b"dir", directory());
    put(&mut tree, directory, b"bad", content);
    let mut bytes = Vec::new();
    let error = write(&tree, &[device(10)], &mut bytes).unwrap_err();
    assert!(bytes.is_empty());
    error.to_string()
}

#[test]
fn what_cannot_be_stored_is_named() {
    let number = DeviceNumber {
        major: 4096,
        minor: 0,
    };
    let sparse = FileExtent {
        file_block: 1,
        blocks: 1,
        device: 1,
        device_block: 0,
    };
    let fragments = FileData {
        size: 1 << 40,
        extents: vec![sparse],
    };
    for (content, message) in [
        (
            Content::Symlink(vec![b'x'; 4096]),
            "its target of 4096 bytes is empty, has a zero byte or is over 4095 bytes long",
        ),
        (
            Content::Symlink(Vec::new()),
            "its target of 0 bytes is empty, has a zero byte or is over 4095 bytes long",
        ),
        (
            Content::CharDevice(number),
            "device number 4096:0 is over the limit of 4095:1048575",
        ),
        (
            Content::File(FileData::contiguous(512, 1, 10)),
            "its extent at block 0 lies outside of its device",
        ),
        (
            Content::File(FileData::contiguous(512, 2, 0)),
            "its extent at block 0 lies outside of its device",
        ),
        (
            Content::File(fragments),
            "it is cut into 2147483648 chunks, over the limit of 1048576; copy it to a device in one piece",
        ),
    ] {
        assert_eq!(
            refused(content),
            format!("cannot store `dir/bad`: {message}")
        );
    }
}

#[test]
fn bad_attributes_and_devices_are_refused() {
    let mut tree = Tree::new(attributes(0o10000));
    let out = &mut Vec::new();
    let error = write(&tree, &[], out).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot store `/`: mode 10000 has more than the permission bits 7777"
    );
    let root = tree.root();
    tree.get_mut(root).attributes = Attributes::default();
    tree.get_mut(root).attributes.mtime.nanoseconds = 1_000_000_000;
    let error = write(&tree, &[], out).unwrap_err();
    assert!(matches!(
        error,
        WriteError::Inode {
            reason: InodeError::Nanoseconds(_),
            ..
        }
    ));
    tree.get_mut(root).attributes = Attributes::default();
    tree.get_mut(root).attributes.gid = u32::MAX;
    let error = write(&tree, &[], out).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot store `/`: user and group 0:4294967295: 4294967295 stands for none"
    );
    tree.get_mut(root).attributes = Attributes::default();
    let error = write(&tree, &[device(1), device(1 << 32)], out).unwrap_err();
    assert_eq!(
        error.to_string(),
        "device 2 has 4294967296 blocks of 512 bytes, over the limit of 2^32 - 1 (2 TiB)"
    );
    let error = write(&tree, &vec![device(1); 4097], out).unwrap_err();
    assert_eq!(error.to_string(), "4097 devices are over the limit of 4096");
    assert!(out.is_empty());
}

#[test]
fn a_writer_that_fails_is_reported() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let error = write(&fixed_tree(), &devices(), &mut Full).unwrap_err();
    assert!(
        matches!(error, WriteError::Io(error) if error.kind() == std::io::ErrorKind::StorageFull)
    );
}

#[test]
fn damaged_superblocks_are_refused() {
    let good = layout(&fixed_tree(), &devices());
    let open = |change: fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        Image::open(&bytes).map(|_| ()).unwrap_err()
    };
    assert_eq!(open(|bytes| bytes.truncate(1100)), ReadError::Magic);
    assert_eq!(open(|bytes| bytes[1024] ^= 1), ReadError::Magic);
    assert_eq!(open(|bytes| bytes[1060] ^= 1), ReadError::Checksum);
    assert!(matches!(
        open(|bytes| bytes.truncate(bytes.len() - 512)),
        ReadError::Foreign(_)
    ));
}

/// Two hundred symbolic links of 512 bytes are made to claim the same 3,584.
#[test]
fn inodes_that_share_bytes_are_refused() {
    let mut tree = Tree::new(attributes(0o755));
    let root = tree.root();
    for number in 0..200 {
        let target = Content::Symlink(vec![b'x'; 512]);
        put(&mut tree, root, format!("{number:03}").as_bytes(), target);
    }
    let mut bytes = layout(&tree, &[]);
    let image = Image::open(&bytes).unwrap();
    let StoredContent::Directory { entries, .. } = image.inode(image.root()).unwrap().content
    else {
        panic!("the root is a directory");
    };
    let offset = |nid: Nid| nid.0 as usize * 32;
    let offsets: Vec<usize> = entries.iter().map(|entry| offset(entry.nid)).collect();
    let block = bytes[offsets[0] + 16..][..4].to_vec();
    for at in offsets {
        bytes[at + 8..][..8].copy_from_slice(&3584u64.to_le_bytes());
        bytes[at + 16..][..4].copy_from_slice(&block);
    }
    let error = Image::open(&bytes).unwrap().to_tree().unwrap_err();
    assert_eq!(error, ReadError::Overlap);
}

/// One entry of one file's chunk table is changed, and nothing else is wrong.
#[test]
fn a_chunk_that_leaves_its_device_is_refused() {
    // With a third one no inode lies within what the superblock's checksum covers.
    let devices = [device(100), device(50), device(200)];
    let extent = |file_block, blocks, device, device_block| FileExtent {
        file_block,
        blocks,
        device,
        device_block,
    };
    // Two chunks of four blocks; each ends where its device does.
    let data = FileData {
        size: 8 * 512,
        extents: vec![extent(0, 4, 1, 96), extent(4, 4, 2, 46)],
    };
    let mut tree = Tree::new(attributes(0o755));
    let root = tree.root();
    put(&mut tree, root, b"file", Content::File(data));
    let good = layout(&tree, &devices);
    let image = Image::open(&good).unwrap();
    assert_eq!(image.check(), Ok(()));
    let StoredContent::Directory { entries, .. } = image.inode(image.root()).unwrap().content
    else {
        panic!("the root is a directory");
    };
    let nid = entries[0].nid;
    // It has no xattrs: its table follows its 64 bytes.
    let table = nid.0 as usize * 32 + 64;
    let entry = |device: u16, block: u32| {
        [&[0, 0][..], &device.to_le_bytes(), &block.to_le_bytes()].concat()
    };
    assert_eq!(good[table..][..8], entry(1, 96));
    assert_eq!(good[table + 8..][..8], entry(2, 46));
    let changed = |chunk: usize, device, block| {
        let mut bytes = good.clone();
        bytes[table + 8 * chunk..][..8].copy_from_slice(&entry(device, block));
        let image = Image::open(&bytes).unwrap();
        let checked = image.check();
        assert_eq!(image.to_tree().map(drop), checked);
        checked
    };
    let refused = |file_block| {
        let reason = ExtentError::Device(file_block);
        Err(ReadError::Extent { nid, reason })
    };
    // Somewhere else on a device is right.
    assert_eq!(changed(0, 1, 95), Ok(()));
    assert_eq!(changed(1, 3, 196), Ok(()));
    // A block too far, far away, and on no device.
    assert_eq!(changed(0, 1, 97), refused(0));
    assert_eq!(changed(1, 2, 47), refused(4));
    assert_eq!(changed(0, 2, 96), refused(0));
    assert_eq!(changed(0, 1, u32::MAX - 1), refused(0));
    assert_eq!(changed(0, 0, 0), refused(0));
    assert_eq!(changed(1, 4, 0), refused(4));
}

#[test]
fn a_directory_in_two_places_is_refused() {
    let mut tree = Tree::new(attributes(0o755));
    let root = tree.root();
    for name in [b"a", b"b"] {
        let directory = Inode {
            attributes: attributes(0o755),
            content: Content::Directory(Default::default()),
        };
        let id = tree.add(directory);
        tree.link(root, name, id).unwrap();
    }
    let bytes = layout(&tree, &[]);
    let image = Image::open(&bytes).unwrap();
    let StoredContent::Directory { entries, .. } = image.inode(image.root()).unwrap().content
    else {
        panic!("the root is a directory");
    };
    let (first, second) = (entries[0].nid.0, entries[1].nid.0);
    let dirent = |bytes: &[u8], nid: u64| {
        let found = bytes.windows(8).rposition(|it| it == nid.to_le_bytes());
        found.unwrap()
    };
    // In the root: the directories themselves lie behind it, and name themselves in `.` too.
    let root_at = image.root().0 as usize * 32;
    let end = first as usize * 32;
    for nid in [first, image.root().0] {
        let mut twice = bytes.clone();
        let at = root_at + dirent(&bytes[root_at..end], second);
        twice[at..at + 8].copy_from_slice(&nid.to_le_bytes());
        let reason = "it is in two directories";
        let nid = Nid(nid);
        let error = Image::open(&twice).unwrap().check().unwrap_err();
        assert_eq!(error, ReadError::Inode { nid, reason });
    }
}

fn many_files(count: u64) -> Tree {
    let mut tree = Tree::new(attributes(0o755));
    let root = tree.root();
    let mut parent = root;
    for number in 0..count {
        if number % 20 == 0 {
            parent = put(
                &mut tree,
                root,
                format!("package-{number}").as_bytes(),
                directory(),
            );
        }
        let name = format!("module_{number}.py");
        put(
            &mut tree,
            parent,
            name.as_bytes(),
            Content::File(FileData::contiguous(3000, 1, number * 7)),
        );
    }
    tree
}

/// A figure, and a bound on it: `cargo test --release -p thaw-erofs -- --nocapture figure`.
#[test]
fn figure_100k_files() {
    let count = 100_000;
    let tree = many_files(count);
    let start = Instant::now();
    let bytes = layout(&tree, &[device(1 << 20)]);
    let written = start.elapsed();
    let read = Image::open(&bytes).unwrap().to_tree().unwrap();
    let total = start.elapsed() - written;
    assert_eq!(read.len() as u64, count + count / 20 + 1);
    let each = bytes.len() as u64 / count;
    println!(
        "{count} files: {} bytes ({each} a file), written in {written:?}, read in {total:?}",
        bytes.len()
    );
    assert!(each <= 132);
}

#[test]
fn a_directory_of_100k_names_reads_back() {
    let mut tree = Tree::new(attributes(0o755));
    let root = tree.root();
    let file = put(&mut tree, root, b"file", Content::Fifo);
    let big = put(&mut tree, root, b"big", directory());
    for number in 0..100_000u32 {
        let inode = Inode {
            attributes: attributes(0o600),
            content: Content::Fifo,
        };
        let id = if number % 2 == 0 {
            file
        } else {
            tree.add(inode)
        };
        tree.link(big, number.to_string().as_bytes(), id).unwrap();
    }
    let bytes = layout(&tree, &[]);
    let again = Image::open(&bytes).unwrap().to_tree().unwrap();
    let big = again.lookup(again.root(), b"big").unwrap();
    assert_eq!(again.entries(big).unwrap().len(), 100_000);
    assert_eq!(layout(&again, &[]), bytes);
}
