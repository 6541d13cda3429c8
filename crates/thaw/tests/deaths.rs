//! Daemon and keeper are killed under containers and mounts that go on reading: whoever reads gets
//! the right bytes or an error, within a bound, and nothing is left at the end.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

/// One body of tests for each transport.
macro_rules! by_every_transport {
    ($($name:ident),* $(,)?) => {
        mod fanotify {
            $(#[test] fn $name() { super::$name("fanotify"); })*
        }
        mod fuse {
            $(#[test] fn $name() { super::$name("fuse"); })*
        }
    };
}

#[path = "deaths/answers.rs"]
mod answers;
#[path = "deaths/chance.rs"]
mod chance;
#[path = "deaths/chaos.rs"]
mod chaos;
#[path = "deaths/clock.rs"]
mod clock;
#[path = "deaths/commands.rs"]
mod commands;
#[path = "deaths/disks.rs"]
mod disks;
#[path = "deaths/ends.rs"]
mod ends;
#[path = "deaths/kept.rs"]
mod kept;
#[path = "deaths/readers.rs"]
mod readers;
#[path = "deaths/registries.rs"]
mod registries;
#[path = "deaths/replaced.rs"]
mod replaced;
#[path = "deaths/space.rs"]
mod space;
#[path = "deaths/starting.rs"]
mod starting;
#[path = "deaths/stopped.rs"]
mod stopped;
#[path = "deaths/unruly.rs"]
mod unruly;
#[path = "deaths/vigil.rs"]
mod vigil;
#[path = "deaths/wishes.rs"]
mod wishes;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use serde_json::Value;
use tempfile::TempDir;
use thaw_testkit::image::{Entry, Image, Layer};
use thaw_testkit::registry::{self, Registry};
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

const NAME: &str = "read:1";

by_every_transport!(
    killed_daemons_are_succeeded_and_no_read_fails,
    a_read_waits_over_the_death_of_the_daemon,
    with_a_monitor_alive_daemon_and_keeper_may_die_together,
    without_a_holder_the_container_is_ended_and_unmounted,
    without_a_holder_one_of_whose_image_nothing_is_remembered_is_ended_too,
);

const BUSYBOX: &str = "/bin/busybox";
const LAYERS: usize = 3;
const FILES: usize = 24;
const FILE_BYTES: usize = 96 << 10;
/// Longer than any reader may have to wait.
const BOUND: Duration = Duration::from_secs(40);
/// The same where a bound of some seconds is configured ([`bound`]), a file's read being some faults: less
/// than the bound that there is else.
const CONFIGURED_BOUND: Duration = Duration::from_secs(20);

fn thaw() -> Thaw {
    Thaw::new(env!("CARGO_BIN_EXE_thaw")).unwrap()
}

/// Bytes that no compression shrinks, and none zero: a hole is never right.
fn noise(seed: usize) -> Vec<u8> {
    let mut state = seed as u64 * 2 + 1;
    let mut byte = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8 | 1
    };
    (0..FILE_BYTES).map(|_| byte()).collect()
}

/// An image of several layers in a registry, accelerated.
struct Scene {
    image: String,
    /// What must be read, by path in the image.
    files: BTreeMap<String, Vec<u8>>,
    /// `None` while it is down.
    registry: Option<Registry>,
    /// Its address.
    host: String,
    directory: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self::of(LAYERS, FILES)
    }

    /// One with as many layers, and files in each.
    fn of(count: usize, each: usize) -> Self {
        let directory = scratch::directory().unwrap();
        let registry = registry("127.0.0.1:0", &directory.path().join("registry"));
        let program = fs::read(BUSYBOX).expect("busybox-static is needed: cargo xtask setup");
        let mut files = BTreeMap::new();
        let mut layers = vec![Layer::new([
            Entry::directory("./"),
            Entry::directory("bin"),
            Entry::file("bin/busybox", program).mode(0o755),
            Entry::symlink("bin/sh", "busybox"),
            Entry::symlink("bin/cat", "busybox"),
            Entry::symlink("bin/sleep", "busybox"),
            Entry::directory("srv"),
        ])];
        for layer in 0..count {
            let mut entries = vec![Entry::directory("./")];
            for file in 0..each {
                let (name, bytes) = (format!("srv/f{layer}-{file}"), noise(layer * 1000 + file));
                entries.push(Entry::file(name.as_str(), bytes.clone()));
                files.insert(name, bytes);
            }
            layers.push(Layer::new(entries));
        }
        let layout = Image::new(layers)
            .config("Env", serde_json::json!(["PATH=/bin"]))
            .write(&directory.path().join("layout"), "latest")
            .unwrap();
        let image = layout.push(&registry, NAME).unwrap();
        thaw().run(["accelerate", &image]).unwrap();
        Self {
            image,
            files,
            host: registry.host().to_owned(),
            registry: Some(registry),
            directory,
        }
    }

    /// Has the registry come up again, with what it had.
    fn restore(&mut self) {
        let storage = self.directory.path().join("registry");
        self.registry = Some(registry(&self.host, &storage));
    }

    /// Mounts it lazily.
    fn mount(&self, node: &Thaw, transport: &str, dir: &Path) {
        let options = ["mount", "--pull", "lazy", "--transport", transport];
        let dir = dir.to_str().unwrap();
        node.run(options.into_iter().chain([&*self.image, dir]))
            .unwrap();
    }

    /// Starts a container that does nothing; answers with its first process's root directory.
    fn start(&self, node: &Thaw, more: &[&str]) -> PathBuf {
        self.start_as(node, "box", &self.image, more)
    }

    /// The same under another name, from wherever the image is.
    fn start_as(&self, node: &Thaw, name: &str, image: &str, more: &[&str]) -> PathBuf {
        let mut args = vec!["run", "-d", "--name", name, "--pull", "lazy"];
        args.extend(more);
        args.extend([image, "--", "sleep", "1000"]);
        let id = node.run(args).unwrap();
        let root = inside(node, id.trim());
        // A page of the program that cannot be read is its death, not only an error.
        fs::read(root.join("bin/busybox")).unwrap();
        root
    }

    /// Reads every file below `root` from several threads, each in another order. Errors are
    /// counted and the file is tried again; wrong bytes are never right, nor is waiting too long.
    fn read_all(&self, root: &Path, progress: &AtomicUsize) -> usize {
        let failed = AtomicUsize::new(0);
        let names: Vec<&String> = self.files.keys().collect();
        thread::scope(|scope| {
            for reader in 0..3 {
                let (names, failed) = (&names, &failed);
                scope.spawn(move || {
                    for step in 0..names.len() {
                        let name = names[(step * [1, 5, 7][reader] + reader * 11) % names.len()];
                        let begin = Instant::now();
                        while let Err(error) = self.read(root, name) {
                            assert_eq!(error.raw_os_error(), Some(5), "{name}: {error}");
                            failed.fetch_add(1, Ordering::SeqCst);
                            thread::sleep(Duration::from_millis(5));
                            assert!(begin.elapsed() < BOUND, "{name} fails on and on");
                        }
                        assert!(begin.elapsed() < BOUND, "{name} was waited for too long");
                        progress.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        failed.load(Ordering::SeqCst)
    }

    fn read(&self, root: &Path, name: &str) -> io::Result<()> {
        let bytes = fs::read(root.join(name))?;
        assert!(bytes == self.files[name], "wrong bytes in {name}");
        Ok(())
    }
}

/// A configuration whose bound is as many seconds, beside the store.
fn bound(node: &Thaw, seconds: u32) -> String {
    let path = node.root().with_file_name("config.toml");
    fs::write(&path, format!("fault-timeout-seconds = {seconds}\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// A registry whose storage stays where it is.
fn registry(address: &str, storage: &Path) -> Registry {
    let options = registry::Options {
        address: address.to_owned(),
        storage: Some(storage.to_owned()),
        ..registry::Options::default()
    };
    Registry::start_with(&options).unwrap()
}

/// The root directory of a container's first process.
fn inside(node: &Thaw, id: &str) -> PathBuf {
    let dir = node.root().join("containers").join(id);
    let state = fs::read(dir.join("state.json")).unwrap();
    let state: Value = serde_json::from_slice(&state).unwrap();
    PathBuf::from(format!("/proc/{}/root", state["phase"]["init"]["pid"]))
}

/// A directory to mount at, gone with the store.
fn target(node: &Thaw) -> PathBuf {
    let dir = node.root().with_file_name("target");
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Processes of the store whose command line has `word`.
fn processes(node: &Thaw, word: &str) -> Vec<u32> {
    let root = node.root().to_str().unwrap();
    let pids = fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words.contains(&root.as_bytes()) && words.contains(&word.as_bytes())
        })
        .collect()
}

/// Kills processes, and waits until all of their threads are gone.
fn kill(pids: &[u32]) {
    let open = |pid: &u32| {
        let pid = Pid::from_raw(pid.cast_signed()).unwrap();
        pidfd_open(pid, PidfdFlags::empty()).unwrap()
    };
    let held: Vec<_> = pids.iter().map(open).collect();
    for process in &held {
        pidfd_send_signal(process, Signal::KILL).unwrap();
    }
    for process in &held {
        let mut end = [PollFd::new(process, PollFlags::IN)];
        let bound = Timespec::try_from(BOUND).unwrap();
        assert_eq!(poll(&mut end, Some(&bound)).unwrap(), 1, "it does not die");
    }
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < BOUND, "{what} did not come");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What is left in the store but for what it always has.
fn leftovers(node: &Thaw) -> Vec<PathBuf> {
    let mut dirs = vec![node.root().to_owned()];
    let mut left = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => dirs.push(entry.path()),
                false => left.push(entry.path()),
            }
        }
    }
    let always = ["daemon.pid", "daemon.log", "thaw.sock", ".lock"];
    left.retain(|path| !always.iter().any(|name| path.ends_with(name)));
    left
}

/// Everything is given back, by whichever daemon there is now.
fn nothing_is_left(node: &Thaw) {
    node.run(["unmount", "--all"]).unwrap();
    node.run(["gc", "--all"]).unwrap();
    // The keeper is told to end, and takes its socket with it.
    let begin = Instant::now();
    while !leftovers(node).is_empty() && begin.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(leftovers(node), Vec::<PathBuf>::new());
    let root = node.root().to_str().unwrap();
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(root), "{mounts}");
    eventually("the keeper's end", || processes(node, "keeper").is_empty());
}

fn killed_daemons_are_succeeded_and_no_read_fails(transport: &str) {
    let scene = Scene::new();
    let (mut kills, mut read) = (0, 0);
    for round in 0..5u64 {
        let node = thaw();
        let dir = target(&node);
        scene.mount(&node, transport, &dir);
        let inside = scene.start(&node, &["--net", "none", "--transport", transport]);
        let progress = AtomicUsize::new(0);
        thread::scope(|scope| {
            let readers = [&dir, &inside].map(|root| {
                let (scene, progress) = (&scene, &progress);
                scope.spawn(move || scene.read_all(root, progress))
            });
            for moment in 0..3 {
                thread::sleep(Duration::from_millis(10 + 17 * round * (moment + 1) % 60));
                kill(&[node.daemon().unwrap()]);
                thread::sleep(Duration::from_millis(30 * (round % 3)));
                node.run(["images"]).unwrap();
                kills += 1;
            }
            for reader in readers {
                let failed = reader.join().unwrap();
                let log = || fs::read_to_string(node.root().join("daemon.log")).unwrap();
                assert_eq!(failed, 0, "a read failed: {}", log());
            }
        });
        read += progress.load(Ordering::SeqCst);
        let listed: Value = serde_json::from_str(&node.run(["ps", "--json"]).unwrap()).unwrap();
        assert_eq!(listed[0]["name"], "box", "{listed}");
        node.run(["exec", "box", "sh", "-c", "cat /srv/f2-1 > /dev/null"])
            .unwrap();
        node.run(["stop", "-t", "0", "box"]).unwrap();
        node.run(["rm", "box"]).unwrap();
        nothing_is_left(&node);
    }
    println!("{read} files read over {kills} deaths");
}

fn a_read_waits_over_the_death_of_the_daemon(transport: &str) {
    let scene = Scene::new();
    let node = thaw();
    let dir = target(&node);
    scene.mount(&node, transport, &dir);
    kill(&[node.daemon().unwrap()]);
    thread::scope(|scope| {
        let reader = scope.spawn(|| scene.read(&dir, "srv/f1-3"));
        thread::sleep(Duration::from_millis(300));
        assert!(!reader.is_finished(), "nobody could have served this read");
        node.run(["images"]).unwrap();
        reader.join().unwrap().unwrap();
    });
    assert_eq!(scene.read_all(&dir, &AtomicUsize::new(0)), 0);
    nothing_is_left(&node);
}

fn with_a_monitor_alive_daemon_and_keeper_may_die_together(transport: &str) {
    let scene = Scene::new();
    let mut failed = 0;
    for round in 0..5u64 {
        let node = thaw();
        let inside = scene.start(&node, &["--net", "none", "--transport", transport]);
        let progress = AtomicUsize::new(0);
        thread::scope(|scope| {
            let reader = scope.spawn(|| scene.read_all(&inside, &progress));
            for moment in 0..2 {
                thread::sleep(Duration::from_millis(15 + 13 * round * (moment + 1) % 50));
                let (daemon, keeper) = (node.daemon().unwrap(), processes(&node, "keeper")[0]);
                let either_first = [[daemon, keeper], [keeper, daemon]];
                kill(&either_first[usize::from(round % 2 == 0)]);
                if round == 3 {
                    fs::remove_file(node.root().join("keeper.sock")).unwrap();
                }
                thread::sleep(Duration::from_millis(100));
                node.run(["images"]).unwrap();
            }
            failed += reader.join().unwrap();
        });
        node.run(["exec", "box", "sh", "-c", "cat /srv/f2-1 > /dev/null"])
            .unwrap();
        node.run(["stop", "-t", "0", "box"]).unwrap();
        node.run(["rm", "box"]).unwrap();
        nothing_is_left(&node);
    }
    println!("{failed} reads failed in 10 deaths of both");
    assert!(transport == "fanotify" || failed == 0);
}

fn without_a_holder_the_container_is_ended_and_unmounted(transport: &str) {
    without_a_holder(transport, |_| ());
}

fn without_a_holder_one_of_whose_image_nothing_is_remembered_is_ended_too(transport: &str) {
    without_a_holder(transport, |node| {
        fs::remove_dir_all(node.root().join("images")).unwrap();
    });
}

/// `meanwhile` is done when nobody is left, and no daemon has come.
fn without_a_holder(transport: &str, meanwhile: impl FnOnce(&Thaw)) {
    let scene = Scene::new();
    let node = thaw();
    scene.start(&node, &["--net", "none", "--transport", transport]);
    // In this order: a daemon that sees its keeper die starts another one.
    let mut all = vec![node.daemon().unwrap()];
    all.extend(processes(&node, "monitor"));
    all.extend(processes(&node, "keeper"));
    assert_eq!(all.len(), 3);
    kill(&all);
    meanwhile(&node);
    eventually("the end of what may have read zeros", || {
        node.run(["ps", "--json"]).unwrap().trim() == "[]"
    });
    let root = node.root().to_str().unwrap();
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let of_images = |line: &&str| line.contains(" erofs ") || line.contains(" overlay ");
    let mut left = mounts.lines().filter(|line| line.contains(root));
    assert_eq!(left.find(of_images), None);
    node.run(["rm", "box"]).unwrap();
    nothing_is_left(&node);
}

#[test]
fn an_image_that_was_filled_needs_no_process() {
    let scene = Scene::new();
    let node = thaw();
    let dir = target(&node);
    scene.mount(&node, "fanotify", &dir);
    let inside = scene.start(&node, &["--net", "none", "--fill"]);
    eventually("the whole image", || {
        let images: Value = serde_json::from_str(&node.run(["images", "--json"]).unwrap()).unwrap();
        images[0]["whole"] == true
    });
    let keeper = processes(&node, "keeper")[0];
    eventually("the end of all marks", || marks(keeper) == 0);
    // The daemon first: it would start another keeper. The monitor would start another daemon.
    let mut all = vec![node.daemon().unwrap()];
    all.extend(processes(&node, "monitor"));
    all.push(keeper);
    assert_eq!(all.len(), 3);
    kill(&all);
    let both_are_read = || {
        for root in [&dir, &inside] {
            assert_eq!(scene.read_all(root, &AtomicUsize::new(0)), 0);
        }
    };
    both_are_read();
    // The next daemon ends what may have read zeros, which this has not.
    node.run(["images"]).unwrap();
    both_are_read();
    let listed: Value = serde_json::from_str(&node.run(["ps", "--json"]).unwrap()).unwrap();
    assert_eq!(listed[0]["status"], "running", "{listed}");
    node.run(["rm", "-f", "box"]).unwrap();
    nothing_is_left(&node);
}

/// It is not taken over, but reads no zeros.
#[test]
fn a_container_of_a_whole_image_goes_on_though_its_acceleration_is_gone() {
    let scene = Scene::new();
    let node = thaw();
    let inside = scene.start(&node, &["--net", "none", "--fill"]);
    eventually("the whole image", || {
        let images: Value = serde_json::from_str(&node.run(["images", "--json"]).unwrap()).unwrap();
        images[0]["whole"] == true
    });
    let keeper = processes(&node, "keeper")[0];
    eventually("the end of all marks", || marks(keeper) == 0);
    let mut all = vec![node.daemon().unwrap()];
    all.extend(processes(&node, "monitor"));
    all.push(keeper);
    kill(&all);
    let mut gone = 0;
    for blob in fs::read_dir(node.root().join("blobs")).unwrap().flatten() {
        let is_artifact = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).contains("artifactType");
        if fs::read(blob.path()).is_ok_and(is_artifact) {
            fs::remove_file(blob.path()).unwrap();
            gone += 1;
        }
    }
    assert!(gone > 0, "no acceleration is here");
    let listed: Value = serde_json::from_str(&node.run(["ps", "--json"]).unwrap()).unwrap();
    assert_eq!(listed[0]["status"], "running", "{listed}");
    assert_eq!(scene.read_all(&inside, &AtomicUsize::new(0)), 0);
    node.run(["rm", "-f", "box"]).unwrap();
}

/// Its monitor holds an event group of which nothing is served any more.
#[test]
fn a_container_of_a_whole_image_chooses_no_transport() {
    let scene = Scene::new();
    let other = Scene::of(2, 5);
    let node = thaw();
    let by = |transport| ["--net", "none", "--fill", "--transport", transport];
    scene.start(&node, &by("fanotify"));
    let keeper = processes(&node, "keeper")[0];
    eventually("the end of all marks", || marks(keeper) == 0);
    other.start_as(&node, "other", &other.image, &by("fuse"));
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let devices = format!("{}/devices fuse.thaw", node.root().display());
    assert!(mounts.contains(&devices), "{mounts}");
    node.run(["rm", "-f", "box", "other"]).unwrap();
    nothing_is_left(&node);
}

#[test]
fn with_fuse_an_image_that_was_filled_needs_no_process_when_it_is_mounted_again() {
    let scene = Scene::new();
    let node = thaw();
    let dir = target(&node);
    let both = || vec![node.daemon().unwrap(), processes(&node, "keeper")[0]];
    scene.mount(&node, "fuse", &dir);
    scene.start(&node, &["--net", "none", "--fill", "--transport", "fuse"]);
    eventually("the whole image", || {
        let images: Value = serde_json::from_str(&node.run(["images", "--json"]).unwrap()).unwrap();
        images[0]["whole"] == true
    });
    node.run(["stop", "-t", "0", "box"]).unwrap();
    node.run(["rm", "box"]).unwrap();
    kill(&both());
    let error = scene.read(&dir, "srv/f1-3").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
    // The next daemon takes away what nobody serves.
    node.run(["images"]).unwrap();
    assert!(!dir.join("srv").exists());

    scene.mount(&node, "auto", &dir);
    kill(&[node.daemon().unwrap()]);
    kill(&processes(&node, "keeper"));
    assert_eq!(scene.read_all(&dir, &AtomicUsize::new(0)), 0);
    nothing_is_left(&node);
}

/// How many files the event groups of a process watch.
fn marks(pid: u32) -> usize {
    let infos = fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .unwrap()
        .flatten();
    let texts = infos.filter_map(|info| fs::read_to_string(info.path()).ok());
    texts
        .map(|text| {
            text.lines()
                .filter(|l| l.starts_with("fanotify ino:"))
                .count()
        })
        .sum()
}

#[test]
fn the_network_goes_with_everything_else() {
    let bridge = Path::new("/sys/class/net/thaw0");
    // Another store's containers may have left it, or be connected still: tests run side by side.
    let goes = |node: &Thaw| {
        eventually("the end of the bridge", || {
            node.run(["gc", "--all"]).unwrap();
            !bridge.exists()
        });
    };
    goes(&thaw());
    let forwards = || fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    let before = forwards();
    let scene = Scene::new();
    let node = thaw();
    scene.start(&node, &["--net", "bridge"]);
    assert!(bridge.exists());
    assert_eq!(forwards(), "1\n");
    // The next daemon puts back what somebody took away of the firewall.
    let saved = || {
        let saved = std::process::Command::new("iptables-save").output();
        String::from_utf8(saved.unwrap().stdout).unwrap()
    };
    let is_ours = |line: &&str| line.contains("MASQUERADE") && line.contains("thaw0");
    let rule = saved().lines().find(is_ours).unwrap().to_owned();
    let delete = rule.replacen("-A", "iptables -w 5 -t nat -D", 1);
    let deleted = std::process::Command::new("sh")
        .args(["-c", &delete])
        .status();
    assert!(deleted.unwrap().success(), "{delete}");
    kill(&[node.daemon().unwrap()]);
    node.run(["images"]).unwrap();
    eventually("the rule", || saved().contains(&rule));
    node.run(["gc", "--all"]).unwrap();
    assert!(bridge.exists(), "a container is connected");
    node.run(["stop", "-t", "0", "box"]).unwrap();
    node.run(["rm", "box"]).unwrap();
    let planned = node.run(["gc", "--all", "--dry-run"]).unwrap();
    assert!(planned.contains("network"), "{planned}");
    nothing_is_left(&node);
    goes(&thaw());
    assert_eq!(forwards(), before);
    assert!(!saved().contains("thaw0"));
    assert!(!Path::new("/run/thaw/network/thaw0.json").exists());
}

/// All Rust sources below a directory, one behind the other.
fn sources(dir: &Path, all: &mut String) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        match entry.file_type().unwrap().is_dir() {
            true => sources(&path, all),
            false if path.extension().is_some_and(|it| it == "rs") => {
                all.push_str(&fs::read_to_string(&path).unwrap());
            }
            false => {}
        }
    }
}

/// "A row without one does not belong here."
#[test]
fn every_row_of_the_document_has_a_test() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let document = fs::read_to_string(crates.with_file_name("docs/failure.md")).unwrap();
    let mut all = String::new();
    sources(crates, &mut all);
    let rows = document.lines().filter(|line| line.ends_with(" |"));
    let rows: Vec<_> = rows
        .skip_while(|row| !row.starts_with("| fault |"))
        .collect();
    let table = rows[1..]
        .iter()
        .take_while(|row| row.matches('|').count() == 5);
    let mut count = 0;
    for row in table {
        let cell = row.rsplit('|').nth(1).unwrap();
        let names: Vec<_> = cell.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test: {row}");
        for name in names {
            assert!(
                all.contains(&format!("fn {name}(")),
                "{name} is no test: {row}"
            );
        }
        count += 1;
    }
    assert!(count > 60, "{count} rows");
}
