//! Whatever a registry answers to a container's read: it waits, or it fails, and the container goes on.

use std::path::Path;
use std::time::Instant;

use thaw_testkit::unwilling::{Instead, Unwilling};

use super::{CONFIGURED_BOUND, Scene, bound, eventually, nothing_is_left, thaw};

by_every_transport!(
    a_wrong_answer_costs_a_read_time_only,
    an_answer_that_stays_wrong_is_an_error_and_the_container_goes_on,
);

const ANSWERS: [Instead; 10] = [
    Instead::Status(401, None),
    Instead::Status(403, None),
    Instead::Status(404, None),
    Instead::Status(416, None),
    Instead::Status(429, Some(1)),
    Instead::Status(429, None),
    Instead::Status(500, None),
    Instead::Status(503, Some(0)),
    Instead::Whole,
    Instead::Nothing,
];

/// A file that is a layer of its own: nothing of it comes with another.
fn file(number: usize) -> String {
    format!("srv/f{number}-0")
}

fn a_wrong_answer_costs_a_read_time_only(transport: &str) {
    let scene = Scene::of(ANSWERS.len(), 1);
    let registry = Unwilling::new(&scene.host).unwrap();
    let image = scene.image.replace(&scene.host, &registry.host());
    let node = thaw();
    let options = [
        "--net",
        "none",
        "--profile",
        "none",
        "--transport",
        transport,
    ];
    let inside = scene.start_as(&node, "box", &image, &options);
    for (number, instead) in ANSWERS.into_iter().enumerate() {
        registry.answer(instead, 1);
        scene
            .read(&inside, &file(number))
            .unwrap_or_else(|error| panic!("{instead:?}: {error}"));
        assert_eq!(registry.be_willing(), 1, "{instead:?}");
    }
    node.run(["rm", "-f", "box"]).unwrap();
    nothing_is_left(&node);
}

fn an_answer_that_stays_wrong_is_an_error_and_the_container_goes_on(transport: &str) {
    let scene = Scene::of(ANSWERS.len(), 1);
    let registry = Unwilling::new(&scene.host).unwrap();
    let image = scene.image.replace(&scene.host, &registry.host());
    let node = thaw();
    let config = bound(&node, 2);
    let options = [
        "--net",
        "none",
        "--profile",
        "none",
        "--config",
        &config,
        "--transport",
        transport,
    ];
    let inside = scene.start_as(&node, "box", &image, &options);
    let cat = |name: &str| {
        let inside = Path::new("/").join(name);
        node.output(["exec", "box", "cat", inside.to_str().unwrap()])
            .unwrap()
    };
    for (number, instead) in ANSWERS.into_iter().enumerate() {
        // All of a blob is as good as a range of it.
        if instead == Instead::Whole {
            continue;
        }
        registry.answer(instead, usize::MAX);
        let (begin, name) = (Instant::now(), file(number));
        let read = cat(&name);
        assert!(!read.status.success(), "{instead:?}");
        let said = String::from_utf8_lossy(&read.stderr);
        assert!(said.contains("Input/output error"), "{instead:?}: {said}");
        assert!(begin.elapsed() < CONFIGURED_BOUND, "{instead:?}");
        assert!(registry.be_willing() > 0, "{instead:?}");
        eventually("the file", || cat(&name).stdout == scene.files[&name]);
    }
    let names = scene.files.keys();
    names.for_each(|name| scene.read(&inside, name).unwrap());
    node.run(["rm", "-f", "box"]).unwrap();
    nothing_is_left(&node);
}
