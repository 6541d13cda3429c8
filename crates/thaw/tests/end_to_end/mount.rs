//! Mounted trees, held against another tool's unpacking.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use thaw_testkit::image::{Compression, Layout, cases, real};
use thaw_testkit::registry::Registry;
use thaw_testkit::thaw::Thaw;
use thaw_testkit::tree::Snapshot;
use thaw_testkit::{scratch, unpack};

use crate::fetching::tables;
use crate::support::{Scene, image, json, kill_daemon, refused, target, thaw};

#[test]
fn every_merge_rule_is_kept_lazily_in_full_and_from_directories() {
    let registry = Registry::start().unwrap();
    let began = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    for case in cases::all() {
        let directory = scratch::directory().unwrap();
        let layout = case
            .image
            .write(&directory.path().join("layout"), "latest")
            .unwrap();
        let image = layout
            .push(&registry, &format!("cases:{}", case.name))
            .unwrap();
        let judge = case.unpack(&layout).unwrap();
        let expected = Snapshot::of(judge.root()).unwrap();
        thaw().run(["accelerate", &image]).unwrap();
        compare(case.name, &image, directory.path(), &expected, began);
    }
}

/// Mounts the image lazily by each transport, in full, and from directories, and compares every path with what the
/// judge unpacked.
fn compare(name: &str, image: &str, scratch: &Path, expected: &Snapshot, began: u64) {
    let ways = [
        ("lazy", "fanotify"),
        ("lazy", "fuse"),
        ("full", "auto"),
        ("full", "directories"),
    ];
    for (way, transport) in ways {
        let node = thaw();
        let target = scratch.join(format!("{way}-{transport}"));
        fs::create_dir(&target).unwrap();
        let target = target.to_str().unwrap();
        let options = ["mount", "--json", "--pull", way, "--transport", transport];
        let said = node.run(options.into_iter().chain([image, target]));
        let said = said.unwrap();
        assert_eq!(json(&said)["way"]["how"], *way, "{name}: {said}");
        let mut differences = Snapshot::of(Path::new(target)).unwrap().diff(expected);
        // Where a tar gives a directory no time, or a later entry changes what is in it, the
        // judge leaves the time at which it wrote: it is listed, and everything else counts.
        differences.retain(|difference| {
            let clock = difference.what == "mtime" && seconds(&difference.right) >= began;
            if clock {
                println!("{name}, the judge's own clock: {difference}");
            }
            !clock
        });
        assert!(
            differences.is_empty(),
            "{name} mounted {way} by {transport} differs:\n{}",
            thaw_testkit::tree::list(&differences)
        );
        unmount(&node, target);
    }
}

/// Unmounts, when the files are closed that a process of another test has of ours between its fork
/// and its exec.
fn unmount(node: &Thaw, target: &str) {
    let began = Instant::now();
    while let Err(error) = node.run(["unmount", target]) {
        assert!(began.elapsed() < Duration::from_secs(5), "{error}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whole seconds of a time as a difference shows it.
fn seconds(time: &str) -> u64 {
    time.split('.')
        .next()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(0)
}

#[test]
fn a_real_image_is_what_another_tool_unpacks() {
    let layout = real::web_service(&real::cache_directory()).unwrap();
    is_what_another_tool_unpacks("web", &layout, 3000);
}

#[test]
#[ignore = "two minutes and many gigabytes, and it fetches TensorFlow: by hand, where what mounts show has changed"]
fn a_large_real_image_is_what_another_tool_unpacks() {
    let layout = real::machine_learning(&real::cache_directory()).unwrap();
    is_what_another_tool_unpacks("ml", &layout, 20_000);
}

/// An image of at least so many paths.
fn is_what_another_tool_unpacks(name: &str, layout: &Layout, paths: usize) {
    let registry = Registry::start().unwrap();
    let image = layout.push(&registry, &format!("{name}:1")).unwrap();
    let began = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let judge = unpack::umoci(layout).unwrap();
    let expected = Snapshot::of(judge.root()).unwrap();
    assert!(expected.0.len() > paths, "{} paths", expected.0.len());
    let done = json(&thaw().run(["accelerate", "--json", &image]).unwrap())[0].clone();
    let layers = layout.manifest().unwrap()["layers"]
        .as_array()
        .unwrap()
        .len();
    index_is_small(&registry, layers, &done);
    let directory = scratch::directory().unwrap();
    compare(name, &image, directory.path(), &expected, began);
}

/// All of an acceleration but its working sets is small, and a fault inflates little.
fn index_is_small(registry: &Registry, layers: usize, done: &serde_json::Value) {
    let acceleration = done["acceleration"].as_str().unwrap().parse().unwrap();
    let manifest = fs::read_to_string(registry.blob(&acceleration)).unwrap();
    let parts = json(&manifest)["layers"].as_array().unwrap().clone();
    let parts = parts.iter().map(|part| part["size"].as_u64().unwrap());
    let index = parts.sum::<u64>() + manifest.len() as u64;
    let compressed = done["compressed"].as_u64().unwrap();
    println!("index: {index} of {compressed} bytes");
    assert!(index * 100 <= compressed * 3, "{index} of {compressed}");
    let tables = tables(registry, &acceleration);
    assert_eq!(tables.len(), layers, "every layer has one");
    for chunks in tables.iter().map(|table| &table.chunks) {
        // What a page of 4 KiB may lie in: one chunk, or two neighbours.
        let len = |number: usize| chunks.get(number).map_or(0, |chunk| chunk.tar.len);
        let most = (0..chunks.len()).map(|number| len(number) + len(number + 1));
        let most = most.max().unwrap();
        println!("a fault inflates {most} bytes at most");
        assert!(most <= (1 << 20) + (128 << 10), "{most}");
    }
}

#[test]
fn a_layer_of_another_format_is_fetched_whole_and_said_so() {
    let registry = Registry::start().unwrap();
    let directory = scratch::directory().unwrap();
    let write = |name: &str, image: &thaw_testkit::image::Image| -> Layout {
        image.write(&directory.path().join(name), "latest").unwrap()
    };
    // umoci knows no zstd: the judge has the same tars as gzip.
    let judge = unpack::umoci(&write("gzip", &image(Compression::Gzip(6)))).unwrap();
    let layout = write("zstd", &image(Compression::Zstd(3)));
    let name = layout.push(&registry, "mixed:1").unwrap();
    let said = thaw().run(["accelerate", &name]).unwrap();
    let digest = layout.manifest().unwrap()["layers"][1]["digest"].clone();
    let whole = format!(
        "always fetched whole: layer {}: zstd layers have no seek table yet",
        digest.as_str().unwrap()
    );
    assert!(said.contains(&whole), "{said}");

    let node = thaw();
    let dir = target(&node);
    let inspected = json(&node.run(["inspect", "--json", &name]).unwrap());
    let said = json(&node.run(["mount", "--json", &name, &dir]).unwrap());
    for way in [&inspected["way"], &said["way"]] {
        assert_eq!(way["how"], "lazy");
        let why = way["why"].as_str().unwrap();
        assert!(
            why.ends_with("; 1 of 2 layers fetched whole: no seek table"),
            "{why}"
        );
    }
    Snapshot::of(Path::new(&dir))
        .unwrap()
        .assert_same(&Snapshot::of(judge.root()).unwrap());
    let layers = json(&node.run(["inspect", "--json", &name]).unwrap())["layers"].clone();
    assert_eq!(layers[1]["seek_table"], false);
    assert_eq!(layers[1]["cached"], layers[1]["unpacked"]);
    assert_eq!(layers[0]["seek_table"], true);
}

#[test]
fn full_is_full_also_where_the_image_is_mounted_lazily() {
    let scene = Scene::accelerated();
    let node = thaw();
    let lazy = target(&node);
    let said = node.run(["mount", "--json", "--pull", "lazy", &scene.image, &lazy]);
    assert_eq!(json(&said.unwrap())["way"]["how"], "lazy");
    let whole = |node: &thaw_testkit::thaw::Thaw| {
        json(&node.run(["images", "--json"]).unwrap())[0]["whole"].clone()
    };
    assert_eq!(whole(&node), false);
    let full = format!("{lazy}-full");
    fs::create_dir(&full).unwrap();
    let said = node.run(["mount", "--json", "--pull", "full", &scene.image, &full]);
    let way = json(&said.unwrap())["way"].clone();
    assert_eq!(way["how"], "full", "{way}");
    assert_eq!(whole(&node), true);
}

#[test]
fn damage_in_the_registry_is_never_read() {
    let scene = Scene::accelerated();
    let layers = scene.layout.manifest().unwrap()["layers"]
        .as_array()
        .unwrap()
        .clone();
    let digest = layers[1]["digest"].as_str().unwrap().parse().unwrap();
    let blob = scene.registry.blob(&digest);
    let size = fs::metadata(&blob).unwrap().len();
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(&blob)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, size / 2).unwrap();
    file.write_all_at(&[byte[0] ^ 1], size / 2).unwrap();

    let lazy = thaw();
    let dir = target(&lazy);
    lazy.run(["mount", "--pull", "lazy", &scene.image, &dir])
        .unwrap();
    assert_eq!(
        fs::read(format!("{dir}/etc/group")).unwrap(),
        b"root:x:0:\nweb:x:33:\n"
    );
    let error = fs::read(format!("{dir}/srv/never-read")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    let log = fs::read_to_string(lazy.root().join("daemon.log")).unwrap();
    assert!(log.contains("mismatch"), "{log}");

    let full = thaw();
    let error = full.run(["pull", &scene.image]).unwrap_err().to_string();
    assert!(
        error.contains("layer 2 of 2") && error.contains("damaged"),
        "{error}"
    );
    assert!(
        json(&full.run(["images", "--json"]).unwrap())
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_store_behind_a_symbolic_link_is_taken_over() {
    let scene = Scene::accelerated();
    let directory = scratch::directory().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["disk", "mounted"] {
        fs::create_dir(at(name)).unwrap();
        symlink(name, at(&format!("{name}-link"))).unwrap();
    }
    let node = Thaw::at(env!("CARGO_BIN_EXE_thaw"), at("disk-link/new"));
    let (link, dir) = (at("mounted-link"), at("mounted"));
    let (link, dir) = (link.to_str().unwrap(), dir.to_str().unwrap());
    for way in [["--pull", "lazy"], ["--transport", "directories"]] {
        let with = |command: &[&str], rest: &[&str]| {
            let all = [command, &way, &[&*scene.image], rest].concat();
            node.run(all).unwrap();
        };
        with(&["mount"], &[link]);
        let run = ["run", "--name", "box", "--net", "none", "-d"];
        with(&run, &["--", "sleep", "1000"]);
        kill_daemon(&node);
        let mounts = json(&node.run(["mount", "--json"]).unwrap());
        assert_eq!(mounts[0]["dir"], dir, "{way:?}: {mounts}");
        let read = "read from the second layer\n";
        assert_eq!(fs::read_to_string(at("mounted/srv/message")).unwrap(), read);
        let said = node.run(["exec", "box", "cat", "/srv/message"]);
        assert_eq!(said.unwrap(), read, "{way:?}");
        node.run(["rm", "-f", "box"]).unwrap();
        node.run(["unmount", link]).unwrap();
        node.run(["unmount", "--all"]).unwrap();
    }
}

#[test]
fn a_store_with_too_long_a_path_is_refused() {
    let directory = scratch::directory().unwrap();
    let root = directory.path().join("a".repeat(100));
    let node = Thaw::at(env!("CARGO_BIN_EXE_thaw"), &root);
    let (code, said) = refused(&node, &["images"]);
    assert_eq!(code, 125);
    assert!(said.contains("bytes; there may be 92"), "{said}");
    assert!(!root.exists());
}
