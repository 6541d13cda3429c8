//! Eviction, and disks that are full.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::double::Double;
use common::{Scene, noise, scratch, store, verified};
use thaw_cache::{FULL_PAUSE, RemoveError};
use thaw_image::{DiffId, Digest};

#[test]
fn the_longest_unused_goes_first_and_what_is_in_use_stays() {
    let dir = scratch();
    let store = store(dir.path(), 1);
    let layers = store.layers();
    let mut ids = Vec::new();
    for seed in 0..4 {
        let content = noise(seed, 1 << 20);
        let id = DiffId(Digest::of(&content));
        let layer = layers.open(&id, 8 << 20).unwrap();
        layer.write(0, &verified(&content)).unwrap();
        layer.sync().unwrap();
        ids.push(id);
        std::thread::sleep(Duration::from_millis(20));
    }
    let usage = layers.usage().unwrap();
    let order: Vec<_> = usage.iter().map(|usage| usage.layer).collect();
    assert_eq!(order, ids);
    for usage in &usage {
        assert!((1 << 20..2 << 20).contains(&usage.allocated), "{usage:?}");
        assert_eq!((usage.tar_size, usage.is_open), (8 << 20, false));
    }
    let total: u64 = usage.iter().map(|usage| usage.allocated).sum();
    assert_eq!(
        layers.plan_eviction(total, &HashSet::new()).unwrap().evict,
        []
    );

    let open = layers.open(&ids[0], 8 << 20).unwrap();
    let mounted = HashSet::from([ids[1]]);
    let plan = layers.plan_eviction(total - 1, &mounted).unwrap();
    let evicted: Vec<_> = plan.evict.iter().map(|usage| usage.layer).collect();
    assert_eq!(evicted, [ids[2]]);
    assert_eq!(layers.apply(&plan).unwrap(), plan.freed);
    assert_eq!(layers.list().unwrap().len(), 3);

    let all = layers.plan_eviction(0, &HashSet::new()).unwrap();
    assert_eq!(all.evict.len(), 2);
    let again = layers.open(&ids[1], 8 << 20).unwrap();
    layers.apply(&all).unwrap();
    assert_eq!(
        again.present_bytes(),
        1 << 20,
        "opened after the plan was made"
    );
    let error = layers.remove(&ids[0]).unwrap_err();
    assert!(matches!(error, RemoveError::InUse { .. }));
    drop(open);
    layers.remove(&ids[0]).unwrap();
    layers.remove(&ids[0]).unwrap();
    assert_eq!(layers.open(&ids[0], 8 << 20).unwrap().present_bytes(), 0);
}

/// A small filesystem of its own.
struct Disk {
    root: PathBuf,
    _dir: tempfile::TempDir,
}

fn run(program: &str, args: &[&Path]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{program}: {output:?} (this test needs root and ext4)"
    );
}

impl Disk {
    fn new(bytes: u64) -> Self {
        let dir = scratch();
        let image = dir.path().join("image");
        std::fs::File::create(&image)
            .unwrap()
            .set_len(bytes)
            .unwrap();
        let root = dir.path().join("mounted");
        std::fs::create_dir(&root).unwrap();
        run("mkfs.ext4", &[Path::new("-q"), &image]);
        run(
            "mount",
            &[Path::new("-o"), Path::new("loop"), &image, &root],
        );
        Self { root, _dir: dir }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.root).status();
    }
}

#[test]
fn a_full_disk_is_an_error_and_heals() {
    let disk = Disk::new(48 << 20);
    let dir = tempfile::Builder::new().tempdir_in(&disk.root).unwrap();
    let ballast = disk.root.join("ballast");
    std::fs::write(&ballast, noise(1, 8 << 20)).unwrap();
    let source = Double::new("only");
    let content = noise(11, 64 << 20);
    let scene = Scene::build(dir, content, 1 << 20, std::slice::from_ref(&source));
    let mut failure = None;
    for chunk in 0..64 {
        if let Err(error) = scene.demand(chunk << 20, 1 << 20) {
            failure = Some((chunk, error));
            break;
        }
    }
    let (chunk, error) = failure.unwrap();
    assert!((10..48).contains(&chunk), "{chunk}");
    assert_eq!(error.errno(), 28, "ENOSPC: {error}");
    scene.scan();
    let calls = source.calls();
    let refused = scene.demand(63 << 20, 1).unwrap_err();
    assert_eq!(refused.errno(), 28);
    assert_eq!(
        source.calls(),
        calls,
        "nothing is fetched that cannot be kept"
    );
    scene.demand(0, 1 << 20).unwrap();

    // Space comes back, and with it the layer, by itself.
    std::fs::remove_file(ballast).unwrap();
    std::thread::sleep(FULL_PAUSE + Duration::from_millis(200));
    scene.demand(63 << 20, 1).unwrap();
    scene.demand(chunk << 20, 1 << 20).unwrap();
    scene.scan();
    scene.layer.sync().unwrap();
}
