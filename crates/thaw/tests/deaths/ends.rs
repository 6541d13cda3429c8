//! Containers end, and there is nobody to tell it to.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use thaw_testkit::thaw::Thaw;

use super::{BOUND, Scene, eventually, kill, nothing_is_left, processes, signal, thaw};

/// Starts a container that needs no daemon; answers with its id.
fn start(scene: &Scene, node: &Thaw, more: &[&str]) -> String {
    let mut args = vec!["run", "-d", "--net", "none", "--pull", "full"];
    args.extend(more);
    args.extend([&*scene.image, "--", "sleep", "1000"]);
    node.run(args).unwrap().trim().to_owned()
}

fn state(node: &Thaw, id: &str) -> Value {
    let state = node.root().join("containers").join(id).join("state.json");
    serde_json::from_slice(&fs::read(state).unwrap()).unwrap()
}

/// Kills the first process of a container.
fn end(node: &Thaw, id: &str) {
    let init = state(node, id)["phase"]["init"]["pid"].as_u64().unwrap();
    signal(u32::try_from(init).unwrap(), Signal::KILL);
}

/// Which containers there are, and whether their root filesystems are mounted.
fn containers(node: &Thaw) -> Vec<(String, bool)> {
    let listed: Value =
        serde_json::from_str(&node.run(["ps", "--all", "--json"]).unwrap()).unwrap();
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let ids = listed.as_array().unwrap().iter();
    let ids = ids.map(|container| container["id"].as_str().unwrap().to_owned());
    ids.map(|id| (id.clone(), mounts.contains(&format!("{id}/rootfs"))))
        .collect()
}

#[test]
fn a_container_that_ends_while_there_is_no_daemon_is_released_by_the_next() {
    let (scene, node) = (Scene::new(), thaw());
    let gone = start(&scene, &node, &["--rm"]);
    let kept = start(&scene, &node, &[]);
    kill(&[node.daemon().unwrap()]);
    end(&node, &gone);
    end(&node, &kept);
    eventually("the end of the monitors", || {
        processes(&node, "monitor").is_empty()
    });
    assert_eq!(containers(&node).len(), 2);
    eventually("their release", || {
        containers(&node) == [(kept.clone(), false)]
    });
    node.run(["rm", &kept]).unwrap();
    nothing_is_left(&node);
}

/// Nobody has its exit code, and nobody says that it has ended.
#[test]
fn a_container_whose_monitor_was_killed_is_released_when_it_ends() {
    let (scene, node) = (Scene::new(), thaw());
    let gone = start(&scene, &node, &["--rm"]);
    kill(&processes(&node, "monitor"));
    thread::sleep(Duration::from_secs(6));
    assert_eq!(containers(&node), [(gone.clone(), true)], "it runs");
    end(&node, &gone);
    eventually("its release", || containers(&node).is_empty());
    nothing_is_left(&node);
}

#[test]
fn a_daemon_with_nothing_but_ended_containers_is_idle() {
    let (scene, node) = (Scene::new(), thaw());
    let gone = start(&scene, &node, &["--rm"]);
    kill(&[node.daemon().unwrap()]);
    end(&node, &gone);
    eventually("the end of the monitor", || {
        processes(&node, "monitor").is_empty()
    });
    let mut idle = node.command(["daemon", "--idle", "2s"]);
    let mut idle = idle.stderr(Stdio::null()).spawn().unwrap();
    eventually("its end", || idle.try_wait().unwrap().is_some());
    assert!(!node.root().join("containers").join(gone).exists());
}

#[test]
fn the_end_of_a_container_is_heard_in_any_version() {
    let (scene, node) = (Scene::new(), thaw());
    let gone = start(&scene, &node, &[]);
    let mut stream = UnixStream::connect(node.root().join("thaw.sock")).unwrap();
    let release = format!("{{\"release\":{{\"id\":\"{gone}\",\"remove\":true}}}}");
    let line = format!("{{\"version\":9999,\"request\":{release},\"new\":1}}\n");
    stream.write_all(line.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("reply"), "{answer}");
    assert!(containers(&node).is_empty());
    nothing_is_left(&node);
}

/// Signals were the container's as long as there was one.
#[test]
fn a_command_whose_container_has_ended_ends_when_it_is_told() {
    let (scene, node) = (Scene::new(), thaw());
    let how = [
        "run", "--rm", "--name", "box", "--net", "none", "--pull", "full",
    ];
    let what = [&*scene.image, "--", "sleep", "1000"];
    let mut command = node.command([&how[..], &what].concat());
    let mut command = command.stderr(Stdio::null()).spawn().unwrap();
    let mut id = String::new();
    eventually("the container", || {
        let mut ids = containers(&node).into_iter().map(|(id, _)| id);
        id = ids.next().unwrap_or_default();
        !id.is_empty() && state(&node, &id)["phase"]["is"] == "running"
    });
    let daemon = node.daemon().unwrap();
    signal(daemon, Signal::STOP);
    end(&node, &id);
    eventually("its end", || state(&node, &id)["phase"]["is"] == "exited");
    let begin = Instant::now();
    while command.try_wait().unwrap().is_none() && begin.elapsed() < BOUND {
        signal(command.id(), Signal::TERM);
        thread::sleep(Duration::from_millis(50));
    }
    let in_time = command.try_wait().unwrap().is_some();
    signal(daemon, Signal::CONT);
    assert!(in_time, "it waits for the daemon");
    eventually("its release", || containers(&node).is_empty());
    nothing_is_left(&node);
}
