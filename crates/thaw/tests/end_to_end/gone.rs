//! Commands that go away before their answer comes.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use thaw_testkit::far::Far;
use thaw_testkit::thaw::Thaw;

use crate::support::{Scene, json, kill_daemon, thaw};

/// Asks until the answer is right.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn listed(node: &Thaw, args: &[&str]) -> usize {
    let told = json(&node.run(args).unwrap());
    told.as_array().unwrap().len()
}

/// Runs a command, and kills it while the first layer is on its way.
fn kill_amid_a_pull(node: &Thaw, far: &Far, args: &[&str]) {
    let before = far.trips().len();
    let mut command = node.command(args);
    let mut command = command.stderr(Stdio::null()).spawn().unwrap();
    // The manifest and the configuration have come; answers take two seconds.
    wait_until("a pull begins", || far.trips().len() >= before + 2);
    std::thread::sleep(Duration::from_millis(300));
    command.kill().unwrap();
    command.wait().unwrap();
    // It finishes what was begun, which is nothing any more.
    node.run(["daemon", "--stop"]).unwrap();
}

#[test]
fn a_pull_that_nobody_waits_for_ends() {
    let scene = Scene::new();
    let far = Far::new(scene.registry.host(), Duration::from_secs(2)).unwrap();
    let image = scene.image.replace(scene.registry.host(), &far.host());
    let node = thaw();
    for args in [
        &["pull", &image][..],
        &["run", "--net", "none", "--pull", "full", &image],
        &["run", "--net", "none", "--transport", "directories", &image],
        &["accelerate", "--local", &image],
    ] {
        kill_amid_a_pull(&node, &far, args);
        assert_eq!(listed(&node, &["images", "--json"]), 0, "{args:?}");
        assert_eq!(listed(&node, &["ps", "--all", "--json"]), 0, "{args:?}");
        node.run(["gc", "--all"]).unwrap();
    }
    let pulled = json(&node.run(["pull", "--json", &image]).unwrap());
    assert_eq!(pulled["already_here"], false);
}

#[test]
fn a_container_that_nobody_begins_is_removed() {
    nobody_begins(|_| ());
}

#[test]
fn a_container_that_nobody_begins_is_removed_by_the_next_daemon() {
    nobody_begins(|node| {
        kill_daemon(node);
        node.run(["images"]).unwrap();
    });
}

fn nobody_begins(meanwhile: impl FnOnce(&Thaw)) {
    let scene = Scene::new();
    let node = thaw();
    // What the command asks of a daemon.
    std::fs::create_dir_all(node.root()).unwrap();
    let socket = node.root().join("thaw.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut command = node.command(["run", "--net", "none", "--name", "box", &scene.image]);
    let mut command = command.stderr(Stdio::null()).spawn().unwrap();
    let mut request = String::new();
    let (stream, _) = listener.accept().unwrap();
    BufReader::new(&stream).read_line(&mut request).unwrap();
    command.kill().unwrap();
    command.wait().unwrap();
    drop((stream, listener));
    std::fs::remove_file(&socket).unwrap();

    // Somebody who asks, hears the answer, and does nothing.
    node.run(["images"]).unwrap();
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let lines = BufReader::new(&stream).lines();
    let last: Value = json(&lines.last().unwrap().unwrap());
    assert!(last.to_string().contains("box"), "{last}");
    drop(stream);
    let all = ["ps", "--all", "--json"];
    assert_eq!(json(&node.run(all).unwrap())[0]["status"], "created");
    meanwhile(&node);
    wait_until("it is removed", || listed(&node, &all) == 0);
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let containers = node.root().join("containers");
    assert!(!table.contains(containers.to_str().unwrap()), "{table}");
}
