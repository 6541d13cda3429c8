//! A repository that never says what it has for an image: the start goes on without.

use std::fs;
use std::time::Duration;

use thaw_testkit::far::Far;

use crate::signing::{Keys, Signed, full};
use crate::support::{Scene, sh, thaw};

/// A configuration that waits for a second, with more in it.
fn impatient(path: &str, more: &str) -> String {
    fs::write(path, format!("search-timeout-seconds = 1\n{more}")).unwrap();
    path.to_owned()
}

#[test]
fn a_start_does_not_wait_for_referrers_that_never_come() {
    let scene = Scene::accelerated();
    let far = Far::new(scene.registry.host(), Duration::ZERO).unwrap();
    let image = scene.image.replace(scene.registry.host(), &far.host());
    let withheld = far.withhold(&format!("/referrers/{}", scene.layout.digest()));
    let node = thaw();
    let config = impatient(node.root().with_extension("toml").to_str().unwrap(), "");
    let why = full(&node, &config, &image);
    assert!(why.contains("did not give referrers of"), "{why}");
    assert!(why.contains("within 1.0 s"), "{why}");
    assert_eq!(withheld.asked(), 1);
}

#[test]
fn a_start_does_not_wait_for_signatures_that_never_come() {
    let keys = Keys::new(&["ours"]);
    let signed = Signed::of(Scene::accelerated());
    let host = signed.scene.registry.host();
    let far = Far::new(host, Duration::ZERO).unwrap();
    let image = signed.pinned().replace(host, &far.host());
    let withheld = far.withhold(".sig");
    let node = thaw();
    let config = keys.config(&["ours"], "");
    let trust = fs::read_to_string(&config).unwrap();
    let why = full(&node, &impatient(&config, &trust), &image);
    assert!(why.contains("did not give manifest"), "{why}");
    let soon = ["within 0.", "within 1.0 s"];
    assert!(soon.iter().any(|soon| why.contains(soon)), "{why}");
    assert!(withheld.asked() > 0);
}

#[test]
fn a_repository_that_was_not_heard_is_asked_for_a_working_set_again() {
    let scene = Scene::accelerated();
    let far = Far::new(scene.registry.host(), Duration::ZERO).unwrap();
    let node = thaw();
    let trusted = format!("trusted-repositories = [\"{}/elsewhere\"]\n", far.host());
    let config = node.root().with_extension("toml");
    let config = impatient(config.to_str().unwrap(), &trusted);
    let start = || {
        // For this profile the image's own repository has no working set.
        let flags = ["--pull", "lazy", "--profile", "other", "--config", &config];
        sh(&node, &flags, &scene.image, "cat /srv/message");
        // Else the next one has the same mount.
        node.run(["gc", "--cache-size", "1k"]).unwrap();
    };
    // What is asked of it says which image is meant.
    let hex = scene.layout.digest().hex();
    for _ in 0..2 {
        let withheld = far.withhold(&hex);
        start();
        assert!(withheld.asked() > 0, "not asked");
    }
    // Once it was heard, and a busy machine may take more than a second for that, it is asked no more.
    let is_asked = |_| {
        start();
        let withheld = far.withhold(&hex);
        start();
        withheld.asked() > 0
    };
    assert!(!(0..10).all(is_asked), "asked again after it was heard");
}
