//! Any tars are layers of an image, or refused. What they are together can be written as a layout and
//! read again, and lies in the tars; and each becomes a directory that has nothing outside of it.

#[path = "../../../layer/fuzz/targets/repair.rs"]
mod repair;

use std::fs;
use std::io::Write;
use std::path::Path;

use repair::repair;
use thaw_accelerate::merge::{Layer, Merged, Merger};
use thaw_accelerate::{Budget, FILES, HEADERS, Unpacker};
use thaw_erofs::{BLOCK, Content, Image, InodeId, Tree};
use thaw_image::{DiffId, Digest};
use thaw_layer::tar::{Entry, Scanner};

/// Most layers of an input.
const MAX_LAYERS: usize = 4;
const MEMORY: u64 = 16 << 20;

/// Cuts an input behind each pair of zero blocks, which is the end of a tar.
fn tars(bytes: &[u8]) -> Vec<&[u8]> {
    let (mut tars, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() && tars.len() < MAX_LAYERS {
        let end = |at: &usize| rest[*at..*at + 1024].iter().all(|byte| *byte == 0);
        let blocks = (0..rest.len().saturating_sub(1023)).step_by(512);
        let cut = blocks
            .into_iter()
            .find(end)
            .map_or(rest.len(), |at| at + 1024);
        let (tar, behind) = rest.split_at(cut);
        tars.push(tar);
        rest = behind;
    }
    tars
}

fn scan(tar: &[u8]) -> Option<Vec<Entry>> {
    let budget = Budget::new(MEMORY);
    let mut scanner = Scanner::new(&budget);
    scanner.push(tar).ok()?;
    Some(scanner.finish().ok()?.to_vec())
}

/// Every inode that has a name.
fn inodes(tree: &Tree) -> Vec<InodeId> {
    let (mut found, mut at) = (vec![tree.root()], 0);
    while let Some(id) = found.get(at) {
        let children: Vec<InodeId> = tree
            .entries(*id)
            .into_iter()
            .flatten()
            .map(|it| *it.1)
            .collect();
        found.extend(children);
        at += 1;
    }
    found
}

fn merge(layers: &[(Layer, Vec<Entry>)]) {
    let budget = Budget::new(MEMORY);
    let mut merger = Merger::new(&budget);
    for (layer, entries) in layers {
        if merger.apply(layer, entries).is_err() {
            return;
        }
    }
    let Ok(Merged {
        tree,
        mut devices,
        generated,
        ..
    }) = merger.finish()
    else {
        return;
    };
    assert_eq!(generated.size % BLOCK, 0);
    for copy in &generated.copies {
        let (layer, _) = &layers[copy.layer];
        assert!(copy.tar.end() <= layer.tar_size && copy.to + copy.tar.len <= generated.size);
    }
    devices.push(thaw_erofs::Device {
        tag: [0; 64],
        blocks: generated.size / BLOCK,
    });
    for id in inodes(&tree) {
        let Content::File(data) = &tree.get(id).content else {
            continue;
        };
        for extent in &data.extents {
            let device = &devices[usize::from(extent.device) - 1];
            assert!(extent.device_block + extent.blocks <= device.blocks);
        }
    }
    let mut layout = Vec::new();
    if thaw_erofs::write(&tree, &devices, &mut layout).is_err() {
        return;
    }
    let image = Image::open(&layout).expect("what was written can be read");
    let again = image.to_tree().expect("what was written is a tree");
    assert_eq!(inodes(&again).len(), inodes(&tree).len());
}

/// The names in a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("it is there");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("it is listed").file_name();
    let mut names: Vec<String> = entries
        .map(|it| name(it).to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Unpacks a layer between a directory and a file that it must not reach, by whatever name.
fn unpack(tar: &[u8]) {
    let place = tempfile::tempdir().expect("a directory");
    let [layer, outside] = ["layer", "outside"].map(|name| place.path().join(name));
    fs::create_dir(&layer).expect("a directory in it");
    fs::create_dir(&outside).expect("a directory in it");
    fs::write(outside.join("kept"), "kept").expect("a file in it");
    let budget = Budget::new(MEMORY);
    let mut unpacker = Unpacker::new(&layer, &budget).expect("room");
    // What the filesystem cannot hold is refused at the end, or here.
    if unpacker.write_all(tar).is_ok() && unpacker.finish().is_ok() {
        assert_eq!(names(&layer), [FILES, HEADERS]);
    }
    assert_eq!(names(place.path()), ["layer", "outside"]);
    assert_eq!(names(&outside), ["kept"]);
    assert_eq!(
        fs::read(outside.join("kept")).expect("still there"),
        b"kept"
    );
}

pub(crate) fn run(data: &[u8]) {
    let bytes = repair(data);
    let tars = tars(&bytes);
    for tar in &tars {
        unpack(tar);
    }
    let layer = |tar: &&[u8]| {
        let (diff_id, tar_size) = (DiffId(Digest::of(tar)), tar.len() as u64);
        Some((Layer { diff_id, tar_size }, scan(tar)?))
    };
    if let Some(layers) = tars.iter().map(layer).collect::<Option<Vec<_>>>() {
        merge(&layers);
    }
}
