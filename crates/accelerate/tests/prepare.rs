//! Images read once: the layout is the tree that other tools unpack, every chunk of every seek
//! table gives the tar's bytes, and images that lie are refused.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use common::{Here, Loaded, Memory, load};
use thaw_accelerate::{PrepareError, Prepared, fetch, prepare, unpack};
use thaw_erofs::{Attributes, Content, FileData, InodeId, Tree};
use thaw_image::{BLOCK, BlobSource, CodecState, DiffId, Digest, Silent};
use thaw_layer::Options;
use thaw_testkit::image::{Compression, Entry, Image, Layer, cases};
use thaw_testkit::tree::{Kind, Record, Snapshot};

fn options() -> Options {
    // Small enough that small layers have several chunks.
    Options {
        spacing: 64 << 10,
        ..Options::default()
    }
}

fn read(loaded: &Loaded, here: &Here) -> Result<Prepared, PrepareError> {
    prepare(&loaded.layers, &loaded.source, here, &options(), &Silent)
}

/// Decodes every chunk of every layer from the blob, and compares with the tar that was streamed.
/// Says how many chunks there were.
fn check_tables(loaded: &Loaded, here: &Here, prepared: &Prepared) -> usize {
    let tars = here.tars.lock().unwrap();
    let mut chunks = 0;
    for layer in &prepared.layers {
        let Ok(index) = &layer.index else { continue };
        let tar = &tars[&layer.layer.diff_id];
        assert_eq!(layer.tar_size, tar.len() as u64);
        let windows = std::fs::read(index.windows_file.path()).unwrap();
        assert_eq!(Digest::of(&windows), index.windows);
        let decoded = thaw_image::SeekTable::decode(&index.encoded).unwrap();
        assert_eq!(decoded, *index.table);
        for chunk in &index.table.chunks {
            let blob = loaded
                .source
                .read_at(&layer.layer.blob, chunk.blob, None)
                .unwrap();
            let window = match chunk.state {
                CodecState::Deflate { window, .. } if window.len > 0 => {
                    let start = usize::try_from(window.offset).unwrap();
                    Some(&windows[start..start + window.len as usize])
                }
                _ => None,
            };
            let bytes = thaw_layer::decode(index.table.format, chunk, &blob, window).unwrap();
            let start = usize::try_from(chunk.tar.offset).unwrap();
            assert!(bytes.bytes() == &tar[start..start + bytes.bytes().len()]);
            chunks += 1;
        }
    }
    chunks
}

/// What a mount of the layout would show.
fn snapshot(prepared: &Prepared, tars: &BTreeMap<DiffId, Vec<u8>>) -> Snapshot {
    let layout = &prepared.layout;
    let tree = thaw_erofs::Image::open(&layout.bytes)
        .unwrap()
        .to_tree()
        .unwrap();
    let mut devices: Vec<&[u8]> = Vec::new();
    for layer in &prepared.layers {
        devices.push(&tars[&layer.layer.diff_id]);
    }
    devices.extend(layout.generated.as_deref());
    let mut shown = Shown {
        tree: &tree,
        devices,
        records: BTreeMap::new(),
        names: BTreeMap::new(),
    };
    shown.visit(tree.root(), Vec::new());
    for names in shown.names.values().filter(|names| names.len() > 1) {
        for name in names {
            shown.records.get_mut(name).unwrap().link_of = names.iter().min().cloned();
        }
    }
    Snapshot(shown.records)
}

struct Shown<'a> {
    tree: &'a Tree,
    devices: Vec<&'a [u8]>,
    records: BTreeMap<Vec<u8>, Record>,
    names: BTreeMap<InodeId, Vec<Vec<u8>>>,
}

impl Shown<'_> {
    fn visit(&mut self, id: InodeId, path: Vec<u8>) {
        let inode = self.tree.get(id);
        let mut record = record(&inode.attributes);
        match &inode.content {
            Content::Directory(entries) => {
                for (name, child) in entries {
                    let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                    self.visit(*child, [&path, slash, name].concat());
                }
            }
            Content::File(data) => {
                let bytes = self.content(data);
                record = Record {
                    kind: Kind::File,
                    size: data.size,
                    content: Some(Digest::of(&bytes)),
                    ..record
                };
            }
            Content::Symlink(target) => {
                record = Record {
                    kind: Kind::Symlink,
                    target: Some(target.clone()),
                    ..record
                };
            }
            Content::CharDevice(number) => {
                record = Record {
                    kind: Kind::Char,
                    device: Some((number.major, number.minor)),
                    ..record
                };
            }
            Content::BlockDevice(number) => {
                record = Record {
                    kind: Kind::Block,
                    device: Some((number.major, number.minor)),
                    ..record
                };
            }
            Content::Fifo => record.kind = Kind::Fifo,
            Content::Socket => record.kind = Kind::Socket,
        }
        if record.kind != Kind::Directory {
            self.names.entry(id).or_default().push(path.clone());
        }
        self.records.insert(path, record);
    }

    fn content(&self, data: &FileData) -> Vec<u8> {
        let size = usize::try_from(data.size).unwrap();
        let mut bytes = vec![0; size];
        for extent in &data.extents {
            let device = self.devices[usize::from(extent.device) - 1];
            let from = usize::try_from(extent.device_block * BLOCK).unwrap();
            let to = usize::try_from(extent.file_block * BLOCK).unwrap();
            let len = usize::try_from(extent.blocks * BLOCK)
                .unwrap()
                .min(size - to);
            bytes[to..to + len].copy_from_slice(&device[from..from + len]);
        }
        bytes
    }
}

fn record(attributes: &Attributes) -> Record {
    Record {
        kind: Kind::Directory,
        mode: attributes.mode.into(),
        uid: attributes.uid,
        gid: attributes.gid,
        mtime: (
            attributes.mtime.seconds,
            attributes.mtime.nanoseconds.into(),
        ),
        size: 0,
        content: None,
        target: None,
        device: None,
        xattrs: attributes.xattrs.clone(),
        link_of: None,
    }
}

/// Directories that no entry describes: other tools give them the time of unpacking, here it is 0. Each is
/// listed.
fn forget_implied_times(name: &str, ours: &Snapshot, theirs: &mut Snapshot) {
    for (path, record) in &ours.0 {
        if record.kind == Kind::Directory
            && record.mtime == (0, 0)
            && let Some(other) = theirs.0.get_mut(path)
            && other.mtime != (0, 0)
        {
            let path = path.escape_ascii();
            println!("{name}, the judge's own clock: {path}: {:?}", other.mtime);
            other.mtime = (0, 0);
        }
    }
}

/// Differences that are the other tool's: case, path, in what, why.
const THEIRS: [(&str, &str, &str, &str); 1] = [(
    "names",
    "",
    "mtime",
    "umoci makes `implicit` after it has set the root's time, and does not set it again",
)];

#[test]
fn layouts_are_the_trees_that_other_tools_unpack() {
    let mut met: Vec<&(&str, &str, &str, &str)> = Vec::new();
    for case in cases::all() {
        let loaded = load(&case.image);
        let here = Here::new(true);
        let prepared =
            read(&loaded, &here).unwrap_or_else(|error| panic!("{}: {error:?}", case.name));
        assert!(check_tables(&loaded, &here, &prepared) > 0, "{}", case.name);
        let ours = snapshot(&prepared, &here.tars.lock().unwrap());
        let mut theirs = Snapshot::of(case.unpack(&loaded.layout).unwrap().root()).unwrap();
        forget_implied_times(case.name, &ours, &mut theirs);
        let mut differences = ours.diff(&theirs);
        differences.retain(|difference| {
            let known = THEIRS.iter().find(|known| {
                known.0 == case.name
                    && known.1.as_bytes() == difference.path
                    && known.2 == difference.what
            });
            met.extend(known);
            known.is_none()
        });
        let list = thaw_testkit::tree::list(&differences);
        assert!(differences.is_empty(), "{}: {list}", case.name);
    }
    assert_eq!(met.len(), THEIRS.len(), "a known difference is gone");
}

#[test]
fn the_same_image_gives_the_same_bytes_whether_tars_are_kept_or_not() {
    for case in cases::all()
        .into_iter()
        .filter(|case| case.name.contains("sparse"))
    {
        let loaded = load(&case.image);
        let (kept, gone) = (Here::new(true), Here::new(false));
        let (first, second) = (read(&loaded, &kept).unwrap(), read(&loaded, &gone).unwrap());
        assert!(
            first.layout.generated.is_some(),
            "{} copies nothing",
            case.name
        );
        assert_eq!(first.layout.bytes, second.layout.bytes);
        assert_eq!(first.layout.generated, second.layout.generated);
        let tables = |prepared: &Prepared| {
            let encoded = prepared
                .layers
                .iter()
                .map(|layer| layer.index.as_ref().unwrap().encoded.clone());
            encoded.collect::<Vec<_>>()
        };
        assert_eq!(tables(&first), tables(&second));
    }
}

#[test]
fn a_layer_is_read_once_however_often_it_is_listed() {
    let layer = || Layer::new([Entry::file("a", "1")]);
    let image = Image::new([layer(), Layer::new([Entry::whiteout("a")]), layer()]);
    let loaded = load(&image);
    let prepared = read(&loaded, &Here::new(false)).unwrap();
    assert_eq!(prepared.layers.len(), 3);
    assert_eq!(loaded.source.streams.load(Ordering::Relaxed), 2);
    let tree = thaw_erofs::Image::open(&prepared.layout.bytes)
        .unwrap()
        .to_tree()
        .unwrap();
    assert!(tree.lookup(tree.root(), b"a").is_some());
}

#[test]
fn many_layers_merge() {
    let layers =
        (0..128).map(|n| Layer::new([Entry::file(format!("f{n}"), "x"), Entry::file("same", [n])]));
    let loaded = load(&Image::new(layers));
    let here = Here::new(true);
    let prepared = read(&loaded, &here).unwrap();
    let shown = snapshot(&prepared, &here.tars.lock().unwrap());
    assert_eq!(shown.0.len(), 130);
    assert_eq!(
        shown.0[b"same".as_slice()].content,
        Some(Digest::of(&[127]))
    );
}

#[test]
fn a_zstd_layer_is_merged_and_said_to_have_no_table() {
    let zstd = Layer::new([Entry::file("z", "packed")]).compression(Compression::Zstd(3));
    let loaded = load(&Image::new([Layer::new([Entry::file("a", "1")]), zstd]));
    let here = Here::new(true);
    let prepared = read(&loaded, &here).unwrap();
    assert!(prepared.layers[0].index.is_ok());
    let reason = prepared.layers[1].index.as_ref().unwrap_err();
    assert!(reason.contains("zstd"), "{reason}");
    let shown = snapshot(&prepared, &here.tars.lock().unwrap());
    assert_eq!(
        shown.0[b"z".as_slice()].content,
        Some(Digest::of(b"packed"))
    );
}

/// The message of a failure, with all that is below it.
fn story(error: &dyn std::error::Error) -> String {
    let below = std::iter::successors(error.source(), |error| error.source());
    below.fold(error.to_string(), |story, error| {
        format!("{story}: {error}")
    })
}

#[test]
fn images_that_lie_are_refused_by_layer() {
    let image = || {
        let noise: Vec<u8> = (0..200_000u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect();
        load(&Image::new([
            Layer::new([Entry::file("a", "1")]),
            Layer::new([Entry::file("b", noise)]),
        ]))
    };
    type Lie = fn(&mut Loaded);
    fn damage(loaded: &mut Loaded, change: fn(&mut Vec<u8>)) {
        let mut blobs = loaded.source.blobs.lock().unwrap();
        change(blobs.get_mut(&loaded.layers[1].blob).unwrap());
    }
    let lies: [(&str, Lie, &str); 6] = [
        (
            "diffID",
            |l| l.layers[1].diff_id = DiffId(Digest::of(b"")),
            "configuration promises",
        ),
        ("size", |l| l.layers[1].size -= 1, "size"),
        ("larger size", |l| l.layers[1].size += 1, "size"),
        (
            "flipped bit",
            |l| damage(l, |blob| blob[5000] ^= 1),
            "damaged",
        ),
        ("cut", |l| damage(l, |blob| blob.truncate(9000)), ""),
        (
            "missing",
            |l| l.source.blobs.lock().unwrap().clear(),
            "no blob",
        ),
    ];
    for (name, lie, words) in lies {
        let mut loaded = image();
        lie(&mut loaded);
        let here = Here::new(true);
        let error = read(&loaded, &here).unwrap_err();
        let story = story(&error);
        assert!(
            story.starts_with("layer ") && story.contains(" of 2 (sha256:"),
            "{name}: {story}"
        );
        assert!(story.contains(words), "{name}: {story}");
        let second = loaded.layers[1].diff_id;
        assert!(
            !here.tars.lock().unwrap().contains_key(&second),
            "{name}: kept"
        );
        assert_eq!(here.scratch_files(), 0, "{name}: left files behind");
    }
}

/// By each way in which layers are read: for a layout, to be pulled, to be unpacked.
#[test]
fn a_bomb_is_refused() {
    let loaded = load(&Image::new([Layer::new([Entry::file(
        "zeros",
        vec![0; 8 << 20],
    )])]));
    let refused = |options: &Options, words: &str| {
        let (layers, source) = (&loaded.layers, &loaded.source);
        let here = Here::new(false);
        let errors = [
            prepare(layers, source, &here, options, &Silent).err(),
            fetch(layers, source, &here, options, &Silent).err(),
            unpack(layers, source, &here, options, &Silent).err(),
        ];
        for error in errors {
            let story = story(&error.unwrap());
            assert!(story.contains(words), "{story}");
        }
        assert!(here.tars.lock().unwrap().is_empty(), "something is kept");
    };
    let small = Options {
        max_tar_size: 1 << 20,
        ..options()
    };
    refused(&small, "more than 1048576 bytes");
    let dense = Options {
        max_ratio: 1,
        small_tar: 1 << 20,
        ..options()
    };
    refused(&dense, "a decompression bomb");
}

#[test]
fn an_image_that_takes_too_much_memory_is_refused_by_layer() {
    let refused = |layers: Vec<Layer>, max_memory| {
        let options = Options {
            max_memory,
            ..options()
        };
        let loaded = load(&Image::new(layers));
        let here = Here::new(false);
        let prepared = prepare(&loaded.layers, &loaded.source, &here, &options, &Silent);
        prepared.err().map(|error| story(&error))
    };
    let files = |first: usize| {
        Layer::new((first..first + 300).map(|number| Entry::file(format!("file-{number}"), "")))
    };
    // Each layer alone would do.
    assert_eq!(refused(vec![files(0)], 400_000), None);
    let all = refused((0..12).map(|layer| files(layer * 300)).collect(), 400_000).unwrap();
    assert!(
        all.starts_with("layer ") && all.contains(" of 12 (sha256:"),
        "{all}"
    );
    assert!(all.contains("neither be accelerated nor mounted"), "{all}");
    // Few entries that make many directories.
    let deep = |number: usize| Entry::file(format!("{number}{}/f", "/d".repeat(1000)), "");
    let story = refused(vec![files(0), Layer::new((0..5).map(deep))], 1 << 20).unwrap();
    assert!(
        story.contains("layer 2 (sha256:") && story.contains("entry `"),
        "{story}"
    );
    assert!(story.contains("more than 1048576 bytes"), "{story}");
    // A layout that is larger than all that it is made of: 512 KiB for the map of a file.
    let pieces = (0..2000u64).map(|n| (n * 16_384 + 512, vec![1; 512]));
    let sparse = Layer::new([Entry::sparse("sparse", 32 << 20, pieces.collect())]);
    assert_eq!(refused(vec![sparse.clone()], 1 << 20), None);
    let story = refused(vec![sparse], 700_000).unwrap();
    assert!(story.starts_with("the image's files"), "{story}");
}

#[test]
fn hostile_tars_are_refused_by_layer_and_path() {
    for (entry, words) in [
        (Entry::file("../../etc/passwd", "x"), "climbs"),
        (Entry::hard_link("a", "/etc/shadow"), "does not exist"),
        (Entry::file("a", "x").owner(1 << 33, 0), "uid"),
    ] {
        let loaded = load(&Image::new([
            Layer::new([Entry::file("ok", "")]),
            Layer::new([entry]),
        ]));
        let story = story(&read(&loaded, &Here::new(false)).unwrap_err());
        assert!(
            story.contains("layer 2 (sha256:") && story.contains(words),
            "{story}"
        );
    }
}

#[test]
fn a_cancelled_pass_ends() {
    let loaded = load(&Image::new([Layer::new([Entry::file(
        "a",
        vec![1; 1 << 20],
    )])]));
    let here = Here::new(false);
    here.cancel.store(true, Ordering::Relaxed);
    assert!(matches!(read(&loaded, &here), Err(PrepareError::Cancelled)));
}

#[test]
fn no_layers_make_an_empty_root() {
    let prepared = prepare(
        &[],
        &Memory::default(),
        &Here::new(false),
        &options(),
        &Silent,
    )
    .unwrap();
    let tree = thaw_erofs::Image::open(&prepared.layout.bytes)
        .unwrap()
        .to_tree()
        .unwrap();
    assert_eq!(tree.len(), 1);
}
