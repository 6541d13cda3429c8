//! Commands whose daemon dies.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Output, Stdio};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use thaw_testkit::process::make_program;
use thaw_testkit::thaw::Thaw;

use super::{Scene, eventually, kill, processes, signal, thaw};

/// A command in the background, its output caught.
fn spawn(node: &Thaw, args: &[&str]) -> Child {
    let mut command = node.command(args);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Its exit code, and what it said on standard error.
fn end(command: Child) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.wait_with_output().unwrap();
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

/// Whether a command has asked and waits: it sleeps, and has a socket.
fn waits(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let mut links = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
    stat.contains(") S ") && links.any(|link| link.to_string_lossy().starts_with("socket:"))
}

/// The names of a process's threads.
fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .collect()
}

#[test]
fn a_daemon_that_dies_before_it_begins_is_succeeded() {
    let node = thaw();
    node.run(["images"]).unwrap();
    let daemon = node.daemon().unwrap();
    signal(daemon, Signal::STOP);
    let asked = ["images", "ps", "gc"].map(|what| spawn(&node, &[what]));
    for command in &asked {
        eventually("a command that waits", || waits(command.id()));
    }
    kill(&[daemon]);
    for command in asked {
        assert_eq!(end(command), (Some(0), String::new()));
    }
}

#[test]
fn a_daemon_that_takes_its_time_to_end_is_waited_for() {
    let node = thaw();
    // Its socket is gone, its store is not free yet.
    fs::create_dir(node.root()).unwrap();
    let ending = fs::File::create(node.root().join("daemon.pid")).unwrap();
    flock(&ending, FlockOperation::LockExclusive).unwrap();
    let asked = spawn(&node, &["images"]);
    eventually("the next daemon", || !processes(&node, "daemon").is_empty());
    thread::sleep(Duration::from_millis(1500));
    drop(ending);
    assert_eq!(end(asked), (Some(0), String::new()));
}

#[test]
fn a_daemon_that_dies_in_the_middle_is_told_or_succeeded() {
    let node = thaw();
    // It takes requests, and never answers.
    let registry = TcpListener::bind("127.0.0.1:0").unwrap();
    let image = format!("{}/silent:1", registry.local_addr().unwrap());
    let asked = spawn(&node, &["run", &image]);
    let _request = registry.accept().unwrap();
    kill(&[node.daemon().unwrap()]);
    let (code, said) = end(asked);
    let told = "thaw: the daemon ended in the middle of the request: try again; see ";
    assert_eq!(code, Some(125));
    assert!(
        said.starts_with(told) && said.ends_with("/daemon.log\n"),
        "{said}"
    );

    // What may be done twice is.
    let asked = spawn(&node, &["pull", &image]);
    for _ in 0..3 {
        let works = |pid: &u32| threads(*pid).contains(&"command\n".to_owned());
        let mut daemon = None;
        eventually("a daemon that works", || {
            daemon = node.daemon().filter(works);
            daemon.is_some()
        });
        kill(&[daemon.unwrap()]);
    }
    let (code, said) = end(asked);
    assert_eq!(code, Some(125));
    assert!(
        said.starts_with("thaw: 3 daemons, one after the other, ended"),
        "{said}"
    );
}

/// As after a clean-up by hand: nobody can connect any more, and a service manager still asks for the end.
#[test]
fn a_daemon_whose_store_was_removed_ends_when_it_is_told() {
    let node = thaw();
    node.run(["images"]).unwrap();
    let daemon = node.daemon().unwrap();
    fs::remove_dir_all(node.root()).unwrap();
    signal(daemon, Signal::TERM);
    eventually("the end of the daemon", || {
        processes(&node, "daemon").is_empty()
    });
}

/// Between the time at which it runs and the one at which its monitor has written that down.
#[test]
fn a_container_that_is_being_started_is_removed_when_it_has() {
    let (scene, node) = (Scene::new(), thaw());
    let [runtime, asked] = ["runtime", "asked"].map(|name| scene.directory.path().join(name));
    let asked_path = asked.display();
    let script = format!(
        "#!/bin/sh\nrunc \"$@\" || exit\ncase \" $* \" in *' run '*) echo > {asked_path}; sleep 1;; esac\n"
    );
    make_program(&runtime, script.as_bytes()).unwrap();
    let runtime = runtime.to_str().unwrap();
    let what = [&*scene.image, "--", "sleep", "600"];
    let how = ["run", "--detach", "--name", "late", "--runtime", runtime];
    let start = spawn(&node, &[&how[..], &what].concat());
    eventually("a container", || asked.exists());
    let dirs = fs::read_dir(node.root().join("containers")).unwrap();
    let ids = dirs.flatten().filter(|entry| entry.path().is_dir());
    let ids: Vec<String> = ids
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    node.run(["rm", "--force", "late"]).unwrap();
    assert!(!node.root().join("containers").join(&ids[0]).exists());
    end(start);
    let all = fs::read_dir("/proc").unwrap().flatten();
    let groups = all.filter_map(|entry| fs::read_to_string(entry.path().join("cgroup")).ok());
    let mut left = groups.filter(|groups| groups.contains(&ids[0]));
    assert_eq!(left.next(), None, "nothing of it runs");
}
