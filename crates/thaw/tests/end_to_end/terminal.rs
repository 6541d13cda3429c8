//! What changes when a person looks on: terminals, bars, completions, manuals.

use std::process::{Command, Stdio};

use thaw_testkit::terminal::{SIZE, Session};
use thaw_testkit::{scratch, thaw::Thaw};

use crate::support::{Scene, stdout, thaw};

#[test]
fn a_terminal_is_a_terminal() {
    let scene = Scene::accelerated();
    let node = thaw();
    for runtime in ["crun", "runc"] {
        let script =
            "echo ready; read line; echo \"[$line] $TERM\"; busybox tty; busybox stty size; exit 5";
        let args = [
            "run",
            "--rm",
            "-it",
            "--net",
            "none",
            "--runtime",
            runtime,
            &scene.image,
        ];
        let mut session = Session::start(on_terminal(&node, &args, &["sh", "-c", script])).unwrap();
        session.wait_for("ready").unwrap();
        session.type_in("typed\r").unwrap();
        let (status, shown) = session.end().unwrap();
        assert_eq!(status.code(), Some(5), "{runtime}: {shown}");
        let size = format!("{} {}", SIZE.0, SIZE.1);
        let way = "thaw: lazy: acceleration from ";
        for text in ["[typed] xterm", "/dev/pts/0", &size, way] {
            assert!(shown.contains(text), "{runtime}: {text:?} in {shown}");
        }
    }
    let start = [
        "run",
        "-d",
        "--net",
        "none",
        "--name",
        "box",
        &scene.image,
        "--",
        "sleep",
        "1000",
    ];
    node.run(start).unwrap();
    let script = "echo ready; read line; echo \"[$line]\"; exit 6";
    let mut session = Session::start(on_terminal(
        &node,
        &["exec", "-it", "box"],
        &["sh", "-c", script],
    ))
    .unwrap();
    session.wait_for("ready").unwrap();
    session.type_in("more\r").unwrap();
    let (status, shown) = session.end().unwrap();
    assert_eq!(status.code(), Some(6), "{shown}");
    assert!(shown.contains("[more]"), "{shown}");
    node.run(["rm", "-f", "box"]).unwrap();
}

#[test]
fn a_terminal_takes_its_input_from_a_terminal() {
    let scene = Scene::new();
    let node = thaw();
    // Before anything is asked of the container, or of the daemon.
    for args in [
        &["run", "--rm", "-it", &scene.image][..],
        &["exec", "-it", "box", "sh"],
    ] {
        if args[0] == "exec" {
            let start = ["run", "-d", "--net", "none", "--name", "box", &scene.image];
            let sleep = ["--", "sleep", "1000"];
            node.run(start.into_iter().chain(sleep)).unwrap();
        }
        let output = node.output(args).unwrap();
        assert_eq!(output.status.code(), Some(125), "{args:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("leave out -t"), "{said}");
    }
    // One that is only written to needs none.
    let shown = node.run(["exec", "-t", "box", "busybox", "tty"]).unwrap();
    assert!(shown.contains("/dev/pts/"), "{shown}");
    node.run(["rm", "-f", "box"]).unwrap();
}

fn on_terminal(node: &Thaw, args: &[&str], command: &[&str]) -> Command {
    let mut program = node.command(args.iter());
    if args[0] == "run" {
        program.arg("--");
    }
    program.args(command);
    program
}

#[test]
fn bars_are_drawn_on_a_terminal_only() {
    let scene = Scene::new();
    let node = thaw();
    let (status, shown) = Session::start(node.command(["pull", &scene.image]))
        .unwrap()
        .end()
        .unwrap();
    assert!(status.success(), "{shown}");
    assert!(shown.contains("iB/s"), "bytes and rate: {shown:?}");
    assert!(shown.contains("layer"), "what it does: {shown:?}");
    let quiet = thaw();
    let (_, shown) = Session::start(quiet.command(["pull", "--quiet", &scene.image]))
        .unwrap()
        .end()
        .unwrap();
    assert!(!shown.contains("iB/s"), "{shown:?}");
    let output = thaw().output(["pull", &scene.image]).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(stdout(&output).contains("fetched"));
}

#[test]
fn completions_and_manuals_come_from_the_same_definition() {
    let node = thaw();
    let script = |shell: &str| node.run(["completions", shell]).unwrap();
    let bash = script("bash");
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            !script(shell).contains("keeper"),
            "{shell}: users call no keeper"
        );
    }
    for word in ["accelerate", "--storage-size", "--from-traces", "unmount"] {
        for shell in ["bash", "zsh", "fish"] {
            let text = script(shell);
            // fish writes `-l storage-size`.
            assert!(
                text.contains(word.trim_start_matches('-')),
                "{shell}: {word}"
            );
        }
    }
    let mut check = Command::new("bash");
    let mut check = check.arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut check.stdin.take().unwrap(), bash.as_bytes()).unwrap();
    assert!(check.wait().unwrap().success());

    let directory = scratch::directory().unwrap();
    let dir = directory.path().join("man");
    node.run(["man", dir.to_str().unwrap()]).unwrap();
    let page = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    assert!(page("thaw.1").contains("thaw\\-accelerate(1)"));
    assert!(page("thaw-run.1").contains("storage\\-size"));
    assert!(
        !dir.join("thaw-keeper.1").exists(),
        "what users do not call has no manual"
    );
    assert_eq!(node.daemon(), None, "neither starts a daemon");
}
