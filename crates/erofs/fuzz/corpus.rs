//! Writes layouts for the fuzzer to begin with into `corpus/image`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;

use thaw_erofs::{
    Attributes, Content, Device, DeviceNumber, FileData, FileExtent, Inode, InodeId, Tree, write,
};

/// An input, after the names of its target and its own.
type Input = (&'static str, String, Vec<u8>);

fn add(
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
    let directory = add(&mut tree, root, "dir", Content::Directory(BTreeMap::new()))?;
    let id = add(&mut tree, directory, "inode", content)?;
    let xattrs = &mut tree.get_mut(id).attributes.xattrs;
    xattrs.insert(b"user.name".to_vec(), b"value".to_vec());
    xattrs.insert(b"security.capability".to_vec(), vec![1; 20]);
    for name in 0..names {
        tree.link(directory, format!("link {name}").as_bytes(), id)?;
    }
    Ok(tree)
}

/// The inputs of all targets, each with a name.
pub(crate) fn inputs() -> Result<Vec<Input>, Box<dyn Error>> {
    let mut inputs = Vec::new();
    let mut put = |target, name: &str, bytes: &[u8]| {
        inputs.push((target, name.to_owned(), bytes.to_vec()));
    };
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
    for (number, content) in contents.into_iter().enumerate() {
        for names in [0, 10, 60] {
            let mut bytes = Vec::new();
            write(&tree(content.clone(), names)?, &devices, &mut bytes)?;
            put("image", &format!("{number}-{names}"), &bytes);
        }
    }
    Ok(inputs)
}

fn main() -> Result<(), Box<dyn Error>> {
    for (target, name, bytes) in inputs()? {
        fs::create_dir_all(format!("corpus/{target}"))?;
        fs::write(format!("corpus/{target}/{name}"), bytes)?;
    }
    Ok(())
}
