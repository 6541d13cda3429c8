//! A writer that is killed at any instant leaves nothing wrong.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use common::disk::Disk;
use common::{noise, scratch, store, verified};
use thaw_cache::{LayerTar, PresenceReader};
use thaw_image::{BLOCK, DiffId, Digest, Extent};

const SIZE: usize = (24 << 20) + 700;
const ROOT: &str = "THAW_TEST_CRASH_ROOT";

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

fn start(root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--nocapture"])
        .env(ROOT, root)
        .spawn()
        .unwrap()
}

#[test]
fn killed_writers_leave_nothing_wrong() {
    let content = content();
    for round in 0..6u64 {
        let dir = scratch();
        let mut before = 0;
        for kill in 0..3u64 {
            let mut child = start(dir.path());
            std::thread::sleep(Duration::from_millis(350 + round * 17 + kill * 11));
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
        let disk = Disk::new(96 << 20);
        let mut child = start(&disk.root);
        std::thread::sleep(Duration::from_millis(300 + round * 37));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "it failed by itself: {status}");
        let after = disk.after_a_power_cut();
        let before = store(&disk.root, 1);
        let before = before.layers().open(&id(), SIZE as u64).unwrap();
        let before = check(&before, &content, false);
        let store = store(&after.root, 2);
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
