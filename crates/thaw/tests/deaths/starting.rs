//! Daemon and keeper die while a container is being started: nothing of it runs yet, and its monitor is who
//! holds what the next daemon needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::AtomicUsize;

use thaw_testkit::process::make_program;
use thaw_testkit::thaw::Thaw;

use super::{Scene, eventually, inside, kill, nothing_is_left, processes, thaw};

by_every_transport!(
    both_may_die_before_a_container_runs,
    a_container_whose_daemon_died_before_it_ran_is_held_all_the_same,
);

/// A container whose runtime waits before it begins.
struct Start {
    command: Child,
    go: PathBuf,
}

impl Start {
    fn new(scene: &Scene, node: &Thaw, transport: &str) -> Self {
        let path = |name: &str| scene.directory.path().join(name);
        let (runtime, asked, go) = (path("runtime"), path("asked"), path("go"));
        let wait = format!(
            "echo > {}; while [ ! -e {} ]; do sleep 0.02; done",
            asked.display(),
            go.display()
        );
        let script =
            format!("#!/bin/sh\ncase \" $* \" in *' run '*) {wait};; esac\nexec runc \"$@\"\n");
        make_program(&runtime, script.as_bytes()).unwrap();
        let runtime = runtime.to_str().unwrap();
        let how = ["run", "--detach", "--name", "box", "--net", "none"];
        let by = ["--pull", "lazy", "--transport", transport];
        let what = ["--runtime", runtime, &*scene.image, "--", "sleep", "1000"];
        let mut command = node.command([&how[..], &by, &what].concat());
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let command = command.spawn().unwrap();
        eventually("a container that is being started", || asked.exists());
        Self { command, go }
    }

    /// Lets it begin. The root directory of its first process.
    fn finish(self, node: &Thaw) -> PathBuf {
        fs::write(&self.go, "").unwrap();
        let output = self.command.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        inside(node, String::from_utf8(output.stdout).unwrap().trim())
    }
}

fn kill_both(node: &Thaw) {
    kill(&[node.daemon().unwrap(), processes(node, "keeper")[0]]);
}

/// Every byte is right, and everything can be given back.
fn ends_well(scene: &Scene, node: &Thaw, root: &Path) {
    scene.read_all(root, &AtomicUsize::new(0));
    node.run(["exec", "box", "sh", "-c", "cat /srv/f2-1 > /dev/null"])
        .unwrap();
    node.run(["rm", "-f", "box"]).unwrap();
    nothing_is_left(node);
}

fn both_may_die_before_a_container_runs(transport: &str) {
    let (scene, node) = (Scene::new(), thaw());
    let start = Start::new(&scene, &node, transport);
    kill_both(&node);
    let root = start.finish(&node);
    ends_well(&scene, &node, &root);
}

/// Who made it is not there to be asked once it runs.
fn a_container_whose_daemon_died_before_it_ran_is_held_all_the_same(transport: &str) {
    let (scene, node) = (Scene::new(), thaw());
    let start = Start::new(&scene, &node, transport);
    kill(&[node.daemon().unwrap()]);
    let root = start.finish(&node);
    node.run(["images"]).unwrap();
    kill_both(&node);
    ends_well(&scene, &node, &root);
}
