//! By whose word a layer has what it has is durable before what it has: on filesystems where what is synced survives a power cut alone
//! (btrfs), the words would else be older than the bytes. Seen in the order in which a daemon syncs its files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use thaw_testkit::process::Killed;
use thaw_testkit::thaw::Thaw;

use crate::support::{Scene, json, kill_daemon, run, thaw, until};

/// Starts a daemon, and adds its system calls to a file.
fn strace(node: &Thaw, calls: &Path) -> Killed {
    let daemon = node.command(["daemon"]);
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-y", "-e", "trace=fsync,fdatasync", "-A", "-o"])
        .arg(calls)
        .arg(daemon.get_program())
        .args(daemon.get_args())
        .stderr(Stdio::null());
    let strace = Killed::spawn(&mut strace).expect("strace: `cargo xtask setup` installs it");
    until("the daemon", || node.daemon().is_some());
    strace
}

/// A daemon whose system calls are written down. They are no longer when this is dropped.
struct Watched {
    node: Thaw,
    calls: PathBuf,
    strace: Killed,
}

impl Watched {
    fn new() -> Self {
        let node = thaw();
        let calls = node.root().with_file_name("calls");
        let strace = strace(&node, &calls);
        Self {
            node,
            calls,
            strace,
        }
    }

    /// Kills the daemon, and watches the next one, too.
    fn succeed(&mut self) {
        kill_daemon(&self.node);
        self.strace = strace(&self.node, &self.calls);
    }

    /// The files that were synced so far, in order, as paths in the store.
    fn synced(&self) -> Vec<String> {
        let root = format!("<{}/", self.node.root().canonicalize().unwrap().display());
        let calls = fs::read_to_string(&self.calls).unwrap();
        let path = |line: &str| Some(line.split_once(&root)?.1.split_once('>')?.0.to_owned());
        calls.lines().filter_map(path).collect()
    }

    /// The names of an image's layers in the store.
    fn layers(&self, image: &str) -> Vec<String> {
        let facts = json(&self.node.run(["inspect", "--json", image]).unwrap());
        let layers = facts["layers"].as_array().unwrap().iter();
        let name = |layer: &str| layer.strip_prefix("sha256:").unwrap().to_owned();
        let layers = layers.map(|layer| name(layer["diff_id"].as_str().unwrap()));
        layers.collect()
    }

    /// Checks the order for the layer that is never whole: what a whole one has is nobody's word.
    fn check(&self, image: &str) {
        let name = &self.layers(image)[1];
        let synced = self.synced();
        let first = |path: String| synced.iter().position(|it| *it == path);
        let layer = first(format!("layers/{name}/tar")).expect("the layer was synced");
        let words = first(format!("images/words/{name}"));
        assert!(words.is_some_and(|words| words < layer), "{synced:?}");
    }
}

const LAZILY: [&str; 2] = ["--pull", "lazy"];

#[test]
fn words_are_durable_before_a_layer_that_is_unmounted() {
    let scene = Scene::accelerated();
    let watched = Watched::new();
    assert!(
        run(&watched.node, &LAZILY, &scene.image, &[])
            .status
            .success()
    );
    watched.node.run(["unmount", "--all"]).unwrap();
    watched.check(&scene.image);
}

#[test]
fn words_are_durable_before_a_layer_that_is_made_smaller() {
    let scene = Scene::accelerated();
    let watched = Watched::new();
    let lazily = [
        "mount",
        "--pull",
        "lazy",
        "--transport",
        "fuse",
        &scene.image,
    ];
    let dir = crate::support::target(&watched.node);
    watched.node.run(lazily.into_iter().chain([&*dir])).unwrap();
    fs::read(format!("{dir}/srv/message")).unwrap();
    watched.node.run(["gc", "--cache-size", "1"]).unwrap();
    watched.check(&scene.image);
    watched.node.run(["unmount", &dir]).unwrap();
}

#[test]
fn words_are_durable_before_layers_that_a_daemon_leaves_to_the_next() {
    let scene = Scene::accelerated();
    let watched = Watched::new();
    let dir = crate::support::target(&watched.node);
    let lazily = ["mount", "--pull", "lazy", &scene.image, &dir];
    watched.node.run(lazily).unwrap();
    fs::read(format!("{dir}/srv/message")).unwrap();
    let daemon = watched.node.daemon().unwrap().cast_signed();
    kill_process(Pid::from_raw(daemon).unwrap(), Signal::TERM).unwrap();
    until("its end", || watched.node.daemon().is_none());
    watched.check(&scene.image);
}

#[test]
fn what_a_full_pull_brought_is_durable_while_it_is_mounted() {
    a_full_pull_is_durable(|_| ());
}

#[test]
fn what_a_full_pull_brought_is_durable_though_its_daemon_is_killed() {
    a_full_pull_is_durable(Watched::succeed);
}

/// Some time after it, without anything but what happens then.
fn a_full_pull_is_durable(then: impl FnOnce(&mut Watched)) {
    let scene = Scene::new();
    let mut watched = Watched::new();
    let dir = crate::support::target(&watched.node);
    let fully = ["mount", "--pull", "full", &scene.image, &dir];
    watched.node.run(fully).unwrap();
    then(&mut watched);
    let layers = watched.layers(&scene.image);
    until("all of it is synced", || {
        let synced = watched.synced();
        let is_synced = |name: &String| synced.contains(&format!("layers/{name}/tar"));
        layers.iter().all(is_synced)
    });
    watched.node.run(["unmount", &dir]).unwrap();
}
