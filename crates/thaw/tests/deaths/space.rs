//! The cache is brought to its size under readers: with FUSE blocks go that can be read again, with
//! fanotify none does. Nobody reads a wrong byte, and nobody gets an error.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{Advice, fadvise};
use serde_json::Value;
use thaw_testkit::thaw::Thaw;

use super::{Scene, nothing_is_left, thaw};

by_every_transport!(blocks_are_given_back_under_readers);

/// Bytes that the layers take.
fn taken(node: &Thaw) -> u64 {
    let layers = fs::read_dir(node.root().join("layers")).unwrap();
    let tars = layers.map(|layer| layer.unwrap().path().join("tar"));
    tars.map(|tar| fs::metadata(tar).unwrap().blocks() * 512)
        .sum()
}

/// Has the next reads ask again.
fn drop_pages(scene: &Scene, node: &Thaw, inside: &Path) {
    let files = scene.files.keys().map(|name| inside.join(name));
    let devices = fs::read_dir(node.root().join("devices"));
    let devices = devices.into_iter().flatten();
    let devices = devices.map(|device| device.unwrap().path());
    for path in files.chain(devices) {
        // A device may be let go meanwhile.
        if let Ok(file) = fs::File::open(path) {
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        }
    }
}

/// Gives back what can be, and says how much that was.
fn trim(node: &Thaw) -> u64 {
    let told = node.run(["gc", "--cache-size", "1m", "--json"]).unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    let gone = told["removals"].as_array().unwrap().iter();
    gone.map(|removal| removal["bytes"].as_u64().unwrap()).sum()
}

/// A container whose layers have lost with FUSE what was read of them; `None` where they were checked
/// before that, and are whole: those lose nothing.
fn trimmed(scene: &Scene, transport: &str) -> Option<(Thaw, PathBuf)> {
    let node = thaw();
    let options = ["--net", "none", "--profile", "none", "--transport"];
    let options = [&options[..], &[transport]].concat();
    let inside = scene.start(&node, &options);
    assert_eq!(scene.read_all(&inside, &AtomicUsize::new(0)), 0);
    let before = taken(&node);
    let planned = node.run(["gc", "--cache-size", "1m", "--dry-run"]).unwrap();
    assert_eq!(taken(&node), before, "a plan takes nothing: {planned}");
    let gone = trim(&node);
    if transport == "fuse" {
        println!("{gone} of {before} bytes: {planned}");
        let all = planned.contains("it can be read again") && taken(&node) < before / 4;
        if !all {
            node.run(["rm", "-f", "box"]).unwrap();
        }
        return all.then_some((node, inside));
    }
    assert!(!planned.contains("layer sha256"), "{planned}");
    assert_eq!((gone, taken(&node)), (0, before));
    Some((node, inside))
}

fn blocks_are_given_back_under_readers(transport: &str) {
    let scene = Scene::new();
    let (node, inside) = (0..8)
        .find_map(|_| trimmed(&scene, transport))
        .expect("blocks that were given back");
    // Under readers, again and again.
    let done = AtomicBool::new(false);
    let (failed, progress) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..4 {
                failed.fetch_add(scene.read_all(&inside, &progress), Ordering::SeqCst);
                drop_pages(&scene, &node, &inside);
            }
            done.store(true, Ordering::SeqCst);
        });
        while !done.load(Ordering::SeqCst) {
            trim(&node);
        }
    });
    assert_eq!(failed.load(Ordering::SeqCst), 0, "reads that failed");
    node.run(["rm", "-f", "box"]).unwrap();
    nothing_is_left(&node);
}
