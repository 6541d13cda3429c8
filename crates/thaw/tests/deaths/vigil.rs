//! Daemon and keeper are dead, and no command comes: the monitor sees to its container's readers.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use thaw_testkit::process::make_program;
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

use super::{
    BOUND, CONFIGURED_BOUND, Scene, bound, eventually, inside, kill, nothing_is_left, processes,
    signal, thaw,
};

by_every_transport!(
    a_monitor_starts_the_next_daemon,
    a_monitor_starts_the_next_daemon_of_a_keeper,
    without_any_daemon_reads_fail_within_the_bound,
    where_the_next_daemon_hangs_reads_fail_within_the_bound,
    a_killed_monitor_costs_no_bytes,
    a_stopped_monitor_costs_no_bytes,
    a_command_in_the_foreground_starts_the_next_daemon,
);

fn kill_both(node: &Thaw) -> u32 {
    let daemon = node.daemon().unwrap();
    kill(&[daemon, processes(node, "keeper")[0]]);
    daemon
}

fn a_monitor_starts_the_next_daemon(transport: &str) {
    let scene = Scene::new();
    let node = thaw();
    let inside = scene.start(&node, &["--net", "none", "--transport", transport]);
    for file in ["srv/f1-3", "srv/f2-3"] {
        let dead = kill_both(&node);
        // No command is given: only the monitor can have a daemon started.
        let begin = Instant::now();
        scene.read(&inside, file).unwrap();
        assert!(begin.elapsed() < BOUND, "{file} was waited for too long");
        assert!(node.daemon().is_some_and(|daemon| daemon != dead));
    }
    node.run(["exec", "box", "sh", "-c", "cat /srv/f0-3 > /dev/null"])
        .unwrap();
    node.run(["rm", "-f", "box"]).unwrap();
    nothing_is_left(&node);
}

fn a_monitor_starts_the_next_daemon_of_a_keeper(transport: &str) {
    let scene = Scene::new();
    let node = thaw();
    let inside = scene.start(&node, &["--net", "none", "--transport", transport]);
    let (dead, keeper) = (node.daemon().unwrap(), processes(&node, "keeper"));
    kill(&[dead]);
    scene.read(&inside, "srv/f1-3").unwrap();
    assert!(node.daemon().is_some_and(|daemon| daemon != dead));
    assert_eq!(
        processes(&node, "keeper"),
        keeper,
        "it has outlived its daemon"
    );
    node.run(["rm", "-f", "box"]).unwrap();
    nothing_is_left(&node);
}

/// Daemon and keeper hold what it held. The container has nobody who waits for it any more, and can be
/// removed.
fn a_killed_monitor_costs_no_bytes(transport: &str) {
    let scene = Scene::new();
    let node = thaw();
    let inside = scene.start(&node, &["--net", "none", "--transport", transport]);
    let (monitors, daemon) = (processes(&node, "monitor"), node.daemon());
    assert_eq!(monitors.len(), 1);
    kill(&monitors);
    assert_eq!(scene.read_all(&inside, &AtomicUsize::new(0)), 0);
    assert_eq!(node.daemon(), daemon);
    node.run(["rm", "-f", "box"]).unwrap();
    nothing_is_left(&node);
}

/// A monitor that does nothing holds all the same: when the others die, reads wait for the next
/// daemon.
fn a_stopped_monitor_costs_no_bytes(transport: &str) {
    let scene = Scene::new();
    let node = thaw();
    let inside = scene.start(&node, &["--net", "none", "--transport", transport]);
    let monitor = processes(&node, "monitor")[0];
    signal(monitor, Signal::STOP);
    scene.read(&inside, "srv/f1-3").unwrap();
    kill_both(&node);
    thread::scope(|scope| {
        let reader = scope.spawn(|| scene.read(&inside, "srv/f2-3"));
        thread::sleep(Duration::from_millis(500));
        assert!(!reader.is_finished(), "nobody could have served this read");
        node.run(["images"]).unwrap();
        reader.join().unwrap().unwrap();
    });
    signal(monitor, Signal::CONT);
    node.run(["rm", "-f", "box"]).unwrap();
    nothing_is_left(&node);
}

fn a_command_in_the_foreground_starts_the_next_daemon(transport: &str) {
    let scene = Scene::new();
    let node = thaw();
    let script = "busybox cat /srv/f0-1 > /dev/null; echo up; exec sleep 1000";
    let args = [
        "run",
        "--name",
        "box",
        "--net",
        "none",
        "--pull",
        "lazy",
        "--transport",
        transport,
        &scene.image,
    ];
    let mut command = node.command(args);
    let command = command
        .args(["--", "sh", "-c", script])
        .stdout(Stdio::piped());
    let mut running = command.spawn().unwrap();
    let mut up = [0; 3];
    running.stdout.take().unwrap().read_exact(&mut up).unwrap();
    let container = fs::read_dir(node.root().join("containers")).unwrap();
    let id = container.map(|entry| entry.unwrap().file_name());
    let id = id
        .filter_map(|name| name.into_string().ok())
        .find(|name| name.len() == 64);
    let inside = inside(&node, &id.unwrap());
    kill_both(&node);
    scene.read(&inside, "srv/f1-3").unwrap();
    node.run(["rm", "-f", "box"]).unwrap();
    running.wait().unwrap();
    nothing_is_left(&node);
}

/// A monitor may live for long, and have one daemon started after the other.
#[test]
fn the_daemons_that_a_monitor_starts_leave_nothing_when_they_end() {
    let (scene, node) = (Scene::new(), thaw());
    let config = bound(&node, 10);
    scene.start(&node, &["--net", "none", "--config", &config]);
    let right = fs::read(&config).unwrap();
    fs::write(&config, "nonsense").unwrap();
    kill_both(&node);
    let log = || fs::read_to_string(node.root().join("daemon.log")).unwrap();
    eventually("two daemons that cannot begin", || {
        log().matches("\nthaw: ").count() >= 2
    });
    let monitor = processes(&node, "monitor")[0];
    eventually("no dead daemon", || dead_daemons(monitor).is_empty());
    fs::write(&config, right).unwrap();
    node.run(["--config", &config, "images"]).unwrap();
    node.run(["rm", "-f", "box"]).unwrap();
    nothing_is_left(&node);
}

/// Children of our program that have ended, and that their parent has not waited for.
fn dead_daemons(parent: u32) -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let stats = all.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let is_one = |stat: &String| stat.contains(&format!(" (thaw) Z {parent} "));
    stats.filter(is_one).collect()
}

/// A program that can be replaced, and its store, whose bound is 3 s.
struct Place {
    node: Thaw,
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = scratch::directory().unwrap();
        let node = Thaw::at(dir.path().join("thaw"), dir.path().join("store"));
        let place = Self { node, dir };
        place.restore();
        fs::write(place.file("config.toml"), "fault-timeout-seconds = 3\n").unwrap();
        place
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Has the program be what it should be.
    fn restore(&self) {
        let program = fs::read(env!("CARGO_BIN_EXE_thaw")).unwrap();
        make_program(&self.file("thaw"), &program).unwrap();
    }

    fn start(&self, scene: &Scene, transport: &str) -> PathBuf {
        let config = self.file("config.toml");
        let options = ["--net", "none", "--transport", transport, "--config"];
        let options = [&options[..], &[config.to_str().unwrap()]].concat();
        scene.start(&self.node, &options)
    }

    /// The program is there again, as after an upgrade.
    fn recovers(&self, scene: &Scene, inside: &Path) {
        self.restore();
        eventually("right bytes, once a daemon can be started", || {
            scene.read(inside, "srv/f1-3").is_ok()
        });
        self.node.run(["rm", "-f", "box"]).unwrap();
        nothing_is_left(&self.node);
    }
}

fn without_any_daemon_reads_fail_within_the_bound(transport: &str) {
    let scene = Scene::new();
    let place = Place::new();
    let inside = place.start(&scene, transport);
    kill_both(&place.node);
    // The program is gone: nobody can start a daemon.
    fs::remove_file(place.file("thaw")).unwrap();
    for name in ["srv/f1-3", "srv/f1-4"] {
        let begin = Instant::now();
        let error = scene.read(&inside, name).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "{error}");
        assert!(begin.elapsed() < CONFIGURED_BOUND);
    }
    let log = fs::read_dir(place.node.root().join("containers")).unwrap();
    let log =
        log.filter_map(|dir| fs::read_to_string(dir.unwrap().path().join("monitor.log")).ok());
    assert!(
        log.collect::<String>()
            .contains("no daemon, and none can be started")
    );
    place.recovers(&scene, &inside);
}

fn where_the_next_daemon_hangs_reads_fail_within_the_bound(transport: &str) {
    let scene = Scene::new();
    let place = Place::new();
    let inside = place.start(&scene, transport);
    kill_both(&place.node);
    // It never says that it serves.
    let pids = place.file("pids");
    let script = format!(
        "#!/bin/sh\necho $$ >> {}\nexec sleep 1000\n",
        pids.display()
    );
    fs::remove_file(place.file("thaw")).unwrap();
    make_program(&place.file("thaw"), script.as_bytes()).unwrap();
    let hung = thread::scope(|scope| {
        let begin = Instant::now();
        let reader = scope.spawn(|| {
            for name in ["srv/f1-3", "srv/f1-4"] {
                let error = scene.read(&inside, name).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(5), "{error}");
            }
        });
        while !reader.is_finished() && begin.elapsed() < CONFIGURED_BOUND {
            thread::sleep(Duration::from_millis(20));
        }
        let in_time = reader.is_finished();
        if !in_time {
            // Else the test would wait for the reader, too.
            place.restore();
        }
        let pids = fs::read_to_string(&pids).unwrap();
        let hung: Vec<u32> = pids.lines().map(|pid| pid.parse().unwrap()).collect();
        kill(&hung);
        assert!(in_time, "reads wait for a daemon that hangs");
        hung
    });
    assert_eq!(hung.len(), 1, "one that hangs is not joined by others");
    place.recovers(&scene, &inside);
}
