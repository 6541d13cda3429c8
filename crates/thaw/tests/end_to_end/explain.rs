//! `doctor --explain`: why a start was slow, of containers that live and of those that have ended.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use serde_json::Value;
use thaw_testkit::far::Far;
use thaw_testkit::thaw::Thaw;

use crate::support::{Scene, json, kill_daemon, refused, sh, thaw};

/// Starts without a working set.
const LAZILY: [&str; 4] = ["--pull", "lazy", "--profile", "none"];

/// Starts a container in the background that reads one file, and waits until it has.
fn start(node: &Thaw, name: &str, flags: &[&str], image: &str) {
    let script = "cat /srv/message && while :; do sleep 1; done";
    let mut command = vec!["run", "-d", "--net", "none", "--name", name];
    command.extend(flags);
    command.extend([
        "--ready",
        "log:second layer",
        "--timing",
        image,
        "--",
        "sh",
        "-c",
        script,
    ]);
    node.run(command).unwrap();
}

fn explain(node: &Thaw, name: &str) -> (Value, String) {
    let facts = json(&node.run(["doctor", "--explain", name, "--json"]).unwrap());
    (facts, node.run(["doctor", "--explain", name]).unwrap())
}

fn texts(facts: &Value, list: &str) -> String {
    let list = facts[list].as_array().unwrap().iter();
    let texts: Vec<&str> = list.map(|text| text.as_str().unwrap()).collect();
    texts.join("\n")
}

/// The number of waits for a file.
fn waits(facts: &Value, path: &str) -> u64 {
    let files = facts["files"].as_array().unwrap().iter();
    let found = files.filter(|file| file["path"] == path);
    found.map(|file| file["waits"].as_u64().unwrap()).sum()
}

#[test]
fn a_lazy_start_is_explained_by_its_files() {
    let scene = Scene::accelerated();
    let node = thaw();
    start(&node, "slow", &LAZILY, &scene.image);
    let (facts, text) = explain(&node, "slow");
    assert!(waits(&facts, "/srv/message") > 0, "{text}");
    assert!(waits(&facts, "/bin/busybox") > 0, "{text}");
    assert_eq!(waits(&facts, "/srv/never-read"), 0, "{text}");
    let count = facts["waits"]["count"].as_u64().unwrap();
    assert_eq!(facts["waits"]["failed"], 0);
    assert_eq!(facts["waits"]["known"], true);
    let periods = facts["waits"]["periods"].as_array().unwrap();
    let sum: u64 = periods.iter().map(|p| p["count"].as_u64().unwrap()).sum();
    assert_eq!(sum, count);
    for step in ["resolve manifest", "layout", "mount", "overlay", "runtime"] {
        let mut spans = facts["spans"].as_array().unwrap().iter();
        assert!(spans.any(|span| span["name"] == step), "{step}: {text}");
    }
    let registry = scene.registry.host().to_owned();
    assert_eq!(facts["links"][0]["registry"], registry, "{text}");
    assert!(text.contains("/srv/message"), "{text}");
    assert!(texts(&facts, "findings").contains("reads waited for bytes"));

    // It has ended: the same is known.
    node.run(["stop", "--time", "0", "slow"]).unwrap();
    let (ended, text) = explain(&node, "slow");
    // Its loop may have read more since.
    assert!(ended["waits"]["count"].as_u64().unwrap() >= count, "{text}");
    assert!(waits(&ended, "/srv/message") > 0, "{text}");

    // What another container reads that is here already is no wait of its own.
    start(&node, "quick", &LAZILY, &scene.image);
    let (quick, text) = explain(&node, "quick");
    assert_eq!(waits(&quick, "/srv/message"), 0, "{text}");

    // A daemon that did not see it says so.
    kill_daemon(&node);
    let (after, text) = explain(&node, "quick");
    assert_eq!(after["waits"]["known"], false);
    assert!(text.contains("are not known any more"), "{text}");
    node.run(["rm", "-f", "slow", "quick"]).unwrap();
}

/// 256 KiB of the file that no start reads.
fn read_at(node: &Thaw, image: &str, block: u32) {
    let script = format!(
        "busybox dd if=/srv/never-read of=/dev/null bs=65536 count=4 skip={block} 2>/dev/null"
    );
    sh(node, &LAZILY, image, &script);
}

#[test]
fn waits_are_of_those_who_lived_meanwhile() {
    let scene = Scene::accelerated();
    let node = thaw();
    start(&node, "first", &LAZILY, &scene.image);
    let (alone, text) = explain(&node, "first");
    assert_eq!(alone["waits"]["shared_with"], 0, "{text}");
    // One that is gone has waited as well.
    read_at(&node, &scene.image, 0);
    let (shared, text) = explain(&node, "first");
    assert_eq!(shared["waits"]["shared_with"], 1, "{text}");
    assert!(waits(&shared, "/srv/never-read") > 0, "{text}");
    assert!(
        text.contains("1 other had layers of this one mounted"),
        "{text}"
    );

    // What comes after its end is not its own.
    node.run(["stop", "--time", "0", "first"]).unwrap();
    let (ended, _) = explain(&node, "first");
    read_at(&node, &scene.image, 170);
    start(&node, "second", &LAZILY, &scene.image);
    let (later, text) = explain(&node, "first");
    assert_eq!(later["waits"], ended["waits"], "{text}");
    assert_eq!(later["files"], ended["files"], "{text}");
    node.run(["rm", "-f", "first", "second"]).unwrap();
}

#[test]
fn a_working_set_that_came_later_is_not_blamed() {
    let scene = Scene::accelerated();
    let node = thaw();
    let own = ["--pull", "lazy", "--profile", "own"];
    start(&node, "early", &own, &scene.image);
    // From the end to the beginning: nothing comes ahead.
    for block in (0..10).rev() {
        let skip = format!("skip={}", block * 18);
        let read = ["busybox", "dd", "if=/srv/never-read", "of=/dev/null"];
        let piece = ["bs=65536", "count=1", &skip];
        node.run(["exec", "early"].into_iter().chain(read).chain(piece))
            .unwrap();
    }
    let record = ["accelerate", "--record", "--ready", "exit"];
    let how = ["--profile", "own", "--net", "none", &scene.image];
    let command = ["--", "sh", "-c", "cat /srv/never-read > /dev/null"];
    node.run(record.into_iter().chain(how).chain(command))
        .unwrap();
    let (facts, text) = explain(&node, "early");
    assert!(facts["waits"]["count"].as_u64().unwrap() >= 8, "{text}");
    assert_eq!(facts["waits"]["outside_set"], Value::Null, "{text}");
    let found = texts(&facts, "findings");
    assert!(found.contains("the start had no working set"), "{text}");
    assert!(!found.contains("stream"), "{text}");
    assert!(texts(&facts, "advice").contains("start it again"), "{text}");
    node.run(["rm", "-f", "early"]).unwrap();

    // What it has is measured where the start had it.
    let fresh = thaw();
    start(&fresh, "late", &own, &scene.image);
    let (facts, text) = explain(&fresh, "late");
    assert!(facts["waits"]["outside_set"].is_u64(), "{text}");
    fresh.run(["rm", "-f", "late"]).unwrap();
}

#[test]
fn bytes_come_from_a_mirror_where_there_is_one() {
    let scene = Scene::accelerated();
    let registry = scene.registry.host();
    let mirror = Far::new(registry, Duration::from_millis(150)).unwrap();
    let node = thaw();
    let config = node.root().with_file_name("config.toml");
    let text = format!(
        "[registry.\"{registry}\"]\nmirrors = [\"{}\"]\n",
        mirror.host()
    );
    fs::write(&config, text).unwrap();
    node.run(["--config", config.to_str().unwrap(), "images"])
        .unwrap();
    start(&node, "near", &LAZILY, &scene.image);
    let (facts, text) = explain(&node, "near");
    assert!(waits(&facts, "/srv/message") > 0, "{text}");
    let link = &facts["links"][0];
    assert_eq!(link["registry"], mirror.host(), "{text}");
    assert_eq!(link["mirror_of"], registry, "{text}");
    let from = format!("from {} (a mirror of {registry}): ", mirror.host());
    assert!(text.contains(&from), "{text}");
    let advice = texts(&facts, "advice");
    let nearer = format!("a mirror that is nearer than {}", mirror.host());
    assert!(advice.contains(&nearer), "{text}");
    assert!(!advice.contains("a mirror near this node"), "{text}");
    node.run(["rm", "-f", "near"]).unwrap();
}

#[test]
fn a_read_that_failed_is_told_with_its_reason() {
    let scene = Scene::accelerated();
    let node = thaw();
    start(&node, "box", &LAZILY, &scene.image);
    let layer = scene.layout.manifest().unwrap()["layers"][1]["digest"].clone();
    let blob = scene
        .registry
        .blob(&layer.as_str().unwrap().parse().unwrap());
    let blob = fs::File::options().read(true).write(true).open(blob);
    let blob = blob.unwrap();
    let (mut byte, middle) = ([0], blob.metadata().unwrap().len() / 2);
    blob.read_exact_at(&mut byte, middle).unwrap();
    blob.write_all_at(&[byte[0] ^ 1], middle).unwrap();
    let read = ["exec", "box", "cat", "/srv/never-read"];
    assert!(!node.output(read).unwrap().status.success());

    let (facts, text) = explain(&node, "box");
    let failed = facts["waits"]["failed"].as_u64().unwrap();
    assert!(failed > 0, "{text}");
    let mut files = facts["files"].as_array().unwrap().iter();
    let file = files.find(|file| file["path"] == "/srv/never-read");
    assert_eq!(file.unwrap()["failed"], failed, "{text}");
    let error = facts["waits"]["error"].as_str().unwrap();
    assert!(error.contains("wrong bytes"), "{text}");
    let told = format!("{failed} of them failed, the last: {error}");
    assert!(texts(&facts, "findings").contains(&told), "{text}");
    assert!(
        texts(&facts, "advice").contains("the daemon's log"),
        "{text}"
    );
    node.run(["rm", "-f", "box"]).unwrap();
}

#[test]
fn a_full_start_is_explained_by_its_reason() {
    let scene = Scene::new();
    let node = thaw();
    start(&node, "whole", &["--pull", "full"], &scene.image);
    let (facts, text) = explain(&node, "whole");
    assert_eq!(facts["waits"]["count"], 0);
    assert!(text.contains("full: asked for by --pull full"), "{text}");
    assert!(text.contains("full pull"), "{text}");
    node.run(["rm", "-f", "whole"]).unwrap();
}

#[test]
fn a_container_that_is_not_there() {
    let node = thaw();
    let (_, said) = refused(&node, &["doctor", "--explain", "nobody"]);
    assert!(said.contains("nobody"), "{said}");
}
