//! How many files may be open: all that may be for the daemon, as many as before for what it starts.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use thaw_testkit::process::make_program;
use thaw_testkit::registry::{Options, PASSWORD, Registry, USER};
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

use crate::support::{busybox, thaw};

/// A limit that nobody has else.
const SOFT: &str = "321";

/// The soft and the hard limit of a process.
fn limits(pid: &str) -> (String, String) {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Max open files"));
    let mut words = line.unwrap().split_ascii_whitespace().skip(3);
    let mut word = || words.next().unwrap().to_owned();
    (word(), word())
}

/// A program that writes down its first argument and its soft limit, and is another one then.
fn telling(path: &Path, said: &Path, then: &str) {
    let said = said.display();
    let script = format!("#!/bin/sh\necho \"$1 $(ulimit -Sn)\" >> {said}\n{then}\n");
    make_program(path, script.as_bytes()).unwrap();
}

/// What a container says of its own limits.
fn in_a_container(node: &Thaw, config: &str, image: &str) -> String {
    let run = ["run", "--rm", "--net", "none", "--config", config, image];
    let tells = ["sh", "-c", "ulimit -Sn; ulimit -Hn"];
    node.run([&run[..], &tells].concat()).unwrap()
}

#[test]
fn a_daemon_may_open_all_files_and_what_it_starts_as_many_as_before() {
    let directory = scratch::directory().unwrap();
    let place = |name: &str| directory.path().join(name);
    let storage = place("registry");
    let of = |password| Options {
        storage: Some(storage.clone()),
        password,
        ..Options::default()
    };
    let open = Registry::start_with(&of(false)).unwrap();
    busybox(&place("layout")).push(&open, "busybox:1").unwrap();
    drop(open);
    let registry = Registry::start_with(&of(true)).unwrap();
    let image = format!("{}/busybox:1", registry.host());

    let said = place("said");
    let answer = json!({ "Username": USER, "Secret": PASSWORD });
    fs::create_dir(place("bin")).unwrap();
    let helper = place("bin/docker-credential-telling");
    telling(&helper, &said, &format!("echo '{answer}'"));
    telling(&place("crun"), &said, "exec crun \"$@\"");
    fs::write(place("docker.json"), r#"{"credsStore":"telling"}"#).unwrap();
    let text = format!(
        "docker-config = {:?}\nruntime = {:?}\n",
        place("docker.json"),
        place("crun")
    );
    fs::write(place("config.toml"), text).unwrap();
    let config = place("config.toml").to_str().unwrap().to_owned();

    let node = thaw();
    let mut daemon = Command::new("sh")
        .args(["-c", &format!("ulimit -Sn {SOFT} && exec \"$@\""), "sh"])
        .args([env!("CARGO_BIN_EXE_thaw"), "--config", &config, "--root"])
        .arg(node.root())
        .arg("daemon")
        .env(
            "PATH",
            format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", place("bin").display()),
        )
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !node.root().join("thaw.sock").exists() {
        assert!(daemon.try_wait().unwrap().is_none(), "there is no daemon");
        thread::sleep(Duration::from_millis(10));
    }
    let (_, hard) = limits("self");
    assert_eq!(limits(&daemon.id().to_string()), (hard.clone(), hard));

    let its = in_a_container(&node, &config, &image);
    // The daemon runs the helper, and the runtime once to have it in memory.
    let begin = Instant::now();
    for wanted in [format!("get {SOFT}"), format!("--root {SOFT}")] {
        let said = || fs::read_to_string(&said).unwrap();
        while !said().lines().any(|line| line == wanted) {
            assert!(begin.elapsed() < Duration::from_secs(20), "{}", said());
            thread::sleep(Duration::from_millis(10));
        }
    }
    node.run(["daemon", "--stop"]).unwrap();
    assert!(daemon.wait().unwrap().success());
    // By a daemon that a command has started.
    let path = std::env::var("PATH").unwrap();
    let mut command = node.command(["--config", &config, "images"]);
    let path = format!("{}:{path}", place("bin").display());
    assert!(command.env("PATH", path).status().unwrap().success());
    assert_eq!(in_a_container(&node, &config, &image), its);
}
