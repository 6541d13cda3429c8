//! What is answered about names, sizes and opening.

use super::{Files, FlatFile, Node, abi};

/// For how long the kernel may believe names and sizes, in seconds: they do not change.
const FOREVER: u64 = 1 << 30;

pub(super) fn entry(file: &FlatFile) -> abi::EntryOut {
    abi::EntryOut {
        node: file.node.0,
        entry_valid: FOREVER,
        attr_valid: FOREVER,
        attr: attr(file),
        ..abi::EntryOut::default()
    }
}

fn attr(file: &FlatFile) -> abi::Attr {
    abi::Attr {
        ino: file.node.0,
        size: file.size,
        blocks: file.size.div_ceil(512),
        mode: libc::S_IFREG | 0o400,
        nlink: 1,
        blksize: 4096,
        ..abi::Attr::default()
    }
}

/// Attributes of a file, or of the directory.
pub(super) fn attributes(node: u64, files: &impl Files) -> Option<abi::AttrOut> {
    let attr = match node {
        abi::ROOT => abi::Attr {
            ino: abi::ROOT,
            mode: libc::S_IFDIR | 0o500,
            nlink: 2,
            ..abi::Attr::default()
        },
        node => attr(&files.get(Node(node))?),
    };
    Some(abi::AttrOut {
        attr_valid: FOREVER,
        attr,
        ..abi::AttrOut::default()
    })
}

/// A file that was opened: directly.
pub(super) fn open() -> abi::OpenOut {
    abi::OpenOut {
        flags: abi::OPEN_DIRECT,
        ..abi::OpenOut::default()
    }
}

pub(super) fn statistics() -> abi::StatfsOut {
    abi::StatfsOut {
        block_size: 512,
        fragment_size: 512,
        name_len: 255,
        ..abi::StatfsOut::default()
    }
}
