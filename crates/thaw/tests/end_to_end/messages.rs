//! What the program says when it cannot do what was asked: what failed, and what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use thaw_testkit::process::make_program;
use thaw_testkit::registry::Registry;
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

use crate::support::{Scene, refused, thaw};

#[test]
fn bad_input_gets_a_clear_error() {
    let node = thaw();
    let said = |args: &[&str]| {
        let output = node.output(args).unwrap();
        assert!(!output.status.success(), "{args:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said(&["pull", "UPPER"]).contains("invalid repository"));
    assert!(said(&["pull", "oci:/nonexistent"]).contains("/nonexistent"));
    assert!(said(&["pull", "127.0.0.1:1/none"]).contains("127.0.0.1:1/none"));
    assert!(said(&["run", "--memory", "lots", "x"]).contains("lots"));
    // Before anything is fetched: nobody listens at that address.
    let nothing = ["run", "--runtime", "no-such-runtime", "127.0.0.1:1/none"];
    assert!(said(&nothing).contains("no-such-runtime"));
    assert!(said(&["unmount", "/nowhere"]).contains("/nowhere"));
    assert!(said(&["logs", "nobody"]).contains("nobody"));
}

#[test]
fn usage_errors_are_told_from_a_container_s_exit() {
    let node = thaw();
    for args in [
        &["run"][..],
        &["run", "--no-such-flag", "x"],
        &["run", "--pull", "maybe", "x"],
        &["fly"],
    ] {
        let (code, said) = refused(&node, args);
        assert_eq!(code, 125, "{args:?}");
        assert!(said.starts_with("error: "), "{said}");
    }
    assert!(
        node.run(["run", "--help"])
            .unwrap()
            .contains("--storage-size")
    );
}

#[test]
fn names_and_images_that_are_not_there() {
    let scene = Scene::accelerated();
    let node = thaw();
    let host = scene.registry.host();
    let missing = format!("{host}/no/such:1");
    let (code, said) = refused(&node, &["run", &missing]);
    assert_eq!(
        (code, said.as_str()),
        (125, &*format!("thaw: {host}/no/such has no manifest 1\n"))
    );
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
    let (code, said) = refused(&node, &start);
    assert_eq!(code, 125);
    assert!(
        said.contains("the name \"box\" is taken by container"),
        "{said}"
    );
    assert!(
        said.contains("remove that one, or choose another"),
        "{said}"
    );
    for command in [&["stop"][..], &["rm"], &["logs"], &["exec"]] {
        let mut args = command.to_vec();
        args.push("nobody");
        if command == ["exec"] {
            args.push("id");
        }
        let (_, said) = refused(&node, &args);
        assert!(
            said.contains("no container \"nobody\": `thaw ps --all` lists them"),
            "{said}"
        );
    }
    node.run(["rm", "-f", "box"]).unwrap();
    let (_, said) = refused(&node, &["mount", &scene.image, "/no/such/directory"]);
    assert!(
        said.contains("/no/such/directory is not a directory"),
        "{said}"
    );
}

#[test]
fn a_registry_that_is_down() {
    let registry = Registry::start().unwrap();
    let image = format!("{}/some/image:1", registry.host());
    drop(registry);
    let (code, said) = refused(&thaw(), &["run", &image]);
    assert_eq!(code, 125);
    assert!(
        said.contains("cannot reach") && said.contains("refused"),
        "{said}"
    );
}

#[test]
fn a_store_has_one_owner() {
    let node = thaw();
    node.run(["images"]).unwrap();
    let pid = node.daemon().unwrap();
    let (code, said) = refused(&node, &["daemon"]);
    assert_eq!(code, 125);
    let owned =
        format!("is owned by the daemon with pid {pid}: stop that one (thaw daemon --stop)");
    assert!(said.contains(&owned), "{said}");
}

#[test]
fn who_is_not_root_is_told_so() {
    const NOBODY: u32 = 65534;
    // A copy where everybody may reach it.
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = place.path().join("thaw");
    make_program(&program, &fs::read(env!("CARGO_BIN_EXE_thaw")).unwrap()).unwrap();
    let said = |store: &std::path::Path| {
        let mut command = Command::new(&program);
        command
            .arg("--root")
            .arg(store)
            .arg("images")
            .uid(NOBODY)
            .gid(NOBODY);
        let output = command.current_dir("/").output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let new = place.path().join("new");
    let text = said(&new);
    assert!(
        text.contains("cannot make the store") && text.contains("run thaw as root"),
        "{text}"
    );
    // A store of its own serves for what needs no mount; the rest says what is wanting.
    let own = place.path().join("own");
    fs::create_dir(&own).unwrap();
    std::os::unix::fs::chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    let scene = Scene::new();
    let nobody = Thaw::at(&program, own.join("store"));
    let run = |args: &[&str]| {
        let mut command = nobody.command(args);
        command
            .uid(NOBODY)
            .gid(NOBODY)
            .current_dir("/")
            .output()
            .unwrap()
    };
    assert!(
        run(&["accelerate", "--local", &scene.image])
            .status
            .success()
    );
    let output = run(&["run", &scene.image]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{text}");
    assert!(
        text.contains("not permitted") && text.contains("; run thaw as root"),
        "{text}"
    );
    let output = run(&["daemon", "--stop"]);
    assert!(output.status.success(), "{output:?}");

    let node = Thaw::at(&program, place.path().join("roots"));
    node.run(["images"]).unwrap();
    let text = said(node.root());
    assert!(
        text.contains("thaw.sock") && text.contains("run thaw as root"),
        "{text}"
    );
}

/// A small filesystem of its own, gone with the value.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(megabytes: u32) -> Self {
        let directory = scratch::directory().unwrap();
        let options = format!("size={megabytes}m");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(directory.path());
        assert!(mount.status().unwrap().success());
        Self(directory)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_disk_that_is_full() {
    let scene = Scene::new();
    let disk = Disk::new(4);
    let node = Thaw::at(env!("CARGO_BIN_EXE_thaw"), disk.0.path().join("store"));
    let (code, said) = refused(&node, &["pull", &scene.image]);
    assert_eq!(code, 125);
    assert!(
        said.contains("No space left on device") && said.contains("thaw gc"),
        "{said}"
    );
    assert_eq!(node.run(["images", "--json"]).unwrap().trim(), "[]");
}
