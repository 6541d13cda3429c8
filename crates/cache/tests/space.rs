//! Eviction, and disks that are full.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::time::Duration;

use common::double::Double;
use common::{Scene, noise, scratch, store, verified};
use thaw_cache::{FULL_PAUSE, RemoveError, TarError};
use thaw_image::{BlockRun, DiffId, Digest};
use thaw_testkit::disk::Disk;

#[test]
fn what_is_in_use_stays_and_what_is_not_goes() {
    let dir = scratch();
    let store = store(dir.path(), 1);
    let layers = store.layers();
    let content = noise(1, 1 << 20);
    let id = DiffId(Digest::of(&content));
    let open = layers.open(&id, 8 << 20).unwrap();
    open.write(0, &verified(&content)).unwrap();
    open.sync().unwrap();
    let usage = layers.usage_of(id).unwrap();
    assert!((1 << 20..2 << 20).contains(&usage.allocated), "{usage:?}");
    assert_eq!((usage.tar_size, usage.is_open), (8 << 20, true));
    let error = layers.remove(&id).unwrap_err();
    assert!(matches!(error, RemoveError::InUse { .. }));
    drop(open);
    assert_eq!(layers.usage().unwrap().len(), 1);
    layers.remove(&id).unwrap();
    layers.remove(&id).unwrap();
    assert_eq!(layers.usage_of(id).unwrap().allocated, 0);
    assert_eq!(layers.open(&id, 8 << 20).unwrap().present_bytes(), 0);
}

#[test]
fn a_layer_of_which_nothing_is_known_does_not_pass_for_one_in_use() {
    let dir = scratch();
    let store = store(dir.path(), 1);
    let (id, _) = whole(&store);
    let layers = store.layers();
    let path = layers.open(&id, 1 << 20).unwrap().path().to_owned();
    std::fs::remove_file(path.with_file_name("presence")).unwrap();
    let alone = |is_alone| {
        move |_: &std::fs::File, punch: &mut dyn FnMut()| {
            punch();
            Ok(is_alone)
        }
    };
    let before = allocated(&store, &id);
    assert_eq!(layers.shrink(&id, &[], alone(false)).unwrap(), None);
    assert_eq!(layers.shrink(&id, &[], alone(true)).unwrap(), Some(0));
    assert_eq!(allocated(&store, &id), before);
    std::fs::remove_file(path).unwrap();
    assert_eq!(layers.shrink(&id, &[], alone(false)).unwrap(), Some(0));
}

#[test]
fn a_full_disk_is_an_error_and_heals() {
    let disk = Disk::new(48 << 20).unwrap();
    let dir = tempfile::Builder::new().tempdir_in(disk.root()).unwrap();
    let ballast = disk.root().join("ballast");
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

/// A layer of 1 MiB that is whole, and its bytes.
fn whole(store: &thaw_cache::Store) -> (DiffId, Vec<u8>) {
    let content = noise(21, 1 << 20);
    let id = DiffId(Digest::of(&content));
    let layer = store.layers().open(&id, 1 << 20).unwrap();
    layer.write(0, &verified(&content)).unwrap();
    layer.verify_whole(&|| true).unwrap();
    layer.sync().unwrap();
    (id, content)
}

fn allocated(store: &thaw_cache::Store, id: &DiffId) -> u64 {
    let usage = store.layers().usage().unwrap();
    usage.iter().find(|it| it.layer == *id).unwrap().allocated
}

fn run_of(first: u64, count: u64) -> BlockRun {
    BlockRun { first, count }
}

#[test]
fn a_layer_keeps_some_blocks_and_gives_the_others_back() {
    let dir = scratch();
    let store = store(dir.path(), 1);
    let (id, content) = whole(&store);
    let layers = store.layers();
    let keep = [run_of(3, 2), run_of(100, 40)];
    let alone = |_: &std::fs::File, punch: &mut dyn FnMut()| {
        punch();
        Ok(true)
    };
    let before = allocated(&store, &id);
    let freed = layers.shrink(&id, &keep, alone).unwrap().unwrap();
    assert_eq!(before - allocated(&store, &id), freed);
    assert!(freed > 900 << 10, "{freed}");

    // Now, in another process of this boot, and after the machine went down.
    for number in [1, 1, 2] {
        let store = common::store(dir.path(), number);
        let layer = store.layers().open(&id, 1 << 20).unwrap();
        assert!(!layer.is_whole());
        let mut bytes = vec![0; 40 * 512];
        assert!(layer.read_present(&mut bytes, 100 * 512).unwrap());
        assert_eq!(bytes, content[100 * 512..140 * 512]);
        assert!(!layer.read_present(&mut bytes, 200 * 512).unwrap());
        // Whole pages around the blocks that are kept.
        assert_eq!(layer.present_bytes(), (8 + 48) * 512);
        assert_eq!(layer.spare(&keep), []);
    }
    // What went can come again.
    let layer = layers.open(&id, 1 << 20).unwrap();
    layer.write(0, &verified(&content)).unwrap();
    layer.verify_whole(&|| true).unwrap();
}

#[test]
fn what_somebody_uses_gives_nothing_back() {
    let dir = scratch();
    let store = store(dir.path(), 1);
    let (id, _) = whole(&store);
    let layers = store.layers();
    let before = allocated(&store, &id);
    let open = layers.open(&id, 1 << 20).unwrap();
    let refused = layers.shrink(&id, &[], |_, punch| {
        punch();
        Ok(true)
    });
    assert!(matches!(refused, Err(RemoveError::InUse { .. })));
    drop(open);
    // Somebody else has it open: what would punch is not called.
    assert_eq!(layers.shrink(&id, &[], |_, _| Ok(false)).unwrap(), None);
    assert_eq!(allocated(&store, &id), before);
    let layer = layers.open(&id, 1 << 20).unwrap();
    assert_eq!(layer.present_bytes(), 1 << 20);
}

#[test]
fn blocks_stay_taken_until_their_readers_are_done() {
    let dir = scratch();
    let store = store(dir.path(), 1);
    let (id, content) = whole(&store);
    let layer = store.layers().open(&id, 1 << 20).unwrap();
    let spare = layer.spare(&[]);
    assert_eq!(spare, [run_of(0, 2048)]);
    let punched = layer.punch(&spare, || {
        // Who looks now does not find them; who found them before still has them.
        assert_eq!(layer.present_bytes(), 0);
        let mut bytes = vec![0; 1 << 20];
        layer.read_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, content);
        Ok::<_, TarError>(())
    });
    assert!(punched.unwrap().unwrap() >= 1 << 20);
    let failed = layer.punch(&[], || Err(TarError::Stopped { diff_id: id }));
    assert!(failed.is_err());
}
