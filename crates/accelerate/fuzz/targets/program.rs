//! Any bytes as a program, as its interpreter and as its library: what it reads is found or passed over,
//! and all of it lies in the layer.

use std::collections::BTreeMap;

use thaw_accelerate::closure::{MAX_BYTES, Root, Start, static_set};
use thaw_erofs::{Attributes, Content, FileData, Inode, Tree};
use thaw_image::{DiffId, Digest, Extent};

/// A tree whose files are all `len` bytes at the start of device 1.
fn tree(len: u64) -> Tree {
    let attributes = Attributes {
        mode: 0o755,
        ..Attributes::default()
    };
    let mut tree = Tree::new(attributes.clone());
    let add = |tree: &mut Tree, content| {
        tree.add(Inode {
            attributes: attributes.clone(),
            content,
        })
    };
    for (directory, names) in [("bin", ["program", "sh"]), ("lib64", ["ld.so", "lib.so.1"])] {
        let id = add(&mut tree, Content::Directory(BTreeMap::new()));
        let root = tree.root();
        tree.link(root, directory.as_bytes(), id)
            .expect("a new name");
        for name in names {
            let file = add(&mut tree, Content::File(FileData::contiguous(len, 1, 0)));
            tree.link(id, name.as_bytes(), file).expect("a new name");
        }
    }
    tree
}

pub(crate) fn run(data: &[u8]) {
    let layer = DiffId(Digest::of(b"layer"));
    let mut tar = data.to_vec();
    tar.resize(tar.len().next_multiple_of(512), 0);
    let read = |_: &DiffId, extent: Extent| {
        let from = usize::try_from(extent.offset).expect("small");
        let to = usize::try_from(extent.end()).expect("small");
        Ok(tar.get(from..to).expect("beyond the layer").to_vec())
    };
    let root = Root {
        tree: &tree(data.len() as u64),
        layers: &[layer],
        read: &read,
    };
    let start = Start {
        command: vec![b"program".to_vec(), b"/bin/sh".to_vec()],
        ..Start::default()
    };
    let trace = static_set(&root, &start).expect("every read succeeds");
    let bytes: u64 = trace.iter().map(|(_, extent)| extent.len).sum();
    assert!(bytes <= MAX_BYTES);
    assert!(
        trace
            .iter()
            .all(|(_, extent)| extent.end() <= tar.len() as u64)
    );
}
