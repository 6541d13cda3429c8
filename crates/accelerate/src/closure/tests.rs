//! Closures of small root filesystems, in which this test's own program is the ELF file.

use std::path::{Path, PathBuf};

use thaw_erofs::{Attributes, Content, FileData, Inode, Tree};
use thaw_image::{BLOCK, Digest};

use super::*;

/// A root filesystem on one layer, whose tar is only the files' data.
struct Image {
    tree: Tree,
    tar: Vec<u8>,
    layer: DiffId,
}

impl Image {
    fn new() -> Self {
        let tree = Tree::new(Attributes::default());
        Self {
            tree,
            tar: Vec::new(),
            layer: DiffId(Digest::of(b"layer")),
        }
    }

    fn put(&mut self, path: &str, content: Content) {
        let attributes = Attributes {
            mode: 0o755,
            ..Attributes::default()
        };
        let (parents, name) = path[1..].rsplit_once('/').unwrap_or(("", &path[1..]));
        let mut at = self.tree.root();
        for parent in parents.split('/').filter(|parent| !parent.is_empty()) {
            at = self.tree.lookup(at, parent.as_bytes()).unwrap_or_else(|| {
                let content = Content::Directory(Default::default());
                let id = self.tree.add(Inode {
                    attributes: attributes.clone(),
                    content,
                });
                self.tree.link(at, parent.as_bytes(), id).unwrap();
                id
            });
        }
        let id = self.tree.add(Inode {
            attributes,
            content,
        });
        self.tree.link(at, name.as_bytes(), id).unwrap();
    }

    fn file(&mut self, path: &str, bytes: &[u8]) {
        let block = self.tar.len() as u64 / BLOCK;
        self.tar.extend_from_slice(bytes);
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
        self.put(
            path,
            Content::File(FileData::contiguous(bytes.len() as u64, 1, block)),
        );
    }

    fn link(&mut self, path: &str, target: &str) {
        self.put(path, Content::Symlink(target.into()));
    }

    /// The paths of `files` that the closure touches.
    fn closure<'p>(&self, command: &[&str], files: &[&'p str]) -> Vec<&'p str> {
        let read = |_: &DiffId, extent: Extent| {
            let start = usize::try_from(extent.offset).unwrap();
            Ok(self.tar[start..start + usize::try_from(extent.len).unwrap()].to_vec())
        };
        let root = Root {
            tree: &self.tree,
            layers: &[self.layer],
            read: &read,
        };
        let start = Start {
            command: command
                .iter()
                .map(|word| word.as_bytes().to_vec())
                .collect(),
            directory: b"/app".to_vec(),
            ..Start::default()
        };
        let trace = static_set(&root, &start).unwrap();
        let touched = |path: &&&str| {
            let id = root.file(path.as_bytes()).unwrap();
            let places = root.places(
                id,
                Extent {
                    offset: 0,
                    len: u64::MAX >> 1,
                },
            );
            places.iter().any(|(_, _, tar)| {
                trace
                    .iter()
                    .any(|(_, extent)| !extent.intersect(tar).is_empty())
            })
        };
        files.iter().filter(touched).copied().collect()
    }
}

/// This test's program, and the libraries that ldd-like lookup on this machine finds for it.
fn program() -> (Vec<u8>, Vec<(PathBuf, Vec<u8>)>) {
    let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let file = |offset: u64, len: u64| {
        let start = usize::try_from(offset).unwrap().min(bytes.len());
        let end = start
            .saturating_add(usize::try_from(len).unwrap())
            .min(bytes.len());
        Ok(bytes[start..end].to_vec())
    };
    let elf = elf::read(&file).unwrap().unwrap();
    let triple = triple(elf.kind.machine).unwrap();
    let find = |name: &Vec<u8>| {
        let name = String::from_utf8(name.clone()).unwrap();
        let places = [format!("/lib/{triple}/{name}"), format!("/lib64/{name}")];
        let path = places
            .into_iter()
            .find(|path| Path::new(path).exists())
            .unwrap();
        (PathBuf::from(&path), std::fs::read(&path).unwrap())
    };
    let mut libraries: Vec<_> = elf.needed.iter().map(find).collect();
    let interpreter = String::from_utf8(elf.interpreter.unwrap()).unwrap();
    libraries.push((
        PathBuf::from(&interpreter),
        std::fs::read(&interpreter).unwrap(),
    ));
    libraries.sort();
    libraries.dedup();
    (bytes, libraries)
}

#[test]
fn a_program_brings_its_interpreter_and_libraries() {
    let (bytes, libraries) = program();
    let mut image = Image::new();
    image.file("/usr/bin/tool", &bytes);
    image.file("/etc/ld.so.cache", b"cache");
    image.file("/usr/lib/other.so", b"never");
    let mut files = vec!["/usr/bin/tool", "/etc/ld.so.cache", "/usr/lib/other.so"];
    for (path, bytes) in &libraries {
        image.file(path.to_str().unwrap(), bytes);
        files.push(path.to_str().unwrap());
    }
    let mut expected = files.clone();
    expected.remove(2);
    assert_eq!(image.closure(&["tool", "--flag"], &files), expected);
}

#[test]
fn scripts_bring_what_runs_them() {
    let mut image = Image::new();
    for (path, text) in [
        ("/app/start", "#!/usr/bin/env -S python3 -u\nprint()"),
        ("/usr/bin/env", "binary"),
        ("/usr/local/bin/python3.13", "#!/bin/real\n"),
        ("/bin/real", "binary"),
        ("/bin/unused", "binary"),
        ("/app/main.py", "print()"),
    ] {
        image.file(path, text.as_bytes());
    }
    image.link("/usr/bin/python3", "../local/bin/python3.13");
    let files = [
        "/app/start",
        "/usr/bin/env",
        "/usr/local/bin/python3.13",
        "/bin/real",
        "/bin/unused",
        "/app/main.py",
    ];
    let expected = [
        "/app/start",
        "/usr/bin/env",
        "/usr/local/bin/python3.13",
        "/bin/real",
    ];
    assert_eq!(image.closure(&["./start"], &files), expected);
    let with_file = [&expected[..], &["/app/main.py"]].concat();
    assert_eq!(
        image.closure(&["./start", "-x", "./main.py"], &files),
        with_file
    );
}

#[test]
fn hostile_starts_end() {
    let mut image = Image::new();
    image.file("/bin/self", b"#!/bin/self\n");
    image.file("/bin/a", b"#!/bin/b\n");
    image.file("/bin/b", b"#!/bin/a\n");
    image.file("/bin/bare", b"#!");
    image.file("/bin/elf", b"\x7fELF\x02\x01\x01");
    image.link("/bin/loop", "/bin/loop");
    image.link("/bin/out", "../../../../bin/self");
    let files = ["/bin/self", "/bin/a", "/bin/b", "/bin/bare", "/bin/elf"];
    assert_eq!(image.closure(&["self"], &files), ["/bin/self"]);
    assert_eq!(image.closure(&["a"], &files), ["/bin/a", "/bin/b"]);
    assert_eq!(
        image.closure(&["bare", "elf"], &files),
        ["/bin/bare", "/bin/elf"]
    );
    assert_eq!(image.closure(&["/bin/out"], &files), ["/bin/self"]);
    assert!(
        image
            .closure(&["loop", "", "/", "/bin", "nowhere"], &files)
            .is_empty()
    );
    assert!(image.closure(&[], &files).is_empty());
}
