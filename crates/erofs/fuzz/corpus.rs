//! Writes layouts for the fuzzer to begin with into `corpus/image`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;

use thaw_erofs::{
    Attributes, Content, Device, DeviceNumber, FileData, FileExtent, Inode, InodeId, Tree, write,
};

fn put(
    tree: &mut Tree,
    directory: InodeId,
    name: &str,
    content: Content,
) -> Result<InodeId, Box<dyn Error>> {
    let id = tree.add(Inode {
        attributes: Attributes::default(),
        content,
    });
    tree.link(directory, name.as_bytes(), id)?;
    Ok(id)
}

/// One layout for each kind of inode, with a directory of `names` names beside it.
fn tree(content: Content, names: usize) -> Result<Tree, Box<dyn Error>> {
    let mut tree = Tree::new(Attributes::default());
    let root = tree.root();
    let directory = put(&mut tree, root, "dir", Content::Directory(BTreeMap::new()))?;
    let id = put(&mut tree, directory, "inode", content)?;
    let xattrs = &mut tree.get_mut(id).attributes.xattrs;
    xattrs.insert(b"user.name".to_vec(), b"value".to_vec());
    xattrs.insert(b"security.capability".to_vec(), vec![1; 20]);
    for name in 0..names {
        tree.link(directory, format!("link {name}").as_bytes(), id)?;
    }
    Ok(tree)
}

fn main() -> Result<(), Box<dyn Error>> {
    let extent = FileExtent {
        file_block: 2,
        blocks: 3,
        device: 2,
        device_block: 9,
    };
    let sparse = FileData {
        size: 10 * 512,
        extents: vec![extent],
    };
    let contents = [
        Content::File(FileData::default()),
        Content::File(FileData::contiguous(3000, 1, 7)),
        Content::File(FileData::contiguous(3000, 2, 7)),
        Content::File(sparse),
        Content::Symlink(b"target".to_vec()),
        Content::Symlink(vec![b'x'; 700]),
        Content::CharDevice(DeviceNumber { major: 1, minor: 3 }),
        Content::Fifo,
    ];
    let device = |blocks| Device {
        tag: [b'0'; 64],
        blocks,
    };
    let devices = [device(100), device(u64::from(u32::MAX))];
    fs::create_dir_all("corpus/image")?;
    for (number, content) in contents.into_iter().enumerate() {
        for names in [0, 10, 60] {
            let mut bytes = Vec::new();
            write(&tree(content.clone(), names)?, &devices, &mut bytes)?;
            fs::write(format!("corpus/image/{number}-{names}"), bytes)?;
        }
    }
    Ok(())
}
