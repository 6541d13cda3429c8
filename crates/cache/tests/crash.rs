//! A writer that is killed at any instant leaves nothing wrong.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{noise, scratch, store, stream, tar_of, verified};
use thaw_cache::{LayerTar, PresenceReader, Store};
use thaw_image::{BLOCK, DiffId, Digest, Extent};
use thaw_testkit::disk::Disk;

const SIZE: usize = (24 << 20) + 700;
const ROOT: &str = "THAW_TEST_CRASH_ROOT";
/// Is there when the writer begins to write.
const BEGUN: &str = "begun";

fn content() -> Vec<u8> {
    noise(21, SIZE)
}

fn id() -> DiffId {
    DiffId(Digest::of(&content()))
}

/// Not a test of its own: the process that `killed_writers_leave_nothing_wrong` kills.
#[test]
fn writer() {
    let Ok(root) = std::env::var(ROOT) else {
        return;
    };
    let store = store(Path::new(&root), 1);
    let content = content();
    let layer = store.layers().open(&id(), SIZE as u64).unwrap();
    fs::write(Path::new(&root).join(BEGUN), "").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            let (layer, content) = (&layer, &content);
            scope.spawn(move || write_for_ever(layer, content, thread));
        }
        loop {
            std::thread::sleep(Duration::from_millis(15));
            layer.sync().unwrap();
        }
    });
}

fn write_for_ever(layer: &LayerTar, content: &[u8], seed: u64) {
    let mut state = u64::from(std::process::id()) * 31 + seed;
    loop {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let at = usize::try_from(state >> 20).unwrap() % SIZE;
        let end = (at + usize::try_from(state >> 33).unwrap() % 30_000).min(SIZE);
        layer
            .write(at as u64, &verified(&content[at..end]))
            .unwrap();
    }
}

/// Checks every block whose bit is set; gives their number.
fn check(layer: &LayerTar, content: &[u8], holes_are_zero: bool) -> usize {
    let reader = PresenceReader::open(layer.presence_path()).unwrap();
    let mut bytes = vec![0; SIZE];
    layer.read_at(&mut bytes, 0).unwrap();
    let mut present = 0;
    for (number, (have, want)) in bytes.chunks(512).zip(content.chunks(512)).enumerate() {
        let block = Extent {
            offset: number as u64 * BLOCK,
            len: BLOCK,
        };
        assert_eq!(layer.contains(block), reader.contains(block).unwrap());
        if layer.contains(block) {
            present += 1;
            assert!(have == want, "block {number} has its bit set and is wrong");
        } else if holes_are_zero {
            assert!(
                have.iter().all(|byte| *byte == 0),
                "block {number} is no hole"
            );
        }
    }
    present
}

/// A writer that has begun.
fn start(root: &Path) -> Child {
    let begun = root.join(BEGUN);
    let _ = fs::remove_file(&begun);
    let writer = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--nocapture"])
        .env(ROOT, root)
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !begun.exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "it never begins");
        std::thread::sleep(Duration::from_millis(5));
    }
    writer
}

#[test]
fn killed_writers_leave_nothing_wrong() {
    let content = content();
    for round in 0..6u64 {
        let dir = scratch();
        let mut before = 0;
        for kill in 0..3u64 {
            let mut child = start(dir.path());
            std::thread::sleep(Duration::from_millis(60 + round * 37 + kill * 23));
            child.kill().unwrap();
            let status = child.wait().unwrap();
            assert_eq!(status.signal(), Some(9), "it failed by itself: {status}");
            let store = store(dir.path(), 1);
            let layer = store.layers().open(&id(), SIZE as u64).unwrap();
            let now = check(&layer, &content, false);
            assert!(now >= before, "{now} blocks after {before}");
            before = now;
        }
        assert!(
            before > 0,
            "the writers wrote nothing before they were killed"
        );
        let store = store(dir.path(), 2);
        let layer = store.layers().open(&id(), SIZE as u64).unwrap();
        let durable = check(&layer, &content, true);
        assert!(durable <= before, "{durable} of {before}");
    }
}

#[test]
fn a_power_cut_loses_what_was_not_synced_and_nothing_else() {
    let content = content();
    let (mut kept, mut lost) = (0, 0);
    for round in 0..6u64 {
        let disk = Disk::new(96 << 20).unwrap();
        let mut child = start(disk.root());
        std::thread::sleep(Duration::from_millis(100 + round * 37));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "it failed by itself: {status}");
        let after = disk.after_a_power_cut().unwrap();
        let before = store(disk.root(), 1);
        let before = before.layers().open(&id(), SIZE as u64).unwrap();
        let before = check(&before, &content, false);
        let store = store(after.root(), 2);
        let layer = store.layers().open(&id(), SIZE as u64).unwrap();
        let now = check(&layer, &content, true);
        assert!(now <= before, "{now} of {before}");
        (kept, lost) = (kept + now, lost + before - now);
        // It goes on as if nothing had been.
        layer.write(0, &verified(&content)).unwrap();
        layer.verify_whole(&|| true).unwrap();
        layer.sync().unwrap();
    }
    assert!(kept > 0, "nothing was ever synced");
    assert!(lost > 0, "no power was cut");
}

/// A layer as a full pull brings it.
fn pulled(store: &Store, tar: &[u8]) -> Arc<LayerTar> {
    let mut incoming = store.layers().incoming(&DiffId(Digest::of(tar))).unwrap();
    let proof = stream(tar, &mut incoming);
    incoming.commit(&proof).unwrap()
}

/// A tree of one file.
fn tree(store: &Store, content: &[u8]) -> Digest {
    let digest = Digest::of(content);
    let incoming = store.trees().incoming(&digest).unwrap();
    fs::write(incoming.dir().join("file"), content).unwrap();
    incoming.commit(content.len() as u64).unwrap();
    digest
}

/// The filesystem's journal takes names to the disk before the bytes of their files.
#[test]
fn what_has_its_name_after_a_power_cut_but_not_its_bytes_is_not_believed() {
    let disk = Disk::new(96 << 20).unwrap();
    let before = store(disk.root(), 1);
    let bytes: Vec<Vec<u8>> = (0..5).map(|seed| noise(seed, 300_000)).collect();
    let [put, settled, stashed, last, other] = [0, 1, 2, 3, 4].map(|i| Digest::of(&bytes[i]));
    let tars = [tar_of(5, 2_000_000), tar_of(6, 2_000_000)];

    // What each of these makes durable is so at once, with nothing behind it.
    let is_here = |what: &dyn Fn(&Store) -> bool| {
        let after = disk.after_a_power_cut().unwrap();
        what(&store(after.root(), 2))
    };
    let has_blob = |store: &Store, digest: &Digest, content: &Vec<u8>| {
        let blob = store.blobs().get(digest).unwrap();
        blob.as_ref() == Some(content)
    };
    before.blobs().put(&put, &bytes[0]).unwrap();
    assert!(is_here(&|store| has_blob(store, &put, &bytes[0])));
    before.blobs().stash(&settled, bytes[1].clone()).unwrap();
    before.blobs().settle().unwrap();
    assert!(is_here(&|store| has_blob(store, &settled, &bytes[1])));
    let durable = tree(&before, &bytes[1]);
    before.trees().settle().unwrap();
    let has_tree = |store: &Store| {
        let tree = store.trees().get(&durable);
        tree.is_some_and(|tree| fs::read(tree.dir().join("file")).unwrap() == bytes[1])
    };
    assert!(is_here(&has_tree));
    pulled(&before, &tars[0]).sync().unwrap();
    let layer_of = |store: &Store, tar: &[u8]| {
        let id = DiffId(Digest::of(tar));
        store.layers().open(&id, tar.len() as u64).unwrap()
    };
    let has_layer = |store: &Store| {
        let layer = layer_of(store, &tars[0]);
        let mut read = vec![0; tars[0].len()];
        layer.read_at(&mut read, 0).unwrap();
        layer.is_whole() && read == tars[0]
    };
    assert!(is_here(&has_layer));

    before.blobs().stash(&stashed, bytes[2].clone()).unwrap();
    let lost = tree(&before, &bytes[2]);
    drop(pulled(&before, &tars[1]));
    // This brings the names of all these to the disk.
    before.blobs().put(&last, &bytes[3]).unwrap();
    before.blobs().stash(&other, bytes[4].clone()).unwrap();

    let after = disk.after_a_power_cut().unwrap();
    let file = |name: String| fs::read(after.root().join(name));
    let blob = file(format!("blobs/{}", stashed.hex()));
    assert!(blob.unwrap() != bytes[2], "all of the blob was written");
    let part = file(format!("trees/{}/file", lost.hex()));
    assert!(part.unwrap() != bytes[2], "all of the tree was written");

    let store = store(after.root(), 2);
    for (digest, content) in [(put, &bytes[0]), (settled, &bytes[1]), (last, &bytes[3])] {
        assert!(has_blob(&store, &digest, content));
    }
    for digest in [stashed, other] {
        assert!(!store.blobs().contains(&digest), "{digest} is believed");
    }
    assert!(has_tree(&store) && has_layer(&store));
    assert!(store.trees().get(&lost).is_none());
    assert_eq!(layer_of(&store, &tars[1]).present_bytes(), 0);
    // It goes on as if nothing had been.
    store.blobs().stash(&stashed, bytes[2].clone()).unwrap();
    tree(&store, &bytes[2]);
    assert!(pulled(&store, &tars[1]).is_whole());
}
