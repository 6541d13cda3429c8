//! Working sets: when a recording ends, and what a wrong one costs: time, and nothing else.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use thaw_accelerate::{Origin, PackOptions, PackedSet, WorkingSetArtifact, pack};
use thaw_image::{Digest, Extent, media};
use thaw_registry::{Client, Descriptor};
use thaw_testkit::process;
use thaw_testkit::thaw::Thaw;

use crate::metrics::metrics;
use crate::support::{Scene, json, refused, run, sh, stdout, target, thaw};

/// Reads 4 MiB of a file that has 12 MB.
const READ: &str = "busybox dd if=/srv/never-read of=/dev/null bs=65536 count=64 2>/dev/null";
const TRANSPORTS: [&str; 2] = ["fanotify", "fuse"];

/// `accelerate --record` of `sh -c SCRIPT`, under a profile of its own.
fn record<'a>(profile: &'a str, ready: &'a str, net: &'a str, image: &'a str) -> Vec<&'a str> {
    vec![
        "accelerate",
        "--json",
        "--record",
        "--ready",
        ready,
        "--profile",
        profile,
        "--net",
        net,
        image,
        "--",
        "sh",
        "-c",
    ]
}

#[test]
fn a_recording_ends_when_the_start_is_ready() {
    let scene = Scene::new();
    let image = scene.image.as_str();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    drop(taken);
    let http = format!("http://:{port}/ready");
    // What it reads while it ends is no part of its start.
    let end = "trap 'cat /srv/never-read > /dev/null; exit' TERM";
    let wait = "while :; do busybox usleep 50000; done";
    let serve = format!(
        "{end}; sleep 1; {READ}; echo yes > /tmp/ready; busybox httpd -p {port} -h /tmp; {wait}"
    );
    let log = format!("{end}; echo not ready yet; sleep 1; {READ}; echo ready 1; {wait}");
    let time = format!("{end}; {READ}; {wait}");
    let cases = [
        ("http", http.as_str(), "host", serve.as_str()),
        ("exit", "exit", "none", READ),
        ("log", "log:^ready [0-9]$", "none", log.as_str()),
        ("time", "2s", "none", time.as_str()),
    ];
    let recorder = thaw();
    let repository = image.rsplit_once(':').unwrap().0;
    for (profile, ready, net, script) in cases {
        let mut args = record(profile, ready, net, image);
        args.push(script);
        let recorded = json(&recorder.run(args).unwrap())[1].clone();
        assert_eq!(recorded["profile"], profile);
        assert_eq!(recorded["repository"], repository, "{recorded}");
        // It had not ended before so much of the file was read, and did before the rest was.
        let blocks = recorded["blocks"].as_u64().unwrap();
        assert!((4 << 20..10 << 20).contains(&blocks), "{profile}: {blocks}");
        let after = &recorded["ready_after"];
        let after = after["secs"].as_u64().unwrap();
        assert!(profile != "time" || after >= 2, "{recorded}");
        let why = mounted(&thaw(), image, profile, "auto");
        assert!(why.contains("with a working set"), "{profile}: {why}");
    }
    assert_eq!(
        json(&recorder.run(["ps", "--all", "--json"]).unwrap()),
        json("[]")
    );
}

#[test]
fn a_start_that_does_not_get_ready_is_no_working_set() {
    let scene = Scene::new();
    let cases = [
        ("http", "http://:9/", "host", "exit 0", "ended with 0"),
        ("exit", "exit", "none", "exit 3", "ended with 3"),
        (
            "log",
            "log:^ready$",
            "none",
            "echo not ready",
            "ended with 0",
        ),
        ("time", "100s", "none", "exit 0", "ended with 0"),
    ];
    let recorder = thaw();
    for (profile, ready, net, script, why) in cases {
        let mut args = record(profile, ready, net, &scene.image);
        args.push(script);
        let (code, said) = refused(&recorder, &args);
        assert_eq!(code, 125);
        assert!(said.contains(why), "{profile}: {said}");
    }
    let facts = json(&thaw().run(["inspect", "--json", &scene.image]).unwrap());
    assert!(!facts["acceleration"].is_null(), "{facts}");
    let sets = facts["working_sets"].as_array().unwrap();
    let published = |set: &Value| cases.iter().any(|case| set["profile"] == case.0);
    assert!(!sets.iter().any(published), "{facts}");
}

/// A scene whose image has a working set of what [`READ`] reads, as the profile `ahead`.
fn recorded_ahead() -> Scene {
    let scene = Scene::new();
    let mut args = record("ahead", "exit", "none", &scene.image);
    args.push(READ);
    thaw().run(args).unwrap();
    scene
}

/// Starts with it.
fn lazily(transport: &str) -> [&str; 6] {
    [
        "--pull",
        "lazy",
        "--profile",
        "ahead",
        "--transport",
        transport,
    ]
}

#[test]
fn what_a_start_will_read_is_read_ahead_of_it() {
    let scene = recorded_ahead();
    for transport in TRANSPORTS {
        let node = thaw();
        let by = [&["--detach", "--name", "ahead"], &lazily(transport)[..]].concat();
        let begun = run(&node, &by, &scene.image, &["sleep", "1000"]);
        assert!(begun.status.success(), "{begun:?}");
        // The program reads nothing of it, but its daemon does.
        let mut mounts = fs::read_dir(node.root().join("mounts")).unwrap();
        let file = mounts
            .next()
            .unwrap()
            .unwrap()
            .path()
            .join("srv/never-read");
        let deadline = Instant::now() + Duration::from_secs(30);
        let cached = loop {
            let cached = cached_bytes(&file);
            if cached >= 4 << 20 || Instant::now() > deadline {
                break cached;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(
            (4 << 20..10 << 20).contains(&cached),
            "{transport}: {cached}"
        );
        let read = sh_in(&node, "ahead", "sha256sum < /srv/never-read");
        let whole = sh(&thaw(), &[], &scene.image, "sha256sum < /srv/never-read");
        assert_eq!(read, whole, "{transport}");
        // Who reads ahead is in nobody's way when the image goes.
        node.run(["rm", "--force", "ahead"]).unwrap();
        node.run(["gc", "--all"]).unwrap();
        assert_eq!(json(&node.run(["images", "--json"]).unwrap()), json("[]"));
    }
}

#[test]
fn an_image_goes_while_its_working_set_is_on_its_way() {
    let scene = recorded_ahead();
    for transport in TRANSPORTS {
        let node = thaw();
        for _ in 0..5 {
            let ran = run(&node, &lazily(transport), &scene.image, &["sh", "-c", ":"]);
            assert!(ran.status.success(), "{ran:?}");
            node.run(["gc", "--all"]).unwrap();
            assert_eq!(json(&node.run(["images", "--json"]).unwrap()), json("[]"));
        }
    }
}

/// Bytes of a file that are in the page cache, in whole pages.
fn cached_bytes(file: &Path) -> u64 {
    let options = ["--bytes", "--noheadings", "--raw", "--output", "RES"];
    let output = process::run(Command::new("fincore").args(options).arg(file)).unwrap();
    stdout(&output).trim().parse().unwrap()
}

/// What a script says in a container that runs.
fn sh_in(node: &Thaw, container: &str, script: &str) -> String {
    node.run(["exec", container, "sh", "-c", script]).unwrap()
}

/// Mounts lazily with a profile; why it is mounted so.
fn mounted(node: &Thaw, image: &str, profile: &str, transport: &str) -> String {
    let dir = target(node);
    let options = ["mount", "--json", "--pull", "lazy", "--profile", profile];
    let by = ["--transport", transport, image, &dir];
    let said = node.run(options.into_iter().chain(by)).unwrap();
    json(&said)["way"]["why"].as_str().unwrap().to_owned()
}

/// The two blobs of a working set in the scene's registry: its index and its data.
fn parts(scene: &Scene, set: &Digest) -> [Digest; 2] {
    let manifest = fs::read_to_string(scene.registry.blob(set)).unwrap();
    let layers = json(&manifest)["layers"].clone();
    [0, 1].map(|part| layers[part]["digest"].as_str().unwrap().parse().unwrap())
}

#[test]
fn a_damaged_working_set_costs_time_and_nothing_else() {
    for (part, complaint) in [(0, "no working set"), (1, "is given up")] {
        let scene = Scene::new();
        let mut args = record("default", "exit", "none", &scene.image);
        args.push(READ);
        let recorded = json(&thaw().run(args).unwrap())[1].clone();
        let set = recorded["working_set"].as_str().unwrap().parse().unwrap();
        let blob = scene.registry.blob(&parts(&scene, &set)[part]);
        let mut bytes = fs::read(&blob).unwrap();
        let middle = bytes.len() / 2;
        // Of the data so much that every frame is hit.
        let hit = if part == 0 {
            middle..middle + 1
        } else {
            0..bytes.len()
        };
        bytes[hit].iter_mut().for_each(|byte| *byte ^= 0x55);
        fs::write(&blob, bytes).unwrap();
        starts_all_the_same(&scene, complaint);
    }
}

/// The image starts lazily by each transport, every byte is right, and the log has a word about it.
fn starts_all_the_same(scene: &Scene, complaint: &str) {
    let script = "cat /srv/message; busybox md5sum /srv/never-read";
    let right = sh(&thaw(), &["--pull", "full"], &scene.image, script);
    for transport in TRANSPORTS {
        let node = thaw();
        let why = mounted(&node, &scene.image, "default", transport);
        assert!(why.contains("with a working set"), "{why}");
        let flags = ["--pull", "lazy", "--transport", transport];
        assert_eq!(sh(&node, &flags, &scene.image, script), right);
        let begin = Instant::now();
        let log = || fs::read_to_string(node.root().join("daemon.log")).unwrap();
        let named = |line: &str| line.contains(complaint) && line.contains(&scene.image);
        while !log().lines().any(named) {
            assert!(begin.elapsed() < Duration::from_secs(30), "{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        let told = metrics(&node);
        assert_eq!(told["thaw_filled_bytes_total{cause=\"working_set\"}"], 0.0);
        assert_eq!(told["thaw_read_failures_total{reason=\"failed\"}"], 0.0);
    }
}

/// Publishes `packed` as what starts of the scene's image read.
fn publish(scene: &Scene, packed: PackedSet) {
    let manifest = scene.layout.blob(&scene.layout.digest()).unwrap();
    let subject = Descriptor::of(media::MANIFEST, &manifest);
    let set = WorkingSetArtifact::build(&subject, "default", Origin::Recorded, packed).unwrap();
    let client = Client::new(thaw_registry::Settings::default()).unwrap();
    let repository = client.open(&scene.image.parse().unwrap()).unwrap();
    set.publish(repository.as_ref()).unwrap();
}

#[test]
fn a_working_set_of_other_layers_brings_nothing() {
    let scene = Scene::accelerated();
    let node = thaw();
    node.run(["pull", &scene.image]).unwrap();
    let facts = json(&node.run(["inspect", "--json", &scene.image]).unwrap());
    let own = facts["layers"][1]["diff_id"].as_str().unwrap();
    let size = facts["layers"][1]["unpacked"].as_u64().unwrap();
    let stranger = Digest::of(b"a layer of another image").to_string();
    // A layer that the image does not have, and one that it has, but not of this size.
    for (layer, size) in [(stranger.as_str(), size), (own, size + 512)] {
        let layer = thaw_image::DiffId(layer.parse().unwrap());
        let wrong = |_: &thaw_image::DiffId, extent: Extent| {
            Ok(vec![0x55; usize::try_from(extent.len).unwrap()])
        };
        let trace = [(layer, Extent::between(0, size))];
        let packed = pack(&trace, &[(layer, size)], &wrong, &PackOptions::default());
        publish(&scene, packed.unwrap());
        for transport in TRANSPORTS {
            let node = thaw();
            let flags = ["--pull", "lazy", "--transport", transport];
            let output = run(&node, &flags, &scene.image, &[]);
            assert_eq!(output.stdout, b"read from the second layer\n", "{output:?}");
            let told = metrics(&node);
            assert_eq!(told["thaw_fetched_bytes_total{cause=\"working_set\"}"], 0.0);
        }
    }
}
