//! What was wished of a mount outlives the daemon.

use std::time::Duration;

use serde_json::Value;
use thaw_testkit::far::Far;
use thaw_testkit::thaw::Thaw;

use super::{FILE_BYTES, Scene, eventually, kill, nothing_is_left, thaw};

by_every_transport!(
    what_a_start_reads_is_kept_over_the_death_of_the_daemon,
    a_fill_goes_on_after_the_death_of_the_daemon,
);

/// Kills the daemon; the next one takes over.
fn succeed(node: &Thaw) {
    kill(&[node.daemon().unwrap()]);
    node.run(["images"]).unwrap();
}

fn json(node: &Thaw, args: &[&str]) -> Value {
    serde_json::from_str(&node.run(args).unwrap()).unwrap()
}

fn what_a_start_reads_is_kept_over_the_death_of_the_daemon(transport: &str) {
    let scene = Scene::new();
    let node = thaw();
    let options = ["--net", "none", "--profile", "mine"];
    let inside = scene.start(&node, &[&options[..], &["--transport", transport]].concat());
    scene.read(&inside, "srv/f0-1").unwrap();
    succeed(&node);
    scene.read(&inside, "srv/f2-1").unwrap();
    node.run(["stop", "-t", "0", "box"]).unwrap();
    node.run(["rm", "box"]).unwrap();
    let publish = [
        "accelerate",
        "--from-traces",
        "--local",
        "--profile",
        "mine",
    ];
    let set = json(&node, &[&publish[..], &["--json", &scene.image]].concat());
    let both = 2 * FILE_BYTES as u64;
    assert!(set["blocks"].as_u64().unwrap() >= both, "{set}");
    nothing_is_left(&node);
}

fn a_fill_goes_on_after_the_death_of_the_daemon(transport: &str) {
    let mut scene = Scene::new();
    // So far away that it takes seconds.
    let far = Far::new(&scene.host, Duration::from_millis(150)).unwrap();
    scene.image = scene.image.replace(&scene.host, &far.host());
    let node = thaw();
    let options = ["--net", "none", "--fill", "--transport", transport];
    scene.start(&node, &options);
    succeed(&node);
    let whole = || json(&node, &["images", "--json"])[0]["whole"] == true;
    assert!(!whole(), "it was filled before the daemon died");
    eventually("the whole image", whole);
    node.run(["rm", "-f", "box"]).unwrap();
    nothing_is_left(&node);
}
