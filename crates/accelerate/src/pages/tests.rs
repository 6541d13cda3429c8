use thaw_erofs::{Attributes, Content, Device, FileData, Inode, Tree};
use thaw_image::{BlockRun, Digest, Frame};

use super::*;

/// Runs of blocks of 512 bytes: first, count, frame.
fn runs(all: &[(u64, u64, usize)]) -> Vec<Run> {
    let run = |&(first, count, frame)| Run {
        bytes: BlockRun { first, count }.extent(u64::MAX),
        frame,
    };
    disjoint(all.iter().map(run).collect())
}

/// The pages of a file of `size` bytes that lies in the layer from block 3 on.
fn pages(size: u64, all: &[(u64, u64, usize)]) -> Vec<(usize, Range<u64>)> {
    let piece = Piece {
        path: b"/a/file",
        size,
        offset: 0,
        layer: DiffId(Digest::of(b"layer")),
        bytes: Extent {
            offset: 3 * 512,
            len: size.next_multiple_of(512),
        },
    };
    let runs = runs(all);
    let pages = pages_of(&piece, &runs).into_iter();
    pages
        .map(|pages| {
            assert_eq!(&*pages.path, b"a/file");
            (pages.frame, pages.bytes)
        })
        .collect()
}

#[test]
fn only_whole_pages_are_read() {
    // Blocks of the file from its second on: its first page is not whole.
    assert_eq!(pages(40_960, &[(4, 20, 0)]), [(0, 4096..8192)]);
    assert_eq!(pages(40_960, &[(3, 7, 0)]), []);
    assert_eq!(pages(40_960, &[(3, 16, 0)]), [(0, 0..8192)]);
    assert_eq!(pages(40_960, &[(200, 16, 0)]), []);
}

#[test]
fn the_last_page_ends_where_the_file_does() {
    assert_eq!(pages(5000, &[(3, 10, 0)]), [(0, 0..5000)]);
    assert_eq!(pages(5000, &[(11, 2, 0)]), [(0, 4096..5000)]);
    assert_eq!(pages(5000, &[(12, 1, 0)]), []);
    // What follows in the layer is another file's.
    assert_eq!(pages(5000, &[(0, 100, 0)]), [(0, 0..5000)]);
}

#[test]
fn a_page_of_two_frames_belongs_to_the_later_one() {
    let cut = [(3, 12, 5), (15, 12, 2)];
    assert_eq!(
        pages(40_960, &cut),
        [(5, 0..4096), (5, 4096..8192), (2, 8192..12_288)]
    );
    let cut = [(3, 12, 2), (15, 12, 5)];
    assert_eq!(
        pages(40_960, &cut),
        [(2, 0..4096), (5, 4096..8192), (5, 8192..12_288)]
    );
    // A page of three.
    let cut = [(3, 2, 1), (5, 2, 9), (7, 12, 4)];
    assert_eq!(pages(40_960, &cut), [(9, 0..4096), (4, 4096..8192)]);
}

#[test]
fn a_page_with_a_gap_is_left_out() {
    let gap = [(3, 12, 0), (16, 11, 1)];
    assert_eq!(pages(40_960, &gap), [(0, 0..4096), (1, 8192..12_288)]);
}

#[test]
fn what_two_frames_have_in_common_is_read_once() {
    let common = [(3, 12, 0), (13, 14, 1)];
    assert_eq!(
        pages(40_960, &common),
        [(0, 0..4096), (1, 4096..8192), (1, 8192..12_288)]
    );
    // Whatever a set says, each block is read for one frame.
    let everywhere: Vec<_> = (0..100).map(|frame| (3, 80, frame)).collect();
    assert_eq!(pages(40_960, &everywhere), [(0, 0..40_960)]);
    let within = [(3, 80, 7), (10, 20, 1), (40, 2, 2)];
    assert_eq!(pages(40_960, &within), [(7, 0..40_960)]);
}

#[test]
fn what_is_no_layout_has_no_pages() {
    let set = WorkingSet {
        layers: Vec::new(),
        frames: Vec::new(),
    };
    assert_eq!(file_pages(b"no layout", &set), []);
}

/// The pages of files, each of a block of its own, by a working set that has all of them.
fn of_files(paths: &[String]) -> Vec<FilePages> {
    let layer = DiffId(Digest::of(b"layer"));
    let mut tree = Tree::new(Attributes::default());
    for (block, path) in (0..).zip(paths) {
        let mut at = tree.root();
        let (parents, name) = path.rsplit_once('/').unwrap();
        for parent in parents.split('/') {
            at = tree.lookup(at, parent.as_bytes()).unwrap_or_else(|| {
                let id = tree.add(Inode {
                    attributes: Attributes::default(),
                    content: Content::Directory(Default::default()),
                });
                tree.link(at, parent.as_bytes(), id).unwrap();
                id
            });
        }
        let id = tree.add(Inode {
            attributes: Attributes::default(),
            content: Content::File(FileData::contiguous(512, 1, block)),
        });
        tree.link(at, name.as_bytes(), id).unwrap();
    }
    let blocks = paths.len() as u64;
    let device = Device {
        tag: crate::layout::tag(&layer.0),
        blocks,
    };
    let mut layout = Vec::new();
    thaw_erofs::write(&tree, &[device], &mut layout).unwrap();
    let all = thaw_image::Run {
        layer: 0,
        blocks: BlockRun {
            first: 0,
            count: blocks,
        },
    };
    let frame = Frame {
        data: Extent::default(),
        digest: Digest::of(b"frame"),
        runs: vec![all],
    };
    let set = WorkingSet {
        layers: vec![(layer, blocks * 512)],
        frames: vec![frame],
    };
    file_pages(&layout, &set)
}

#[test]
fn paths_are_bounded() {
    let long = ["x".repeat(250).as_str(); 15].join("/");
    let deep = format!("{long}/{long}/file");
    let found = of_files(&["a/file".to_owned(), deep]);
    let paths: Vec<_> = found.iter().map(|pages| &*pages.path).collect();
    assert_eq!(paths, [b"a/file"]);
    let many: Vec<String> = (0..20_000).map(|it| format!("{long}/{it}")).collect();
    let bytes: usize = of_files(&many).iter().map(|pages| pages.path.len()).sum();
    assert!((MAX_PATHS..MAX_PATHS + 4096).contains(&bytes), "{bytes}");
}
