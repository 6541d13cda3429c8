//! The program as a user runs it: real images through a real registry, mounted and run for real.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;
use thaw_testkit::image::{Entry, Image, Layer, Layout, cases};
use thaw_testkit::registry::Registry;
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;
use thaw_testkit::tree::Snapshot;

const BUSYBOX: &str = "/bin/busybox";

fn thaw() -> Thaw {
    Thaw::new(env!("CARGO_BIN_EXE_thaw")).unwrap()
}

/// An image that runs: busybox, a large file that nobody reads, and one that `cat` can read.
fn busybox(directory: &Path) -> Layout {
    let program = fs::read(BUSYBOX).expect("busybox-static is needed: cargo xtask setup");
    let dir = Entry::directory;
    let noise: Vec<u8> = (0..3_000_000u32)
        .flat_map(|i| i.wrapping_mul(0x9e37_79b9).to_be_bytes())
        .collect();
    let base = Layer::new([
        dir("./"),
        dir("bin"),
        Entry::file("bin/busybox", program).mode(0o755),
        Entry::symlink("bin/sh", "busybox"),
        Entry::symlink("bin/cat", "busybox"),
        Entry::symlink("bin/id", "busybox"),
        Entry::symlink("bin/sleep", "busybox"),
        dir("etc"),
        Entry::file(
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n",
        ),
        Entry::file("etc/group", "root:x:0:\nweb:x:33:\n"),
        dir("srv"),
        dir("tmp"),
    ]);
    let data = Layer::new([
        dir("./"),
        Entry::file("srv/never-read", noise),
        Entry::file("srv/message", "read from the second layer\n"),
    ]);
    Image::new([base, data])
        .config("Env", serde_json::json!(["PATH=/bin", "GREETING=hello"]))
        .config("Cmd", serde_json::json!(["sh", "-c", "cat /srv/message"]))
        .config("WorkingDir", "/srv")
        .write(directory, "latest")
        .unwrap()
}

/// A registry that has the busybox image, already accelerated by another node.
struct Scene {
    registry: Registry,
    layout: Layout,
    image: String,
    _directory: TempDir,
}

impl Scene {
    fn new() -> Self {
        let registry = Registry::start().unwrap();
        let directory = scratch::directory().unwrap();
        let layout = busybox(&directory.path().join("layout"));
        let image = layout.push(&registry, "busybox:1").unwrap();
        Self {
            registry,
            layout,
            image,
            _directory: directory,
        }
    }

    fn accelerated() -> Self {
        let scene = Self::new();
        thaw().run(["accelerate", &scene.image]).unwrap();
        scene
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn every_merge_rule_is_kept_lazily_and_in_full() {
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
        for way in ["lazy", "full"] {
            let node = thaw();
            let target = directory.path().join(way);
            fs::create_dir(&target).unwrap();
            let said = node
                .run([
                    "mount",
                    "--json",
                    "--pull",
                    way,
                    &image,
                    target.to_str().unwrap(),
                ])
                .unwrap();
            assert_eq!(json(&said)["way"]["how"], *way, "{}: {said}", case.name);
            let mut differences = Snapshot::of(&target).unwrap().diff(&expected);
            // Where a tar gives a directory no time, or a later entry changes what is in it, the
            // judge leaves the time at which it wrote: it is listed, and everything else counts.
            differences.retain(|difference| {
                let clock = difference.what == "mtime" && seconds(&difference.right) >= began;
                if clock {
                    println!("{}, the judge's own clock: {difference}", case.name);
                }
                !clock
            });
            assert!(
                differences.is_empty(),
                "{} mounted {way} differs:\n{}",
                case.name,
                thaw_testkit::tree::list(&differences)
            );
            node.run(["unmount", target.to_str().unwrap()]).unwrap();
        }
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
fn a_container_runs_lazily_and_says_so() {
    let scene = Scene::accelerated();
    let node = thaw();
    let options = ["run", "--rm", "--net", "none", "--pull", "lazy"];
    let run = |args: &[&str]| {
        let all: Vec<&str> = options
            .iter()
            .copied()
            .chain([scene.image.as_str()])
            .chain(args.iter().copied())
            .collect();
        node.output(all).unwrap()
    };
    let output = run(&[]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "read from the second layer\n"
    );
    assert!(output.status.success());
    assert_eq!(run(&["--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(
        run(&["--", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"])
            .status
            .code(),
        Some(137)
    );
    assert_eq!(run(&["--", "no-such-program"]).status.code(), Some(127));
    let output = run(&["--", "sh", "-c", "echo $GREETING $PWD"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello /srv\n");
    let images = json(&node.run(["images", "--json"]).unwrap());
    let cached = images[0]["cached"].as_u64().unwrap();
    assert!(
        cached < 6_000_000,
        "12 MB that nobody read were fetched: {images}"
    );
    assert_eq!(images[0]["whole"], false);
}

#[test]
fn a_detached_container_is_listed_reached_and_removed() {
    let scene = Scene::accelerated();
    let node = thaw();
    let command = "echo up; sleep 1000";
    let image = &scene.image;
    let id = node
        .run([
            "run", "-d", "--name", "box", "--net", "none", "--pull", "lazy", image, "--", "sh",
            "-c", command,
        ])
        .unwrap();
    let listed = json(&node.run(["ps", "--json"]).unwrap());
    assert_eq!(listed[0]["id"], *id.trim());
    assert_eq!(listed[0]["way"]["how"], "lazy");
    assert_eq!(
        node.run(["exec", "box", "cat", "/srv/message"]).unwrap(),
        "read from the second layer\n"
    );
    assert_eq!(
        node.run(["exec", "-u", "web", "box", "id", "-u"]).unwrap(),
        "33\n"
    );
    assert_eq!(node.run(["logs", "box"]).unwrap(), "up\n");
    let error = node.run(["rm", "box"]).unwrap_err().to_string();
    assert!(error.contains("is running"), "{error}");
    node.run(["stop", "-t", "1", "box"]).unwrap();
    assert_eq!(
        json(&node.run(["ps", "--json"]).unwrap()),
        Value::Array(vec![])
    );
    node.run(["rm", "box"]).unwrap();
    assert_eq!(
        json(&node.run(["ps", "--all", "--json"]).unwrap()),
        Value::Array(vec![])
    );
}

#[test]
fn an_image_that_is_here_needs_no_registry() {
    let Scene {
        registry, image, ..
    } = Scene::new();
    let node = thaw();
    node.run(["pull", &image]).unwrap();
    drop(registry);
    let output = node.run(["run", "--rm", "--net", "none", &image]).unwrap();
    assert_eq!(output, "read from the second layer\n");
    let said = node
        .output(["run", "--rm", "--refresh", "--net", "none", &image])
        .unwrap();
    assert_eq!(said.status.code(), Some(125));
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("cannot reach"), "{said}");
}

#[test]
fn a_recorded_start_waits_for_nothing_and_moves_little() {
    let scene = Scene::new();
    let said = thaw()
        .run([
            "accelerate",
            "--json",
            "--record",
            "--ready",
            "exit",
            "--net",
            "none",
            &scene.image,
        ])
        .unwrap();
    let recorded = &json(&said)[1];
    let blocks = recorded["blocks"].as_u64().unwrap();
    assert!((100_000..6_000_000).contains(&blocks), "{said}");
    let node = thaw();
    let output = node
        .output([
            "run",
            "--net",
            "none",
            "--pull",
            "lazy",
            "--timing",
            "--json",
            "--name",
            "r",
            &scene.image,
            "--",
            "sh",
            "-c",
            "cat /srv/message; sleep 2",
        ])
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let ps = json(&node.run(["ps", "--all", "--json"]).unwrap());
    let why = ps[0]["way"]["why"].as_str().unwrap();
    assert!(why.contains("with a working set"), "{why}");
    let images = json(&node.run(["images", "--json"]).unwrap());
    assert!(
        images[0]["cached"].as_u64().unwrap() < 8_000_000,
        "{images}"
    );
    let without = thaw();
    let why = without
        .run([
            "mount",
            "--json",
            "--pull",
            "lazy",
            "--profile",
            "none",
            &scene.image,
            &target(&without),
        ])
        .unwrap();
    assert!(
        !json(&why)["way"]["why"]
            .as_str()
            .unwrap()
            .contains("working set"),
        "{why}"
    );
}

/// A directory to mount at, gone with the store.
fn target(node: &Thaw) -> String {
    let dir = node.root().with_file_name("target");
    fs::create_dir_all(&dir).unwrap();
    dir.to_str().unwrap().to_owned()
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
fn collecting_everything_leaves_nothing() {
    let scene = Scene::accelerated();
    let node = thaw();
    node.run(["run", "--net", "none", "--pull", "lazy", &scene.image])
        .unwrap();
    let planned = json(&node.run(["gc", "--all", "--dry-run", "--json"]).unwrap());
    assert_eq!(planned["dry_run"], true);
    assert_eq!(
        json(&node.run(["images", "--json"]).unwrap())
            .as_array()
            .unwrap()
            .len(),
        1
    );
    node.run(["gc", "--all"]).unwrap();
    assert_eq!(
        json(&node.run(["ps", "--all", "--json"]).unwrap()),
        Value::Array(vec![])
    );
    for place in [
        "layers",
        "blobs",
        "containers",
        "mounts",
        "images/refs",
        "images/manifests",
    ] {
        let dir = node.root().join(place);
        let left: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != ".lock")
            .collect();
        assert!(left.is_empty(), "{place}: {left:?}");
    }
}

#[test]
fn a_layout_directory_is_an_image_too() {
    let directory = scratch::directory().unwrap();
    let layout = busybox(&directory.path().join("layout"));
    let image = format!("oci:{}:latest", layout.directory().display());
    thaw().run(["accelerate", &image]).unwrap();
    let node = thaw();
    let said = node
        .run(["run", "--rm", "--net", "none", "--pull", "lazy", &image])
        .unwrap();
    assert_eq!(said, "read from the second layer\n");
}

#[test]
fn a_pinned_digest_takes_no_stranger_s_word() {
    let scene = Scene::accelerated();
    let name = scene.image.rsplit_once(':').unwrap().0;
    let pinned = format!("{name}@{}", scene.layout.digest());
    let node = thaw();
    let error = node
        .run(["run", "--rm", "--pull", "lazy", &pinned])
        .unwrap_err()
        .to_string();
    assert!(error.contains("pinned digest"), "{error}");
    let said = node.run(["inspect", "--json", &pinned]).unwrap();
    assert_eq!(json(&said)["way"]["how"], "full", "{said}");
}

#[test]
fn bad_input_gets_a_clear_error() {
    let node = thaw();
    let said = |args: &[&str]| {
        let output = node.output(args).unwrap();
        assert!(!output.status.success(), "{args:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said(&["pull", "UPPER"]).contains("invalid repository"));
    assert!(said(&["pull", "oci:/nonexistent"]).contains("/nonexistent"));
    assert!(said(&["pull", "127.0.0.1:1/none"]).contains("127.0.0.1:1/none"));
    assert!(said(&["run", "--memory", "lots", "x"]).contains("lots"));
    assert!(said(&["unmount", "/nowhere"]).contains("/nowhere"));
    assert!(said(&["logs", "nobody"]).contains("nobody"));
}
