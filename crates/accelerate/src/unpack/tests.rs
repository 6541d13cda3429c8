//! Layers and corrections against the merge, by a small model of overlayfs; and layers as files.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write as _;

use proptest::prelude::*;
use thaw_erofs::{Attributes, Content, InodeId, Tree};
use thaw_image::{DiffId, Digest};
use thaw_layer::tar::{Entry, EntryKind, FileData, Timestamp};

use super::layer_tree::{LayerTree, is_whiteout};
use super::*;
use crate::merge::{self, Merger};

pub(super) fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Vec::new(),
    }
}

pub(super) fn file(path: &str) -> Entry {
    let data = FileData::Contiguous { tar_offset: 512 };
    entry(path, EntryKind::File { size: 512, data })
}

pub(super) fn symlink(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::Symlink(target.into()))
}

pub(super) fn hard(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::HardLink(target.into()))
}

/// Numbers the entries by their times, so that each can be told from all others.
fn number(layers: &mut [Vec<Entry>]) {
    let entries = layers.iter_mut().flatten();
    for (number, entry) in (1..).zip(entries) {
        entry.mtime.seconds = number;
    }
}

/// What is at a path: which inode, what it says, and what it is.
type Seen = BTreeMap<Vec<u8>, (usize, InodeId, Attributes, bool)>;

fn meant(tree: &Tree) -> Seen {
    let mut seen = Seen::new();
    let mut directories = vec![(tree.root(), Vec::new())];
    while let Some((directory, path)) = directories.pop() {
        let inode = tree.get(directory);
        seen.insert(path.clone(), (0, directory, inode.attributes.clone(), true));
        for (name, id) in tree.entries(directory).unwrap() {
            let path = [&path, b"/".as_slice(), name].concat();
            let inode = tree.get(*id);
            match &inode.content {
                Content::Directory(_) => directories.push((*id, path)),
                content if is_whiteout(content) => {}
                _ => drop(seen.insert(path, (0, *id, inode.attributes.clone(), false))),
            }
        }
    }
    seen
}

/// What overlayfs shows of trees, the uppermost first. Panics where a whiteout would be listed.
fn shown(stack: &[(&Tree, &HashSet<InodeId>)]) -> Seen {
    let mut seen = Seen::new();
    let roots = stack.iter().enumerate().map(|(n, it)| (n, it.0.root()));
    let mut directories = vec![(roots.collect::<Vec<_>>(), Vec::new())];
    while let Some((view, path)) = directories.pop() {
        let (top, id) = view[0];
        let attributes = stack[top].0.get(id).attributes.clone();
        seen.insert(path.clone(), (top, id, attributes, true));
        let of = |(n, id): &(usize, InodeId)| stack[*n].0.entries(*id).unwrap().keys().cloned();
        let names: HashSet<Vec<u8>> = view.iter().flat_map(of).collect();
        for name in names {
            let path = [&path, b"/".as_slice(), &name].concat();
            let found = |(n, id): &(usize, InodeId)| Some((*n, stack[*n].0.lookup(*id, &name)?));
            let found: Vec<(usize, InodeId)> = view.iter().filter_map(found).collect();
            let (top, first) = found[0];
            let inode = stack[top].0.get(first);
            if is_whiteout(&inode.content) {
                assert!(
                    view.len() > 1,
                    "{path:?} is listed though it cannot be seen"
                );
                continue;
            }
            if stack[top].0.entries(first).is_none() {
                seen.insert(path, (top, first, inode.attributes.clone(), false));
                continue;
            }
            let mut below = Vec::new();
            for (n, id) in found {
                if stack[n].0.entries(id).is_none() {
                    break;
                }
                below.push((n, id));
                if stack[n].1.contains(&id) {
                    break;
                }
            }
            directories.push((below, path));
        }
    }
    seen
}

/// The paths of files, parted by what is one inode.
fn groups(seen: &Seen) -> Vec<Vec<Vec<u8>>> {
    let mut groups: HashMap<(usize, InodeId), Vec<Vec<u8>>> = HashMap::new();
    for (path, (n, id, _, directory)) in seen {
        if !directory {
            groups.entry((*n, *id)).or_default().push(path.clone());
        }
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort();
    groups
}

/// Compares what layers mean with what their trees show under their correction. Says whether the
/// correction has anything; `None` where the image is refused.
fn check(mut layers: Vec<Vec<Entry>>) -> Option<bool> {
    number(&mut layers);
    let layer = |n: usize| merge::Layer {
        diff_id: DiffId(Digest::of(&n.to_le_bytes())),
        tar_size: 1 << 20,
    };
    let (budget, own) = (Budget::new(u64::MAX), Budget::new(u64::MAX));
    let listed: Vec<_> = (0..)
        .map(layer)
        .zip(layers.iter().map(Vec::as_slice))
        .collect();
    let correction = match Correction::find(&listed, &budget, &own) {
        Ok(correction) => correction,
        Err(PrepareError::Unpack(UnpackError::Hidden { .. })) => return None,
        Err(PrepareError::Layout(_)) => {
            let mut merger = Merger::new(&budget);
            let merged = listed
                .iter()
                .all(|(layer, entries)| merger.apply(layer, entries).is_ok());
            assert!(!merged, "the merge takes {layers:?}");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let mut merger = Merger::new(&budget);
    for (layer, entries) in &listed {
        merger.apply(layer, entries).unwrap();
    }
    let trees: Vec<LayerTree> = layers
        .iter()
        .rev()
        .map(|entries| layer_tree::Builder::build(entries, &own).unwrap())
        .collect();
    let none = HashSet::new();
    let mut stack = vec![(correction.tree(), &none)];
    stack.extend(trees.iter().map(|it| (&it.tree, &it.opaque)));
    let (meant, shown) = (meant(&merger.into_traced().tree), shown(&stack));
    let plain = |seen: &Seen| -> BTreeMap<Vec<u8>, (Attributes, bool)> {
        let entries = seen.iter();
        entries
            .map(|(path, it)| (path.clone(), (it.2.clone(), it.3)))
            .collect()
    };
    assert_eq!(plain(&shown), plain(&meant), "{layers:#?}");
    assert_eq!(groups(&shown), groups(&meant), "{layers:#?}");
    // The data of what the correction has is where it says.
    for (attributes, diff_id, path) in correction.copied() {
        let n = (0..layers.len())
            .find(|n| layer(*n).diff_id == diff_id)
            .unwrap();
        let tree = &trees[layers.len() - 1 - n].tree;
        let mut here = tree.root();
        for name in path.split(|byte| *byte == b'/') {
            here = tree.lookup(here, name).unwrap();
        }
        assert_eq!(&tree.get(here).attributes, attributes);
    }
    Some(!correction.is_empty())
}

fn dir(path: &str) -> Entry {
    entry(path, EntryKind::Directory)
}

#[test]
fn layers_that_say_all_need_no_correction() {
    let base = vec![
        dir("./"),
        dir("d"),
        file("d/x"),
        file("f"),
        symlink("l", "d"),
    ];
    let top = vec![
        dir("./"),
        dir("d"),
        file("d/y"),
        file("d/.wh.x"),
        file(".wh.f"),
    ];
    assert_eq!(check(vec![base.clone(), top]), Some(false));
    let opaque = vec![
        dir("./"),
        dir("d"),
        file("d/.wh..wh..opq"),
        hard("d/z", "d/z2"),
    ];
    assert_eq!(check(vec![base.clone(), opaque]), None);
    let replaced = vec![
        dir("./"),
        file("d"),
        dir("f"),
        file("f/x"),
        hard("g", "f/x"),
    ];
    assert_eq!(check(vec![base, replaced]), Some(false));
}

#[test]
fn what_depends_on_lower_layers_is_corrected() {
    let base = || {
        let d = Entry {
            mode: 0o700,
            ..dir("d")
        };
        vec![
            dir("./"),
            d,
            file("d/x"),
            file("f"),
            symlink("l", "d"),
            hard("h", "f"),
        ]
    };
    for top in [
        vec![dir("./"), file("d/y")],
        vec![dir("./"), file("d/.wh.x")],
        vec![dir("./"), file("l/y")],
        vec![dir("./"), file("l/.wh.x")],
        vec![dir("./"), file("l/.wh..wh..opq")],
        vec![dir("./"), hard("again", "f")],
        vec![dir("./"), hard("d/again", "h"), file(".wh.f")],
        vec![dir("./"), file("new/.wh.x")],
        vec![file(".wh..wh..opq")],
    ] {
        assert_eq!(check(vec![base(), top.clone()]), Some(true), "{top:?}");
    }
}

#[test]
fn a_file_that_its_layer_alone_has_no_place_for_is_refused() {
    let base = [dir("d"), dir("d/e"), symlink("m", "d/e")];
    let top = [symlink("s", "m/../f"), file("f"), file("s/x")];
    let layer = |n: u8| merge::Layer {
        diff_id: DiffId(Digest::of(&[n])),
        tar_size: 1 << 20,
    };
    let budget = Budget::new(1 << 20);
    let listed = [(layer(1), &base[..]), (layer(2), &top[..])];
    let error = Correction::find(&listed, &budget, &budget).unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("layer 2") && said.contains("cannot be started from directories"),
        "{said}"
    );
}

#[test]
fn a_file_that_is_copied_has_a_path_that_linux_takes() {
    let name = "x".repeat(255);
    let long = [name.as_str(); 15].join("/");
    // Of 3,839 bytes each, and the one below the other.
    let base = [
        symlink("l", &long),
        symlink("m", &format!("l/{long}")),
        file("l/near"),
        file("m/far"),
    ];
    let layer = |n: u8| merge::Layer {
        diff_id: DiffId(Digest::of(&[n])),
        tar_size: 1 << 20,
    };
    let find = |target: &str, own: u64| {
        let top = [hard("again", target)];
        let listed = [(layer(1), &base[..]), (layer(2), &top[..])];
        Correction::find(&listed, &Budget::new(1 << 20), &Budget::new(own))
    };
    assert_eq!(find("l/near", 1 << 20).unwrap().copied().count(), 1);
    let said = find("m/far", 1 << 20).unwrap_err().to_string();
    let wanted = "bad path: it has 7683 bytes, over the limit of 4096";
    assert!(
        said.starts_with("layer 1 (") && said.contains(wanted),
        "{said}"
    );
    // The path counts: with what suffices for all else it is too much.
    let limits = (0..1 << 20).step_by(256);
    let refused = |own: &u64| find("l/near", *own).map_err(|error| error.to_string());
    let last = limits.map(|own| refused(&own)).take_while(Result::is_err);
    let last = last.last().unwrap().unwrap_err();
    assert!(last.contains(&format!("entry `{}", &name[..160])), "{last}");
}

fn any_path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c", ".wh.a", ".wh.b", ".wh..wh..opq"]);
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let target = prop::sample::select(vec!["a", "b", "/a/b", "../b", "a/c", "b/./a", "."]);
    (0..7, any_path(), target).prop_map(|(kind, path, target)| match kind {
        0..=2 => file(&path),
        3 => Entry {
            mode: 0o700,
            ..dir(&path)
        },
        4 => symlink(&path, target),
        5 => hard(&path, target),
        _ => dir(&path),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20000))]

    #[test]
    fn what_is_shown_is_what_is_meant(
        layers in prop::collection::vec(prop::collection::vec(any_entry(), 0..7), 1..5)
    ) {
        check(layers);
    }
}

/// Writes a tar in pieces and unpacks it.
fn unpacked(tar: &[u8], piece: usize) -> (tempfile::TempDir, Result<u64, UnpackError>) {
    let dir = tempfile::tempdir().unwrap();
    let budget = Budget::new(1 << 20);
    let mut unpacker = Unpacker::new(dir.path(), &budget).unwrap();
    for piece in tar.chunks(piece) {
        unpacker.write_all(piece).unwrap();
    }
    let done = unpacker.finish();
    (dir, done)
}

#[test]
fn a_tar_is_unpacked_in_whatever_pieces_it_comes() {
    let content: Vec<u8> = (0..5000u32).flat_map(u32::to_be_bytes).collect();
    let mut builder = tar::Builder::new(Vec::new());
    for (path, len) in [
        ("d/one", 700),
        ("d/two", 0),
        ("three", 20_000),
        ("four", 512),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_size(len as u64);
        header.set_mode(0o640);
        header.set_mtime(1_000_000);
        header.set_cksum();
        builder
            .append_data(&mut header, path, &content[..len])
            .unwrap();
    }
    let tar = builder.into_inner().unwrap();
    for piece in [1, 100, 511, 512, 513, 70_000] {
        let (dir, done) = unpacked(&tar, piece);
        assert!(done.unwrap() > 20_000);
        let read = |path: &str| std::fs::read(dir.path().join("fs").join(path)).unwrap();
        assert!(read("d/one") == content[..700] && read("d/two").is_empty());
        assert!(
            read("three") == content && read("four") == content[..512],
            "{piece}"
        );
        assert!(!dir.path().join("stage").exists());
        // The headers are the tar, without its data.
        let mut headers = Headers::open(&dir.path().join("headers")).unwrap();
        assert_eq!(headers.tar_size(), tar.len() as u64);
        let mut without = Vec::new();
        std::io::Read::read_to_end(&mut headers, &mut without).unwrap();
        assert_eq!(without.len(), tar.len());
        let (again, done) = unpacked(&without, 4096);
        done.unwrap();
        let zeros = std::fs::read(again.path().join("fs/three")).unwrap();
        assert!(zeros.len() == 20_000 && zeros.iter().all(|byte| *byte == 0));
    }
}
