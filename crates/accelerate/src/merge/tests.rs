//! Every rule by a small case, and all together against a naive model.

use std::collections::BTreeMap;

use proptest::prelude::*;
use thaw_erofs::FileExtent;
use thaw_layer::tar::{Entry, EntryKind, FileData, Timestamp};

use super::*;

mod bounds;

fn entry(path: &str, kind: EntryKind) -> Entry {
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

/// A file of one block at block `at` of its tar.
fn file(path: &str, at: u64) -> Entry {
    let data = FileData::Contiguous {
        tar_offset: at * BLOCK,
    };
    entry(path, EntryKind::File { size: BLOCK, data })
}

fn dir(path: &str) -> Entry {
    Entry {
        mode: 0o700,
        ..entry(path, EntryKind::Directory)
    }
}

fn symlink(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::Symlink(target.into()))
}

fn hard(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::HardLink(target.into()))
}

fn node(path: &str, major: u32, minor: u32) -> Entry {
    entry(path, EntryKind::CharDevice { major, minor })
}

fn merge(layers: &[Vec<Entry>]) -> Result<Merged, MergeError> {
    let budget = Budget::new(u64::MAX);
    let mut merger = Merger::new(&budget);
    for (number, entries) in layers.iter().enumerate() {
        let diff_id = DiffId(Digest::of(&number.to_le_bytes()));
        merger.apply(
            &Layer {
                diff_id,
                tar_size: 1 << 20,
            },
            entries,
        )?;
    }
    merger.finish()
}

/// One line for each path: what a file reads is written as `slot:block`, a hard link as the first
/// path of its inode.
fn listing(merged: &Merged) -> Vec<String> {
    let mut lines = Vec::new();
    let mut first = BTreeMap::new();
    list(&merged.tree, merged.tree.root(), "", &mut first, &mut lines);
    lines
}

fn list(
    tree: &Tree,
    directory: InodeId,
    path: &str,
    first: &mut BTreeMap<InodeId, String>,
    lines: &mut Vec<String>,
) {
    for (name, id) in tree.entries(directory).unwrap() {
        let name = format!("{path}{}", String::from_utf8_lossy(name));
        let inode = tree.get(*id);
        if let Some(before) = first.get(id) {
            lines.push(format!("{name} = {before}"));
            continue;
        }
        first.insert(*id, name.clone());
        match &inode.content {
            Content::Directory(_) => {
                lines.push(format!("{name}/ {:o}", inode.attributes.mode));
                list(tree, *id, &format!("{name}/"), first, lines);
            }
            Content::File(data) => {
                let extents = data
                    .extents
                    .iter()
                    .map(|e| format!(" {}:{}", e.device, e.device_block));
                lines.push(format!("{name}{}", extents.collect::<String>()));
            }
            Content::Symlink(target) => {
                lines.push(format!("{name} -> {}", String::from_utf8_lossy(target)));
            }
            other => lines.push(format!("{name} {other:?}")),
        }
    }
}

#[track_caller]
fn holds(layers: &[Vec<Entry>], expected: &[&str]) -> Merged {
    let merged = merge(layers).unwrap();
    assert_eq!(listing(&merged), expected);
    merged
}

#[track_caller]
fn refused(layers: &[Vec<Entry>]) -> (usize, EntryError) {
    match merge(layers).unwrap_err() {
        MergeError::Entry { number, reason, .. } => (number, reason),
        other => panic!("{other}"),
    }
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let lower = || vec![file("a", 1), dir("d"), file("d/x", 2), file("d/y", 3)];
    holds(
        &[lower(), vec![file(".wh.a", 9), file("d/.wh.x", 9)]],
        &["d/ 700", "d/y 1:3"],
    );
    // Wherever the whiteout stands, the layer's own file is seen.
    let own = ["a 2:5", "d/ 700", "d/x 1:2", "d/y 1:3"];
    holds(&[lower(), vec![file(".wh.a", 9), file("a", 5)]], &own);
    holds(&[lower(), vec![file("a", 5), file(".wh.a", 9)]], &own);
    // A directory that is whited out and made again begins anew.
    let again = ["a 1:1", "d/ 755", "d/z 2:5"];
    holds(&[lower(), vec![file("d/z", 5), file(".wh.d", 9)]], &again);
    holds(&[lower(), vec![file(".wh.d", 9), file("d/z", 5)]], &again);
    // One of what is not there, or below what is not a directory, hides nothing.
    let all = ["a 1:1", "d/ 700", "d/x 1:2", "d/y 1:3"];
    holds(
        &[
            lower(),
            vec![file("a/.wh.b", 9), file("q/.wh.b", 9), file(".wh.q", 9)],
        ],
        &all,
    );
}

#[test]
fn opaque_directories_hide_lower_layers_only() {
    let lower = || vec![dir("d"), file("d/x", 2), dir("d/e"), file("d/e/y", 3)];
    let opaque = || file("d/.wh..wh..opq", 9);
    let own = ["d/ 700", "d/n 2:5"];
    holds(&[lower(), vec![opaque(), file("d/n", 5)]], &own);
    holds(&[lower(), vec![file("d/n", 5), opaque()]], &own);
    holds(&[lower(), vec![dir("d"), opaque(), file("d/n", 5)]], &own);
    holds(&[lower(), vec![file(".wh..wh..opq", 9)]], &[]);
    // Three layers: the middle one's files are lower for the third.
    holds(
        &[
            lower(),
            vec![file("d/n", 5)],
            vec![opaque(), file("d/m", 6)],
        ],
        &["d/ 700", "d/m 3:6"],
    );
}

#[test]
fn whiteout_names_are_never_seen() {
    let odd = vec![
        file(".wh..wh.plnk/1.2", 1),
        dir(".wh..wh.aufs"),
        file("d/.wh.x/y", 1),
    ];
    let merged = holds(&[odd], &[]);
    assert_eq!(merged.warnings.kept()[0].kind, WarningKind::BelowWhiteout);
    assert_eq!(
        refused(&[vec![file(".wh.", 1)]]).1,
        EntryError::Path(PathError::Whiteout)
    );
}

#[test]
fn parents_are_made_where_a_tar_lacks_them() {
    let merged = holds(
        &[vec![file("a/b/c", 1)]],
        &["a/ 755", "a/b/ 755", "a/b/c 1:1"],
    );
    let root = merged.tree.get(merged.tree.root());
    assert_eq!(root.attributes, implied());
    // A later entry describes them; another layer's implied parent changes nothing.
    holds(
        &[vec![file("a/b", 1), dir("a")], vec![file("a/c", 2)]],
        &["a/ 700", "a/b 1:1", "a/c 2:2"],
    );
}

#[test]
fn directories_take_new_attributes_and_keep_their_children() {
    let mut old = dir("d");
    old.xattrs = vec![(b"user.old".to_vec(), b"1".to_vec())];
    let mut new = Entry {
        mode: 0o1777,
        uid: 7,
        ..dir("./d/")
    };
    new.mtime = Timestamp {
        seconds: -5,
        nanoseconds: 3,
    };
    let merged = holds(
        &[vec![old, file("d/x", 1)], vec![new]],
        &["d/ 1777", "d/x 1:1"],
    );
    let id = merged.tree.lookup(merged.tree.root(), b"d").unwrap();
    let attributes = &merged.tree.get(id).attributes;
    assert_eq!(
        (
            attributes.uid,
            attributes.mtime.seconds,
            attributes.mtime.nanoseconds
        ),
        (7, -5, 3)
    );
    assert!(attributes.xattrs.is_empty());
}

#[test]
fn the_root_has_attributes_too() {
    let root = |path| Entry {
        mode: 0o555,
        gid: 4,
        ..dir(path)
    };
    for path in ["./", "/", ".", ".//."] {
        let merged = holds(&[vec![file("a", 1), root(path)]], &["a 1:1"]);
        let attributes = &merged.tree.get(merged.tree.root()).attributes;
        assert_eq!((attributes.mode, attributes.gid), (0o555, 4));
    }
    assert_eq!(refused(&[vec![file("./", 1)]]).1, EntryError::Root);
}

#[test]
fn what_changes_type_is_replaced() {
    let (f, d) = (|| file("a", 1), || vec![dir("a"), file("a/x", 2)]);
    holds(&[vec![f()], d()], &["a/ 700", "a/x 2:2"]);
    holds(&[d(), vec![f()]], &["a 2:1"]);
    holds(&[vec![f()], d(), vec![f()]], &["a 3:1"]);
    holds(&[d(), vec![f()], vec![dir("a")]], &["a/ 700"]);
    holds(&[d(), vec![symlink("a", "b")]], &["a -> b"]);
    holds(
        &[vec![symlink("a", "b"), dir("b")], vec![dir("a")]],
        &["a/ 700", "b/ 700"],
    );
    // The same within one tar: the last one holds, a directory twice is one.
    holds(&[vec![f(), file("a", 4)]], &["a 1:4"]);
    holds(&[[d(), vec![f()]].concat()], &["a 1:1"]);
    holds(&[[d(), vec![dir("a")]].concat()], &["a/ 700", "a/x 1:2"]);
}

#[test]
fn entries_below_what_is_no_directory() {
    // A lower layer's file gives way, as it would in an overlay; one's own is a contradiction.
    holds(
        &[vec![file("a", 1)], vec![file("a/x", 2)]],
        &["a/ 755", "a/x 2:2"],
    );
    let (layer, reason) = refused(&[vec![], vec![file("a", 1), file("a/x", 2)]]);
    assert_eq!(
        (layer, reason),
        (2, EntryError::NotDirectory(b"a".to_vec()))
    );
}

#[test]
fn hard_links_share_an_inode() {
    holds(
        &[vec![file("a", 1), hard("b", "a"), hard("c", "./b")]],
        &["a 1:1", "b = a", "c = a"],
    );
    // Across layers, and to a symbolic link or a device itself.
    holds(
        &[vec![file("d/a", 1)], vec![hard("b", "/d/a")]],
        &["b 1:1", "d/ 755", "d/a = b"],
    );
    holds(
        &[vec![symlink("a", "nowhere")], vec![hard("b", "a")]],
        &["a -> nowhere", "b = a"],
    );
    let (null, number) = (
        node("n", 1, 3),
        "CharDevice(DeviceNumber { major: 1, minor: 3 })",
    );
    holds(
        &[vec![null, hard("m", "n")]],
        &[&format!("m {number}"), "n = m"],
    );
    // Without one of its names the inode lives on under the others.
    let linked = || vec![file("a", 1), hard("b", "a")];
    holds(&[linked(), vec![file(".wh.a", 9)]], &["b 1:1"]);
    holds(&[linked(), vec![file("a", 4)]], &["a 2:4", "b 1:1"]);
    // A whiteout of the layer comes before its links.
    assert_eq!(
        refused(&[linked(), vec![hard("c", "a"), file(".wh.a", 9)]]),
        (2, EntryError::MissingTarget(b"a".to_vec()))
    );
}

#[test]
fn bad_hard_links_are_refused() {
    let reason = |entries: Vec<Entry>| refused(&[entries]).1;
    assert_eq!(
        reason(vec![hard("a", "b")]),
        EntryError::MissingTarget(b"b".to_vec())
    );
    assert_eq!(
        reason(vec![hard("a", "b"), file("b", 1)]),
        EntryError::MissingTarget(b"b".to_vec())
    );
    assert_eq!(
        reason(vec![file("a", 1), hard("a", "a")]),
        EntryError::MissingTarget(b"a".to_vec())
    );
    assert_eq!(
        reason(vec![dir("d"), hard("a", "d")]),
        EntryError::DirectoryTarget(b"d".to_vec())
    );
    assert_eq!(
        reason(vec![hard("a", "/")]),
        EntryError::DirectoryTarget(b"/".to_vec())
    );
    let target = b"../etc/shadow".to_vec();
    assert_eq!(
        reason(vec![hard("a", "../etc/shadow")]),
        EntryError::Target {
            target,
            reason: PathError::Climbs
        }
    );
    let message = merge(&[vec![], vec![hard("d/a", "b")]])
        .unwrap_err()
        .to_string();
    assert!(message.starts_with("layer 2 (sha256:"), "{message}");
    assert!(
        message.ends_with("entry `d/a`: hard link to `b`, which does not exist"),
        "{message}"
    );
}

#[test]
fn paths_lead_through_symbolic_links_within_the_root() {
    let usr = || {
        vec![
            dir("usr"),
            dir("usr/lib"),
            symlink("lib", "usr/lib"),
            file("usr/lib/old", 1),
        ]
    };
    let all = [
        "lib -> usr/lib",
        "usr/ 700",
        "usr/lib/ 700",
        "usr/lib/new 2:2",
        "usr/lib/old 1:1",
    ];
    holds(&[usr(), vec![file("lib/new", 2)]], &all);
    let gone = ["lib -> usr/lib", "usr/ 700", "usr/lib/ 700"];
    holds(&[usr(), vec![file("lib/.wh.old", 2)]], &gone);
    holds(&[usr(), vec![file("lib/.wh..wh..opq", 2)]], &gone);
    // The link itself is what a whiteout or an entry of its name means.
    holds(
        &[usr(), vec![file(".wh.lib", 2)]],
        &["usr/ 700", "usr/lib/ 700", "usr/lib/old 1:1"],
    );
    // Never out of the root, whatever the target; a dangling one is made.
    for target in [
        "/usr/lib",
        "../../../usr/lib",
        "./usr//lib/.",
        "usr/../usr/lib",
    ] {
        let layers = [vec![
            dir("usr"),
            dir("usr/lib"),
            symlink("l", target),
            file("l/x", 1),
        ]];
        holds(
            &layers,
            &[
                &format!("l -> {target}"),
                "usr/ 700",
                "usr/lib/ 700",
                "usr/lib/x 1:1",
            ],
        );
    }
    holds(
        &[vec![symlink("l", "/a/b"), file("l/x", 1)]],
        &["a/ 755", "a/b/ 755", "a/b/x 1:1", "l -> /a/b"],
    );
    let looped = vec![symlink("a", "b"), symlink("b", "a"), file("a/x", 1)];
    assert_eq!(refused(&[looped]).1, EntryError::Links);
}

#[test]
fn an_opaque_directory_in_the_place_of_a_link_spares_what_the_link_led_to() {
    let lower = vec![dir("usr"), file("usr/x", 1), symlink("lib", "usr")];
    let all = ["lib/ 700", "lib/y 2:2", "usr/ 700", "usr/x 1:1"];
    for order in [[0, 1, 2], [1, 0, 2]] {
        let upper = [dir("lib"), file("lib/.wh..wh..opq", 9), file("lib/y", 2)];
        let upper = order.iter().map(|n: &usize| upper[*n].clone()).collect();
        holds(&[lower.clone(), upper], &all);
    }
}

#[test]
fn hostile_entries_are_refused() {
    let reason = |entry: Entry| refused(&[vec![entry]]).1;
    assert_eq!(reason(file("../x", 1)), EntryError::Path(PathError::Climbs));
    assert_eq!(reason(file("", 1)), EntryError::Path(PathError::Empty));
    assert_eq!(reason(file("a\0", 1)), EntryError::Path(PathError::Nul));
    let name = "n".repeat(256);
    assert_eq!(
        reason(file(&name, 1)),
        EntryError::Path(PathError::LongName(256))
    );
    let through = vec![symlink("a", &name), file("a/x", 1)];
    assert_eq!(
        refused(&[through]).1,
        EntryError::Path(PathError::LongName(256))
    );
    let big = 1 << 32;
    assert_eq!(
        reason(Entry {
            uid: big,
            ..dir("d")
        }),
        EntryError::Id {
            what: "uid",
            id: big
        }
    );
    assert_eq!(
        reason(Entry {
            gid: big - 1,
            ..dir("d")
        }),
        EntryError::Id {
            what: "gid",
            id: big - 1
        }
    );
    assert_eq!(
        reason(node("n", 4096, 0)),
        EntryError::DeviceNumber {
            major: 4096,
            minor: 0
        }
    );
    assert_eq!(reason(file("f", 1 << 20)), EntryError::Outside);
    assert_eq!(
        reason(symlink("s", "")),
        EntryError::Target {
            target: Vec::new(),
            reason: PathError::Empty
        }
    );
    let mut heavy = dir("d");
    heavy.xattrs = vec![(b"user.a".to_vec(), vec![0; 65536])];
    assert_eq!(
        reason(heavy),
        EntryError::XattrSize {
            name: b"user.a".to_vec(),
            size: 65536
        }
    );
}

#[test]
fn depth_and_work_are_bounded() {
    let deep = "a/".repeat(2040);
    let far = vec![
        dir(&deep),
        symlink("s", &deep),
        dir(&format!("s/{}", "b/".repeat(20))),
    ];
    assert_eq!(refused(&[far]).1, EntryError::Deep);
    let many = (0..=MAX_LAYERS).map(|_| Vec::new()).collect::<Vec<_>>();
    assert!(matches!(merge(&many), Err(MergeError::Layers(1025))));
}

#[test]
fn what_an_overlay_would_not_show_is_left_out_with_a_warning() {
    let mut special = dir("d");
    special.xattrs = vec![
        (b"trusted.overlay.opaque".to_vec(), b"y".to_vec()),
        (b"nonsense".to_vec(), b"y".to_vec()),
        (b"user.kept".to_vec(), b"y".to_vec()),
    ];
    // The device hides the file all the same, and so do its other names.
    let layers = [
        vec![file("w", 1)],
        vec![special, node("w", 0, 0), hard("v", "w")],
    ];
    let merged = holds(&layers, &["d/ 700"]);
    let shown: Vec<_> = merged
        .warnings
        .kept()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        shown,
        [
            "layer 2, `d`: xattr `trusted.overlay.opaque` left out: overlayfs would obey it",
            "layer 2, `d`: xattr `nonsense` left out: Linux has no such namespace",
            "layer 2, `/v`: character device 0:0 left out: an overlay would not show it",
            "layer 2, `/w`: character device 0:0 left out: an overlay would not show it",
        ]
    );
    let id = merged.tree.lookup(merged.tree.root(), b"d").unwrap();
    assert_eq!(merged.tree.get(id).attributes.xattrs.len(), 1);
}

#[test]
fn sparse_files_that_are_replaced_generate_nothing() {
    let sparse = |path: &str| {
        let pieces = vec![tar::SparsePiece {
            file_offset: 5,
            tar_offset: 700,
            len: 10,
        }];
        entry(
            path,
            EntryKind::File {
                size: 4096,
                data: FileData::Sparse(pieces),
            },
        )
    };
    let merged = merge(&[vec![sparse("a"), sparse("b")], vec![file("a", 1)]]).unwrap();
    assert_eq!(listing(&merged), ["a 2:1", "b 3:0"]);
    let tar = Extent {
        offset: 700,
        len: 10,
    };
    assert_eq!(
        merged.generated.copies,
        [Copy {
            layer: 0,
            tar,
            to: 5
        }]
    );
}

/// What a path holds in the naive model.
#[derive(Clone, PartialEq, Debug)]
enum Thing {
    Dir,
    File(u64),
}

/// The specification, naively: a map of paths, changed entry by entry.
fn model(layers: &[Vec<Entry>]) -> BTreeMap<String, Thing> {
    let mut all: BTreeMap<String, Thing> = BTreeMap::new();
    let below = |path: &str, other: &str| other.starts_with(&format!("{path}/"));
    for (number, entries) in layers.iter().enumerate() {
        for entry in entries {
            let path = String::from_utf8(entry.path.clone()).unwrap();
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let join = |name: &str| {
                if parent.is_empty() {
                    name.into()
                } else {
                    format!("{parent}/{name}")
                }
            };
            if name == ".wh..wh..opq" {
                all.retain(|other, _| !(parent.is_empty() || below(parent, other)));
            } else if let Some(hidden) = name.strip_prefix(".wh.") {
                let hidden: String = join(hidden);
                all.retain(|other, _| *other != hidden && !below(&hidden, other));
            }
        }
        for entry in entries {
            let path = String::from_utf8(entry.path.clone()).unwrap();
            if path.contains(".wh.") {
                continue;
            }
            for (slash, _) in path.match_indices('/') {
                let parent = &path[..slash];
                if all.get(parent) != Some(&Thing::Dir) {
                    all.insert(parent.to_owned(), Thing::Dir);
                }
            }
            if let EntryKind::File {
                data: FileData::Contiguous { tar_offset },
                ..
            } = entry.kind
            {
                all.retain(|other, _| !below(&path, other));
                all.insert(
                    path,
                    Thing::File(((number as u64) << 32) | (tar_offset / BLOCK)),
                );
            } else {
                all.insert(path, Thing::Dir);
            }
        }
    }
    all
}

fn flat(tree: &Tree, directory: InodeId, path: &str, all: &mut BTreeMap<String, Thing>) {
    for (name, id) in tree.entries(directory).unwrap() {
        let path = format!("{path}{}", String::from_utf8_lossy(name));
        match &tree.get(*id).content {
            Content::File(data) => {
                let of = |e: &FileExtent| (u64::from(e.device - 1) << 32) | e.device_block;
                let place = data.extents.first().map_or(0, of);
                all.insert(path, Thing::File(place));
            }
            _ => {
                all.insert(path.clone(), Thing::Dir);
                if tree.entries(*id).is_some() {
                    flat(tree, *id, &format!("{path}/"), all);
                }
            }
        }
    }
}

/// Layers over few names, so that everything collides. A name ending in `f` is only ever a file
/// within one layer, others only directories: contradictions within a layer have their own test.
fn layers() -> impl Strategy<Value = Vec<Vec<Entry>>> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c")];
    let path = proptest::collection::vec(name, 1..4);
    let op = (path, 0u8..8, 1u64..2000).prop_map(|(path, kind, at)| {
        let path = path.join("/");
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let slash = if parent.is_empty() { "" } else { "/" };
        match kind {
            0 => file(&format!("{parent}{slash}.wh.{name}"), 0),
            1 => file(&format!("{path}/.wh..wh..opq"), 0),
            2 | 3 => dir(&path),
            _ => file(&path, at),
        }
    });
    let layer = proptest::collection::vec(op, 0..8).prop_map(|entries| {
        let files: Vec<String> = entries
            .iter()
            .filter(|entry| entry.kind != EntryKind::Directory)
            .map(|entry| String::from_utf8(entry.path.clone()).unwrap())
            .collect();
        let contradicts = |entry: &Entry| {
            let path = String::from_utf8(entry.path.clone()).unwrap();
            files
                .iter()
                .any(|file| path.starts_with(&format!("{file}/")))
        };
        entries
            .into_iter()
            .filter(|entry| !contradicts(entry))
            .collect()
    });
    proptest::collection::vec(layer, 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_model_agrees(layers in layers()) {
        let merged = merge(&layers).unwrap();
        let mut all = BTreeMap::new();
        flat(&merged.tree, merged.tree.root(), "", &mut all);
        prop_assert_eq!(all, model(&layers));
    }

    #[test]
    fn any_paths_are_merged_or_refused(
        paths in proptest::collection::vec(("[ab./]{0,9}(\\.wh\\.)?[ab./]{0,6}", 0u8..4, "[ab./]{0,6}"), 0..12),
    ) {
        let entries = paths.iter().map(|(path, kind, target)| match kind {
            0 => file(path, 1),
            1 => dir(path),
            2 => symlink(path, target),
            _ => hard(path, target),
        });
        let entries: Vec<_> = entries.collect();
        let (lower, upper) = entries.split_at(entries.len() / 2);
        if let Ok(merged) = merge(&[lower.to_vec(), upper.to_vec()]) {
            let mut all = BTreeMap::new();
            flat(&merged.tree, merged.tree.root(), "/", &mut all);
            prop_assert!(!all.keys().any(|path| path.contains("/.wh.")), "{all:?}");
        }
    }
}
