//! The guard around our binary finds what a binary leaves behind, and removes it.
#![allow(clippy::unwrap_used)]

use thaw_testkit::process::make_program;
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

/// Stands in for the binary: `--root STORE COMMAND`, where the commands leave things behind.
const LEAKY: &str = r#"#!/bin/sh
mkdir -p "$2"
case "$3" in
    process) touch "$2/log"; tail -f "$2/log" >/dev/null 2>&1 & ;;
    mount) mkdir -p "$2/m" && mount -t tmpfs none "$2/m" ;;
    say) echo "said" ;;
    *) echo "no such command" >&2; exit 3 ;;
esac
"#;

fn leaky() -> (tempfile::TempDir, Thaw) {
    let directory = scratch::directory().unwrap();
    let binary = directory.path().join("leaky");
    make_program(&binary, LEAKY.as_bytes()).unwrap();
    let thaw = Thaw::new(binary).unwrap();
    (directory, thaw)
}

#[test]
fn what_it_prints_and_how_it_fails() {
    let (_directory, thaw) = leaky();
    assert_eq!(thaw.run(["say"]).unwrap(), "said\n");
    assert!(
        thaw.run(["other"])
            .unwrap_err()
            .to_string()
            .contains("no such command")
    );
    assert_eq!(thaw.output(["other"]).unwrap().status.code(), Some(3));
    assert_eq!(thaw.daemon(), None);
    thaw.end().unwrap();
}

#[test]
fn a_process_is_found_and_ended() {
    let (_directory, thaw) = leaky();
    thaw.run(["process"]).unwrap();
    assert!(thaw.end().unwrap_err().to_string().contains("processes ["));
    thaw.end().unwrap();
}

#[test]
fn a_mount_is_found_and_unmounted() {
    let (_directory, thaw) = leaky();
    thaw.run(["mount"]).unwrap();
    let point = thaw.root().join("m").display().to_string();
    assert!(thaw.end().unwrap_err().to_string().contains(&point));
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(&point));
}
