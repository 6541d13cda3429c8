//! Full pulls: what they leave, here and in the registry, and what they take.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use thaw_testkit::image::{Compression, Entry, Image, Layer, Layout};
use thaw_testkit::registry::{Registry, Request};
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

use crate::support::{Scene, json, run, stdout, thaw};

#[test]
fn what_one_node_pulled_the_next_one_starts_lazily() {
    let scene = Scene::new();
    let image = scene.image.as_str();
    let writes = |requests: &[Request]| {
        let read = |request: &&Request| !["GET", "HEAD"].contains(&&*request.method);
        requests.iter().filter(read).count()
    };
    let before = scene.registry.requests().len();
    let node = thaw();
    node.run(["pull", image]).unwrap();
    let asked = scene.registry.requests();
    assert_eq!(writes(&asked[before..]), 0, "a pull only reads: {asked:?}");
    let facts = json(&thaw().run(["inspect", "--json", image]).unwrap());
    assert!(facts["acceleration"].is_null(), "{facts}");

    let asked = scene.registry.requests().len();
    let puller = thaw();
    let done = json(&puller.run(["pull", "--push", "--json", image]).unwrap());
    assert_eq!(done["already_here"], false);
    let pushed = &done["pushed"];
    let repository = image.rsplit_once(':').unwrap().0;
    assert_eq!(pushed["repository"], repository, "{done}");
    read_once(&scene, asked);

    let next = thaw();
    let output = run(&next, &["--pull", "lazy"], image, &[]);
    assert_eq!(stdout(&output), "read from the second layer\n");
    let images = json(&next.run(["images", "--json"]).unwrap());
    assert_eq!(images[0]["whole"], false, "{images}");

    // What is here already is pushed as well, and is the same.
    let done = json(&node.run(["pull", "--push", "--json", image]).unwrap());
    assert_eq!(done["already_here"], true);
    assert_eq!(done["pushed"]["acceleration"], pushed["acceleration"]);
}

/// Since request number `asked` each layer has come once.
fn read_once(scene: &Scene, asked: usize) {
    let manifest = scene.layout.manifest().unwrap();
    for layer in manifest["layers"].as_array().unwrap() {
        let (digest, size) = (&layer["digest"], layer["size"].as_u64().unwrap());
        let sent = || -> u64 {
            let requests = scene.registry.requests();
            let requests = requests[asked..].iter();
            let of = requests
                .filter(|it| it.method == "GET" && it.uri.contains(digest.as_str().unwrap()));
            of.map(|request| request.written).sum()
        };
        // The registry may write down what it sent a little later.
        let begin = Instant::now();
        while sent() < size && begin.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(sent(), size, "{digest}");
    }
}

/// What reading an image may take, whatever the image.
const MOST_MEMORY: u64 = 512 << 20;
const LAYERS: u32 = 5;
/// Of each layer, and of each small file.
const LARGE_FILE: usize = 64 << 20;
const SMALL_FILES: u32 = 6000;
const SMALL_FILE: usize = 14 << 10;

/// Bytes of which a half says nothing new.
fn bytes(seed: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) * 2 + 1;
    let mut word = |at: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let new = (at / 64).is_multiple_of(2);
        if new { (state >> 32) as u32 } else { seed }
    };
    (0..len / 4).flat_map(|at| word(at).to_le_bytes()).collect()
}

/// An image with more in its tars than may be in memory.
fn large(directory: &Path) -> Layout {
    let layer = |number: u32| {
        let mut entries = vec![Entry::directory("./")];
        for file in 0..SMALL_FILES {
            let name = format!(
                "some/where/in/layer-{number}/directory-{}/file-{file}",
                file % 97
            );
            entries.push(Entry::file(
                name,
                bytes(number * SMALL_FILES + file, SMALL_FILE),
            ));
        }
        entries.push(Entry::file(
            format!("large-{number}"),
            bytes(number, LARGE_FILE),
        ));
        // One after the other: what this test takes itself is not bounded.
        let path = directory.join(format!("tar-{number}"));
        fs::write(&path, Layer::new(entries).tar().unwrap()).unwrap();
        Layer::from_file(path).compression(match number {
            0 => Compression::None,
            1 => Compression::GzipMembers {
                level: 1,
                member: 4 << 20,
            },
            _ => Compression::Gzip(1),
        })
    };
    let image = Image::new((0..LAYERS).map(layer));
    image.write(&directory.join("layout"), "latest").unwrap()
}

/// The most memory that the store's daemon has had.
fn peak(node: &Thaw) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.daemon().unwrap())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = peak.unwrap().trim().trim_end_matches(" kB");
    kibibytes.parse::<u64>().unwrap() << 10
}

/// Bytes that the tars of the store's layers take on its disk: what has come, whatever their size.
fn kept(node: &Thaw) -> u64 {
    let layers = fs::read_dir(node.root().join("layers")).unwrap();
    let tars = layers.map(|layer| layer.unwrap().path().join("tar"));
    // The daemon may take a directory away meanwhile.
    let tars = tars.filter_map(|tar| fs::metadata(tar).ok());
    tars.map(|tar| tar.blocks() * 512).sum()
}

#[test]
fn a_large_image_is_read_in_bounded_memory() {
    let directory = scratch::directory().unwrap();
    let registry = Registry::start().unwrap();
    let image = large(directory.path()).push(&registry, "large:1").unwrap();
    for command in ["accelerate", "pull"] {
        let node = thaw();
        node.run([command, &image]).unwrap();
        let (peak, facts) = (
            peak(&node),
            node.run(["inspect", "--json", &image]).unwrap(),
        );
        let unpacked = json(&facts)["unpacked"].as_u64().unwrap();
        println!(
            "{command}: {} MiB of memory for {} MiB of tars",
            peak >> 20,
            unpacked >> 20
        );
        assert!(
            unpacked > MOST_MEMORY,
            "it would fit into memory: {unpacked}"
        );
        assert!(peak < MOST_MEMORY, "{command} took {peak} bytes");
        // For the index nothing has to stay; the image names no program whose working set would be
        // guessed from a few blocks.
        let kept = kept(&node);
        match command {
            "accelerate" => assert_eq!(kept, 0, "of {unpacked} bytes"),
            _ => assert!(kept >= unpacked, "{kept} of {unpacked} bytes"),
        }
    }
}
