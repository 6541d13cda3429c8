//! The store's filesystem is full, or becomes read-only, under containers.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::Instant;

use rustix::process::Signal;
use tempfile::TempDir;
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

use super::{BOUND, CONFIGURED_BOUND, Scene, bound, eventually, inside, nothing_is_left};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

by_every_transport!(
    a_store_that_becomes_read_only,
    a_machine_that_was_reset,
    a_machine_whose_power_failed,
    a_disk_that_is_full_while_ten_containers_start,
    a_daemon_that_looked_at_a_full_disk_starts_lazily_once_there_is_space,
);

/// An ext4 filesystem of its own, in a file; gone with the value.
pub(crate) struct Disk {
    directory: TempDir,
}

fn run(program: &str, args: &[&str], path: &[&Path]) {
    let done = Command::new(program)
        .args(args)
        .args(path)
        .output()
        .unwrap();
    assert!(done.status.success(), "{program}: {done:?}");
}

impl Disk {
    pub(crate) fn new(megabytes: u64) -> Self {
        let directory = scratch::directory().unwrap();
        let file = directory.path().join("disk");
        File::create(&file)
            .unwrap()
            .set_len(megabytes << 20)
            .unwrap();
        // No blocks set aside: the last ones are root's, as we are.
        run(
            "mkfs.ext4",
            &["-q", "-m", "0", "-O", "^has_journal"],
            &[&file],
        );
        let disk = Self { directory };
        fs::create_dir(disk.path()).unwrap();
        disk.mount();
        disk
    }

    fn mount(&self) {
        let file = self.directory.path().join("disk");
        let options = ["-o", "loop,errors=remount-ro"];
        run("mount", &options, &[&file, &self.path()]);
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    pub(crate) fn store(&self) -> Thaw {
        Thaw::at(env!("CARGO_BIN_EXE_thaw"), self.path().join("store"))
    }

    /// Has the kernel find an error in it, so that it becomes read-only while files are open for
    /// writing.
    fn fail(&self) {
        let table = fs::read_to_string("/proc/mounts").unwrap();
        let at = self.path();
        let line = table
            .lines()
            .find(|line| line.split(' ').nth(1) == at.to_str());
        let device = line.unwrap().split(' ').next().unwrap();
        let name = device.strip_prefix("/dev/").unwrap();
        let trigger = format!("/sys/fs/ext4/{name}/trigger_fs_error");
        fs::write(trigger, "a test").unwrap();
        assert!(File::create(at.join("new")).is_err(), "it is read-only");
    }

    /// Does what an administrator does after that, when nothing uses it any more.
    fn repair(&self) {
        eventually("the end of all who have it", || self.unmount(&[]));
        let file = self.directory.path().join("disk");
        eventually("the end of its loop device", || {
            let devices = Command::new("losetup").arg("-j").arg(&file).output();
            devices.unwrap().stdout.is_empty()
        });
        let mut check = Command::new("e2fsck");
        check.args(["-f", "-y"]);
        let checked = check.arg(file).output();
        // 1: there were errors, and now there are none.
        let checked = checked.unwrap();
        assert!(matches!(checked.status.code(), Some(0 | 1)), "{checked:?}");
        self.mount();
    }

    fn unmount(&self, flags: &[&str]) -> bool {
        let done = Command::new("umount").args(flags).arg(self.path()).output();
        done.is_ok_and(|done| done.status.success())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What was killed may hold it for a moment.
        for _ in 0..40 {
            if self.unmount(&[]) {
                return;
            }
            thread::sleep(std::time::Duration::from_millis(50));
        }
        self.unmount(&["-l"]);
    }
}

/// Reads all files; those that cannot be read fail with one of `errors`. How many could.
fn read_all(scene: &Scene, dir: &Path, errors: &[i32]) -> usize {
    let begin = Instant::now();
    let read = |name: &&String| {
        let one = Instant::now();
        let Err(error) = scene.read(dir, name) else {
            return true;
        };
        assert!(
            one.elapsed() < CONFIGURED_BOUND && begin.elapsed() < 3 * BOUND,
            "reads wait although they must fail: {name} for {:?}",
            one.elapsed()
        );
        let known = error
            .raw_os_error()
            .is_some_and(|errno| errors.contains(&errno));
        assert!(known, "{name}: {error}");
        false
    };
    scene.files.keys().filter(read).count()
}

fn a_store_that_becomes_read_only(transport: &str) {
    let scene = Scene::new();
    let disk = Disk::new(48);
    let node = disk.store();
    let config = bound(&node, 4);
    let inside = scene.start(
        &node,
        &[
            "--net",
            "none",
            "--transport",
            transport,
            "--config",
            &config,
        ],
    );
    scene.read(&inside, "srv/f0-1").unwrap();
    disk.fail();
    let read = read_all(&scene, &inside, &[EIO]);
    assert!(read < scene.files.len(), "nothing can be written");
    scene.read(&inside, "srv/f0-1").unwrap();
    let Output { status, stderr, .. } = node
        .output([
            "run",
            "--net",
            "none",
            "--transport",
            transport,
            &scene.image,
            "--",
            "sh",
        ])
        .unwrap();
    let said = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(125), "{said}");
    assert!(said.contains("Read-only file system"), "{said}");

    // Nothing can be written down, but everything can be ended.
    node.run(["stop", "-t", "0", "box"]).unwrap();
    node.end().unwrap();

    // Put right, it is a store as after a crash of the machine.
    disk.repair();
    let node = disk.store();
    node.run(["rm", "box"]).unwrap();
    let inside = scene.start(&node, &["--net", "none", "--transport", transport]);
    assert_eq!(read_all(&scene, &inside, &[]), scene.files.len());
    node.run(["rm", "-f", "box"]).unwrap();
    nothing_is_left(&node);
}

/// Commands in a mount namespace of their own, in which the machine has been started another time.
struct Boot {
    dir: TempDir,
}

impl Boot {
    fn new() -> Self {
        let dir = scratch::directory().unwrap();
        let at = dir.path().display();
        let id = "11111111-2222-4333-8444-555555555555";
        // A namespace is held by a file that is not in it: on a mount that is not shared.
        let script = format!(
            "mkdir {at}/held && mount --bind {at}/held {at}/held && mount --make-private {at}/held
             touch {at}/held/ns && echo {id} > {at}/id
             unshare --mount={at}/held/ns mount --bind {at}/id /proc/sys/kernel/random/boot_id
             printf '#!/bin/sh\\nexec nsenter --mount={at}/held/ns {} \"$@\"' > {at}/thaw
             chmod +x {at}/thaw",
            env!("CARGO_BIN_EXE_thaw"),
        );
        run("sh", &["-ec", &script], &[]);
        Self { dir }
    }

    /// That store after the reset.
    fn store(&self, root: &Path) -> Thaw {
        Thaw::at(self.dir.path().join("thaw"), root)
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        let held = self.dir.path().join("held");
        for path in [held.join("ns"), held] {
            Command::new("umount").arg("-l").arg(path).status().ok();
        }
    }
}

fn a_machine_that_was_reset(transport: &str) {
    let scene = Scene::new();
    let node = super::thaw();
    let inside = scene.start(&node, &["--net", "none", "--transport", transport]);
    let target = super::target(&node);
    scene.mount(&node, transport, &target);
    for file in ["srv/f0-1", "srv/f1-1", "srv/f2-1"] {
        scene.read(&inside, file).unwrap();
    }
    // What is on the disk in the middle of it.
    let copy = node.root().with_file_name("after");
    run(
        "cp",
        &["-a", "-x", "--sparse=always"],
        &[node.root(), &copy],
    );
    node.run(["rm", "-f", "box"]).unwrap();
    super::nothing_is_left(&node);

    let boot = Boot::new();
    let node = boot.store(&copy);
    let containers = node.run(["ps", "--all", "--json"]).unwrap();
    let containers: serde_json::Value = serde_json::from_str(&containers).unwrap();
    assert_eq!(containers[0]["name"], "box");
    assert_ne!(containers[0]["status"], "running", "{containers}");
    let mounts = node.run(["mount", "--json"]).unwrap();
    assert_eq!(mounts.trim(), "[]", "nothing is mounted after a reset");
    node.run(["rm", "box"]).unwrap();
    let inside = scene.start(&node, &["--net", "none", "--transport", transport]);
    assert_eq!(read_all(&scene, &inside, &[]), scene.files.len());
    node.run(["rm", "-f", "box"]).unwrap();
    super::nothing_is_left(&node);
}

/// What is on the disk at one moment: nobody writes while it is copied.
fn power_cut(disk: &thaw_testkit::disk::Disk, node: &Thaw) -> thaw_testkit::disk::Disk {
    let daemon = node.daemon().unwrap();
    super::signal(daemon, Signal::STOP);
    let is_stopped = || {
        let mut tasks = fs::read_dir(format!("/proc/{daemon}/task")).unwrap();
        tasks.all(|task| {
            let stat = fs::read_to_string(task.unwrap().path().join("stat"));
            stat.is_ok_and(|stat| {
                stat.rsplit_once(") ")
                    .is_some_and(|it| it.1.starts_with('T'))
            })
        })
    };
    eventually("the end of what it had the kernel do", is_stopped);
    let after = disk.after_a_power_cut().unwrap();
    super::signal(daemon, Signal::CONT);
    after
}

/// What nobody has synced is gone: of the container maybe its name, of its layers what the last sync had.
fn a_machine_whose_power_failed(transport: &str) {
    let scene = Scene::new();
    let disk = thaw_testkit::disk::Disk::new(256 << 20).unwrap();
    let node = Thaw::at(env!("CARGO_BIN_EXE_thaw"), disk.root().join("store"));
    let inside = scene.start(&node, &["--net", "none", "--transport", transport]);
    let names: Vec<&String> = scene.files.keys().collect();
    let (before, after) = names.split_at(names.len() / 2);
    before
        .iter()
        .for_each(|name| scene.read(&inside, name).unwrap());
    let synced = power_cut(&disk, &node);
    after
        .iter()
        .for_each(|name| scene.read(&inside, name).unwrap());
    let last = power_cut(&disk, &node);
    node.run(["rm", "-f", "box"]).unwrap();
    nothing_is_left(&node);
    node.end().unwrap();

    for disk in [synced, last] {
        let boot = Boot::new();
        let node = boot.store(&disk.root().join("store"));
        let containers = node.run(["ps", "--json"]).unwrap();
        assert_eq!(containers.trim(), "[]", "nothing runs after a power cut");
        let mounts = node.run(["mount", "--json"]).unwrap();
        assert_eq!(mounts.trim(), "[]", "nothing is mounted after one");
        let listed = node.run(["ps", "--all", "--json"]).unwrap();
        if listed.trim() != "[]" {
            node.run(["rm", "box"]).unwrap();
        }
        let inside = scene.start(&node, &["--net", "none", "--transport", transport]);
        assert_eq!(read_all(&scene, &inside, &[]), scene.files.len());
        node.run(["rm", "-f", "box"]).unwrap();
        nothing_is_left(&node);
        node.end().unwrap();
    }
}

fn a_daemon_that_looked_at_a_full_disk_starts_lazily_once_there_is_space(transport: &str) {
    let scene = Scene::new();
    let disk = Disk::new(48);
    let node = disk.store();
    node.run(["images"]).unwrap();
    let rest = disk.path().join("rest");
    fill(&rest, &disk.path(), 0);
    let lazily = [
        "run",
        "--net",
        "none",
        "--pull",
        "lazy",
        "--transport",
        transport,
        &scene.image,
        "--",
        "sh",
        "-c",
        "exit 0",
    ];
    // What this machine can do cannot be tried now.
    let output = node.output(lazily).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("No space left"),
        "{said}"
    );
    fs::remove_file(rest).unwrap();
    node.run(lazily).unwrap();
}

fn a_disk_that_is_full_while_ten_containers_start(transport: &str) {
    let scene = Scene::new();
    let disk = Disk::new(48);
    let node = disk.store();
    node.run(["images", "--config", &bound(&node, 4)]).unwrap();
    // Enough for the program, not for all of the image.
    let filler = disk.path().join("filler");
    fill(&filler, &disk.path(), 5 << 20);
    let names: Vec<String> = (0..10).map(|number| format!("box{number}")).collect();
    let started: Vec<(String, Output)> = thread::scope(|scope| {
        let starts: Vec<_> = names
            .iter()
            .map(|name| {
                let args = [
                    "run",
                    "-d",
                    "--net",
                    "none",
                    "--pull",
                    "lazy",
                    "--transport",
                    transport,
                    "--name",
                    name,
                ];
                let mut command = node.command(args);
                command.args([scene.image.as_str(), "--", "sleep", "1000"]);
                scope.spawn(move || (name.clone(), command.output().unwrap()))
            })
            .collect();
        starts
            .into_iter()
            .map(|start| start.join().unwrap())
            .collect()
    });
    let mut running = Vec::new();
    for (name, output) in started {
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            let id = String::from_utf8_lossy(&output.stdout);
            running.push((name, inside(&node, id.trim())));
        } else {
            assert!(said.contains("No space left on device"), "{name}: {said}");
        }
    }
    let refused = names.len() - running.len();
    // A program that lacks a page of its own dies of it (SIGBUS): not before each has begun to sleep is the
    // rest of the disk taken.
    for (name, inside) in &running {
        let sleeps = inside.with_file_name("wchan");
        super::eventually(name, || {
            fs::read_to_string(&sleeps).is_ok_and(|at| at.contains("nanosleep"))
        });
    }
    let mut failed = 0;
    for (_, inside) in &running {
        failed += scene.files.len() - read_all(&scene, inside, &[EIO, ENOSPC]);
    }
    // Not a byte is left.
    fill(&disk.path().join("rest"), &disk.path(), 0);
    let Output { status, stderr, .. } = node
        .output([
            "run",
            "--net",
            "none",
            "--transport",
            transport,
            &scene.image,
            "--",
            "sh",
        ])
        .unwrap();
    let said = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(125), "{said}");
    assert!(
        said.contains("No space left on device") && said.contains("thaw gc"),
        "{said}"
    );
    println!("{refused} starts and {failed} reads failed");
    assert!(refused + failed > 0, "the disk was never full");

    fs::remove_file(&filler).unwrap();
    fs::remove_file(disk.path().join("rest")).unwrap();
    for (name, inside) in &running {
        eventually("every byte", || {
            read_all(&scene, inside, &[EIO, ENOSPC]) == scene.files.len()
        });
        node.run(["rm", "-f", name]).unwrap();
    }
    let inside = scene.start(&node, &["--net", "none", "--transport", transport]);
    assert_eq!(read_all(&scene, &inside, &[]), scene.files.len());
    node.run(["rm", "-f", "box"]).unwrap();
    node.run(["gc", "--all"]).unwrap();
    nothing_is_left(&node);
}

/// Fills the filesystem at `disk` but for `left` bytes.
fn fill(path: &Path, disk: &Path, left: u64) {
    let status = rustix::fs::statvfs(disk).unwrap();
    let bytes = status.f_bavail * status.f_frsize - left;
    let mut file = File::create(path).unwrap();
    let piece = vec![1; 1 << 20];
    let mut written = 0;
    while written < bytes {
        let now = (bytes - written).min(piece.len() as u64);
        match file.write_all(&piece[..usize::try_from(now).unwrap()]) {
            // The filesystem's own blocks come out of the same space.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return,
            wrote => wrote.unwrap(),
        }
        written += now;
    }
}
