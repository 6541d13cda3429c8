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

    fn read(&self, extent: Extent) -> io::Result<Vec<u8>> {
        let start = usize::try_from(extent.offset).unwrap();
        Ok(self.tar[start..start + usize::try_from(extent.len).unwrap()].to_vec())
    }

    /// What is left of so many steps when a program's closure has been found, and how many files it has.
    fn left(&self, program: &str, steps: u64) -> (u64, usize) {
        let read = |_: &DiffId, extent: Extent| self.read(extent);
        let root = Root {
            tree: &self.tree,
            layers: &[self.layer],
            read: &read,
        };
        let start = Start {
            command: vec![program.into()],
            ..Start::default()
        };
        let mut closure = Closure {
            steps,
            ..Closure::new(&root, &start)
        };
        closure.find().unwrap();
        (closure.steps, closure.seen.len())
    }

    /// The paths of `files` that the closure touches.
    fn closure<'p>(&self, command: &[&str], files: &[&'p str]) -> Vec<&'p str> {
        let read = |_: &DiffId, extent: Extent| self.read(extent);
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
            let id = root.file(path.as_bytes(), &mut u64::MAX.clone()).unwrap();
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

/// An object that needs these libraries and says where they are.
fn elf(needed: &[String], runpath: &str) -> Vec<u8> {
    const DYNAMIC: u64 = 0x100;
    let mut strings = vec![0];
    let mut string = |text: &str| {
        let at = strings.len() as u64;
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
        at
    };
    let mut dynamic = vec![(29, string(runpath))];
    dynamic.extend(needed.iter().map(|name| (1, string(name))));
    let place = DYNAMIC + 16 * (dynamic.len() as u64 + 3);
    dynamic.extend([(5, place), (10, strings.len() as u64), (0, 0)]);
    let end = place + strings.len() as u64;
    let mut bytes = vec![0; usize::try_from(DYNAMIC).unwrap()];
    let mut put = |at: usize, number: u64| {
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
    };
    put(0, u64::from_le_bytes(*b"\x7fELF\x02\x01\x01\0"));
    // Of x86-64, and two program headers: all is loaded, and what is dynamic.
    put(16, 3 | 62 << 16);
    put(32, 64);
    put(54, 56 | 2 << 16);
    for (at, kind, offset, len) in [(64, 1, 0, end), (120, 2, DYNAMIC, place - DYNAMIC)] {
        put(at, kind);
        put(at + 8, offset);
        put(at + 16, offset);
        put(at + 32, len);
    }
    for (tag, value) in dynamic {
        bytes.extend_from_slice(&u64::to_le_bytes(tag));
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.extend_from_slice(&strings);
    bytes
}

#[test]
fn every_name_that_is_looked_up_is_a_step() {
    let mut image = Image::new();
    image.file("/bin/tool", &elf(&["lib.so".to_owned()], "/none:/far/b"));
    image.file("/a/b/lib.so", &elf(&[], ""));
    image.link("/far", "/a");
    // The program two; where there is nothing one; then a link, what it says, and two names.
    let steps = 2 + 1 + 4;
    assert_eq!(image.left("/bin/tool", steps + 5), (5, 2));
    assert_eq!(image.left("/bin/tool", steps + 1), (1, 2));
    // The last step is none to go on with.
    assert_eq!(image.left("/bin/tool", steps), (0, 1));
    assert_eq!(image.left("/bin/tool", 1), (0, 0));
}

#[test]
fn libraries_that_are_nowhere_are_not_looked_for_for_ever() {
    let mut image = Image::new();
    let deep = "/x".repeat(100);
    image.file(&format!("{deep}/file"), b"");
    image.link("/far", &deep);
    let needed: Vec<String> = (0..256).map(|it| format!("lib{it}.so")).collect();
    image.file("/bin/tool", &elf(&needed, &"/far:".repeat(64)));
    assert_eq!(image.left("/bin/tool", MAX_STEPS), (0, 1));
}
