//! Trees for tests: a builder, a canonical description, random ones.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use thaw_erofs::{
    Attributes, Content, Device, DeviceNumber, FileData, FileExtent, Inode, InodeId, Timestamp,
    Tree,
};

/// One inode as a reader sees it, whatever its id: its names are what it is known by.
#[derive(PartialEq, Eq, Debug)]
pub struct Described {
    pub first_path: Vec<u8>,
    pub attributes: Attributes,
    pub content: Content,
}

/// Every path of a tree with what it leads to; extents that continue each other are merged, and
/// directories are empty, for their names are paths themselves.
pub fn describe(tree: &Tree) -> BTreeMap<Vec<u8>, Described> {
    let mut paths = BTreeMap::from([(Vec::new(), tree.root())]);
    let mut pending = vec![(Vec::new(), tree.root())];
    while let Some((path, directory)) = pending.pop() {
        for (name, id) in tree.entries(directory).into_iter().flatten() {
            let path = [path.as_slice(), b"/", name].concat();
            paths.insert(path.clone(), *id);
            pending.push((path, *id));
        }
    }
    let mut first: BTreeMap<InodeId, Vec<u8>> = BTreeMap::new();
    for (path, id) in &paths {
        first.entry(*id).or_insert_with(|| path.clone());
    }
    let described = paths.into_iter().map(|(path, id)| {
        let inode = tree.get(id).clone();
        let described = Described {
            first_path: first[&id].clone(),
            attributes: inode.attributes,
            content: canonical(inode.content),
        };
        (path, described)
    });
    described.collect()
}

fn canonical(content: Content) -> Content {
    match content {
        Content::Directory(_) => Content::Directory(BTreeMap::new()),
        Content::File(data) => {
            let mut extents: Vec<FileExtent> = Vec::new();
            for next in data.extents {
                match extents.last_mut() {
                    Some(last)
                        if last.device == next.device
                            && last.file_block + last.blocks == next.file_block
                            && last.device_block + last.blocks == next.device_block =>
                    {
                        last.blocks += next.blocks;
                    }
                    _ => extents.push(next),
                }
            }
            Content::File(FileData {
                size: data.size,
                extents,
            })
        }
        other => other,
    }
}

pub fn attributes(mode: u16) -> Attributes {
    Attributes {
        mode,
        ..Attributes::default()
    }
}

/// Puts an inode under a name.
pub fn put(tree: &mut Tree, parent: InodeId, name: &[u8], content: Content) -> InodeId {
    let id = tree.add(Inode {
        attributes: attributes(0o644),
        content,
    });
    assert_eq!(tree.link(parent, name, id).unwrap(), None);
    id
}

pub fn directory() -> Content {
    Content::Directory(BTreeMap::new())
}

pub fn device(blocks: u64) -> Device {
    Device {
        tag: [b'a'; 64],
        blocks,
    }
}

/// Two devices: the second has no place in the common address space, so that files on it are
/// chunk-based.
pub fn devices() -> [Device; 2] {
    [device(10_000), device(u64::from(u32::MAX))]
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("not in a name", |byte| !matches!(byte, 0 | b'/'));
    prop_oneof![
        4 => vec(byte.clone(), 1..8),
        1 => vec(byte, 1..=255),
    ]
    .prop_filter("dots", |name| name != b"." && name != b"..")
}

/// An ACL of version 2: owner rw, user 1000 r, group r, mask r, others none.
#[rustfmt::skip]
pub const ACL: [u8; 44] = [
    2, 0, 0, 0,
    0x01, 0, 6, 0, 0xFF, 0xFF, 0xFF, 0xFF,
    0x02, 0, 4, 0, 0xE8, 0x03, 0, 0,
    0x04, 0, 4, 0, 0xFF, 0xFF, 0xFF, 0xFF,
    0x10, 0, 4, 0, 0xFF, 0xFF, 0xFF, 0xFF,
    0x20, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF,
];

fn any_attributes() -> impl Strategy<Value = Attributes> {
    let prefix = prop_oneof![Just("user."), Just("trusted."), Just("security.")];
    let name = (prefix, vec(1u8.., 1..20))
        .prop_map(|(prefix, rest)| [prefix.as_bytes(), rest.as_slice()].concat());
    let value = prop_oneof![4 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 0..2000)];
    let acl = prop_oneof![
        Just(b"system.posix_acl_access".to_vec()),
        Just(b"system.posix_acl_default".to_vec()),
    ];
    // The kernel reads the value of an ACL, so it must be one.
    let xattr = prop_oneof![9 => (name, value), 1 => (acl, Just(ACL.to_vec()))];
    let xattrs = prop_oneof![
        3 => Just(BTreeMap::new()),
        1 => vec(xattr, 0..4).prop_map(BTreeMap::from_iter),
    ];
    let ids = (0..=0o7777u16, 0..u32::MAX, 0..u32::MAX);
    (ids, any::<i64>(), 0..1_000_000_000u32, xattrs).prop_map(|(ids, seconds, nanos, xattrs)| {
        Attributes {
            mode: ids.0,
            uid: ids.1,
            gid: ids.2,
            mtime: Timestamp {
                seconds,
                nanoseconds: nanos,
            },
            xattrs,
        }
    })
}

/// A file of runs (hole or device, blocks, device block), with its end cut off.
fn any_file() -> impl Strategy<Value = Content> {
    let run = (0..3u16, 1..9u64, 0..9000u64);
    (vec(run, 0..5), 0..512u64).prop_map(|(runs, cut)| {
        let mut data = FileData::default();
        let mut at = 0;
        for (device, blocks, device_block) in runs {
            if device > 0 {
                data.extents.push(FileExtent {
                    file_block: at,
                    blocks,
                    device,
                    device_block,
                });
            }
            at += blocks;
        }
        data.size = (at * 512).saturating_sub(cut);
        Content::File(data)
    })
}

fn any_leaf() -> impl Strategy<Value = Content> {
    let number =
        (0..=0xFFFu32, 0..=0xF_FFFFu32).prop_map(|(major, minor)| DeviceNumber { major, minor });
    prop_oneof![
        4 => any_file(),
        2 => prop_oneof![vec(1u8.., 1..100), vec(1u8.., 1..=4095)].prop_map(Content::Symlink),
        1 => number.clone().prop_map(Content::CharDevice),
        1 => number.prop_map(Content::BlockDevice),
        1 => Just(Content::Fifo),
        1 => Just(Content::Socket),
    ]
}

/// Trees of up to 60 inodes and some hard links, data on [`devices`].
pub fn any_tree() -> impl Strategy<Value = Tree> {
    let content = prop_oneof![1 => Just(directory()), 2 => any_leaf()];
    let inode = (any_attributes(), content);
    let step = (inode, any_name(), any::<prop::sample::Index>());
    let link = (
        any_name(),
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
    );
    (any_attributes(), vec(step, 0..60), vec(link, 0..10)).prop_map(|(root, steps, links)| {
        let mut tree = Tree::new(root);
        let mut directories = vec![tree.root()];
        let mut leaves = Vec::new();
        for ((attributes, content), name, parent) in steps {
            let is_directory = matches!(content, Content::Directory(_));
            let parent = directories[parent.index(directories.len())];
            if tree.lookup(parent, &name).is_some() {
                continue;
            }
            let id = tree.add(Inode {
                attributes,
                content,
            });
            tree.link(parent, &name, id).unwrap();
            if is_directory {
                &mut directories
            } else {
                &mut leaves
            }
            .push(id);
        }
        for (name, parent, leaf) in links {
            let parent = directories[parent.index(directories.len())];
            if !leaves.is_empty() && tree.lookup(parent, &name).is_none() {
                let leaf = leaves[leaf.index(leaves.len())];
                tree.link(parent, &name, leaf).unwrap();
            }
        }
        tree
    })
}
