//! What the tests share: the program with a store of its own, and an image that runs.

use std::fs;
use std::path::Path;
use std::process::Output;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;
use tempfile::TempDir;
use thaw_testkit::image::{Compression, Entry, Image, Layer, Layout};
use thaw_testkit::registry::Registry;
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

pub(crate) const BUSYBOX: &str = "/bin/busybox";

pub(crate) fn thaw() -> Thaw {
    Thaw::new(env!("CARGO_BIN_EXE_thaw")).unwrap()
}

/// [`image`], written to a layout directory.
pub(crate) fn busybox(directory: &Path) -> Layout {
    image(Compression::Gzip(6))
        .write(directory, "latest")
        .unwrap()
}

/// An image that runs: busybox, a large file that nobody reads, and one that `cat` can read; the
/// layer with these two is compressed as asked.
pub(crate) fn image(second: Compression) -> Image {
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
    Image::new([base, data.compression(second)])
        .config("Env", serde_json::json!(["PATH=/bin", "GREETING=hello"]))
        .config("Cmd", serde_json::json!(["sh", "-c", "cat /srv/message"]))
        .config("WorkingDir", "/srv")
}

/// A registry that has the busybox image, already accelerated by another node.
pub(crate) struct Scene {
    pub(crate) registry: Registry,
    pub(crate) layout: Layout,
    pub(crate) image: String,
    _directory: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with(image(Compression::Gzip(6)))
    }

    pub(crate) fn with(image: Image) -> Self {
        let registry = Registry::start().unwrap();
        let directory = scratch::directory().unwrap();
        let layout = image.write(&directory.path().join("layout"), "latest");
        let layout = layout.unwrap();
        let image = layout.push(&registry, "busybox:1").unwrap();
        Self {
            registry,
            layout,
            image,
            _directory: directory,
        }
    }

    pub(crate) fn accelerated() -> Self {
        let scene = Self::new();
        thaw().run(["accelerate", &scene.image]).unwrap();
        scene
    }
}

pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Runs `thaw run --rm --net none FLAGS IMAGE -- COMMAND`.
pub(crate) fn run(node: &Thaw, flags: &[&str], image: &str, command: &[&str]) -> Output {
    let mut all = vec!["run", "--rm", "--net", "none"];
    all.extend(flags);
    all.push(image);
    if !command.is_empty() {
        all.push("--");
        all.extend(command);
    }
    node.output(all).unwrap()
}

/// Standard output of `sh -c SCRIPT`, run like [`run`].
pub(crate) fn sh(node: &Thaw, flags: &[&str], image: &str, script: &str) -> String {
    stdout(&run(node, flags, image, &["sh", "-c", script]))
}

/// What a program that succeeded printed.
pub(crate) fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard error of a command that has to fail, and its exit code.
pub(crate) fn refused(node: &Thaw, args: &[&str]) -> (i32, String) {
    let output = node.output(args).unwrap();
    assert!(!output.status.success(), "{args:?}: {output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), said)
}

/// Kills the daemon, and waits until all of its threads are gone.
pub(crate) fn kill_daemon(node: &Thaw) {
    kill(node.daemon().unwrap());
}

/// Kills the keeper alike.
pub(crate) fn kill_keeper(node: &Thaw) {
    node.processes("keeper").into_iter().for_each(kill);
}

fn kill(pid: u32) {
    let pid = pid.cast_signed();
    let process = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    pidfd_send_signal(&process, Signal::KILL).unwrap();
    poll(&mut [PollFd::new(&process, PollFlags::IN)], None).unwrap();
}

/// The keys of a JSON object, in order.
pub(crate) fn keys(value: &Value) -> Vec<&str> {
    let object = value.as_object().unwrap_or_else(|| panic!("{value}"));
    object.keys().map(String::as_str).collect()
}

/// A directory to mount at, gone with the store.
pub(crate) fn target(node: &Thaw) -> String {
    let dir = node.root().with_file_name("target");
    fs::create_dir_all(&dir).unwrap();
    dir.to_str().unwrap().to_owned()
}

/// Waits until something is so.
pub(crate) fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..600 {
        if is_so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{what}: it does not come");
}
