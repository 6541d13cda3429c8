//! Daemon and keeper are stopped, not dead: they hold what they have, and answer nobody.

use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use thaw_testkit::thaw::Thaw;

use super::{
    CONFIGURED_BOUND, Scene, bound, eventually, kill, nothing_is_left, processes, signal, target,
    thaw,
};

/// Longer than a hung process may stay unnoticed.
const SECONDS: u32 = 4;

by_every_transport!(
    a_stopped_daemon_costs_errors_after_the_bound,
    a_stopped_keeper_is_replaced,
    a_stopped_keeper_is_replaced_by_the_next_daemon,
    with_daemon_and_keeper_stopped_reads_fail_within_the_bound,
    without_anybody_who_could_deny_it_a_read_waits_and_is_never_wrong,
);

fn start(scene: &Scene, node: &Thaw, transport: &str) -> std::path::PathBuf {
    let config = bound(node, SECONDS);
    let options = ["--net", "none", "--transport", transport];
    scene.start(node, &[&options[..], &["--config", &config]].concat())
}

fn end(scene: &Scene, node: &Thaw, inside: &Path) {
    eventually("every byte", || {
        scene
            .files
            .keys()
            .all(|name| scene.read(inside, name).is_ok())
    });
    node.run(["rm", "-f", "box"]).unwrap();
    nothing_is_left(node);
}

/// Reads, which may fail but takes no longer than it may.
fn read(scene: &Scene, inside: &Path, name: &str) -> io::Result<()> {
    let begin = Instant::now();
    let read = scene.read(inside, name);
    assert!(
        begin.elapsed() < CONFIGURED_BOUND,
        "{name} was waited for too long"
    );
    read
}

fn a_stopped_daemon_costs_errors_after_the_bound(transport: &str) {
    let scene = Scene::new();
    let node = thaw();
    let inside = start(&scene, &node, transport);
    scene.read(&inside, "srv/f0-1").unwrap();
    let daemon = node.daemon().unwrap();
    signal(daemon, Signal::STOP);
    let error = read(&scene, &inside, "srv/f1-3").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    // What is here needs no daemon.
    drop_pages(&inside.join("srv/f0-1"));
    scene.read(&inside, "srv/f0-1").unwrap();
    signal(daemon, Signal::CONT);
    end(&scene, &node, &inside);
}

#[test]
fn a_command_says_that_its_daemon_does_not_answer() {
    let node = thaw();
    node.run(["images"]).unwrap();
    let daemon = node.daemon().unwrap();
    signal(daemon, Signal::STOP);
    let mut command = node.command(["images"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut command = command.spawn().unwrap();
    let mut said = String::new();
    let mut stderr = BufReader::new(command.stderr.take().unwrap());
    stderr.read_line(&mut said).unwrap();
    let who = format!("process {daemon}'s) does not answer");
    assert!(said.contains(&who), "{said}");
    signal(daemon, Signal::CONT);
    assert!(command.wait().unwrap().success());
}

/// Has the next read ask again.
fn drop_pages(file: &Path) {
    let file = std::fs::File::open(file).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

fn a_stopped_keeper_is_replaced(transport: &str) {
    let scene = Scene::new();
    let node = thaw();
    let inside = start(&scene, &node, transport);
    let keeper = processes(&node, "keeper")[0];
    signal(keeper, Signal::STOP);
    if let Err(error) = read(&scene, &inside, "srv/f1-3") {
        assert_eq!(error.raw_os_error(), Some(5), "{error}");
    }
    assert!(!processes(&node, "keeper").contains(&keeper));
    end(&scene, &node, &inside);
}

fn a_stopped_keeper_is_replaced_by_the_next_daemon(transport: &str) {
    let scene = Scene::new();
    let node = thaw();
    let inside = start(&scene, &node, transport);
    let keeper = processes(&node, "keeper")[0];
    signal(keeper, Signal::STOP);
    kill(&[node.daemon().unwrap()]);
    node.run(["images"]).unwrap();
    assert!(!processes(&node, "keeper").contains(&keeper));
    read(&scene, &inside, "srv/f1-3").unwrap();
    end(&scene, &node, &inside);
}

fn with_daemon_and_keeper_stopped_reads_fail_within_the_bound(transport: &str) {
    let scene = Scene::new();
    let node = thaw();
    let inside = start(&scene, &node, transport);
    let (daemon, keeper) = (node.daemon().unwrap(), processes(&node, "keeper")[0]);
    scene.read(&inside, "srv/f0-1").unwrap();
    signal(daemon, Signal::STOP);
    signal(keeper, Signal::STOP);
    // The page cache needs nobody, what is only in the tar the keeper.
    scene.read(&inside, "srv/f0-1").unwrap();
    drop_pages(&inside.join("srv/f0-1"));
    for name in ["srv/f0-1", "srv/f1-3"] {
        let error = read(&scene, &inside, name).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "{error}");
    }
    assert!(
        !processes(&node, "keeper").contains(&keeper),
        "it is killed"
    );
    signal(daemon, Signal::CONT);
    end(&scene, &node, &inside);
}

/// A mount by `thaw mount` has no monitor: the one case in which a read waits beyond the bound.
fn without_anybody_who_could_deny_it_a_read_waits_and_is_never_wrong(transport: &str) {
    let scene = Scene::new();
    let node = thaw();
    node.run(["--config", &bound(&node, SECONDS), "images"])
        .unwrap();
    let dir = target(&node);
    scene.mount(&node, transport, &dir);
    let both = [node.daemon().unwrap(), processes(&node, "keeper")[0]];
    for pid in both {
        signal(pid, Signal::STOP);
    }
    thread::scope(|scope| {
        let reader = scope.spawn(|| scene.read(&dir, "srv/f1-3"));
        thread::sleep(Duration::from_secs(u64::from(SECONDS) + 2));
        assert!(!reader.is_finished(), "who has denied it?");
        for pid in both {
            signal(pid, Signal::CONT);
        }
        if let Err(error) = reader.join().unwrap() {
            assert_eq!(error.raw_os_error(), Some(5), "{error}");
        }
    });
    eventually("every byte", || {
        scene.read_all(&dir, &AtomicUsize::new(0)) == 0
    });
    node.run(["unmount", dir.to_str().unwrap()]).unwrap();
    nothing_is_left(&node);
}
