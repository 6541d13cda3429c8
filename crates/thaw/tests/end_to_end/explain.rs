//! `doctor --explain`: why a start was slow, of containers that live and of those that have ended.

use serde_json::Value;
use thaw_testkit::thaw::Thaw;

use crate::support::{Scene, json, kill_daemon, refused, thaw};

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
    let flags = ["--pull", "lazy", "--profile", "none"];
    start(&node, "slow", &flags, &scene.image);
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
    start(&node, "quick", &flags, &scene.image);
    let (quick, text) = explain(&node, "quick");
    assert_eq!(waits(&quick, "/srv/message"), 0, "{text}");

    // A daemon that did not see it says so.
    kill_daemon(&node);
    let (after, text) = explain(&node, "quick");
    assert_eq!(after["waits"]["known"], false);
    assert!(text.contains("are not known any more"), "{text}");
    node.run(["rm", "-f", "slow", "quick"]).unwrap();
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
