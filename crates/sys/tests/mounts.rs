//! Mounts as this kernel really makes them. Needs root.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use thaw_sys::mount::{self, Overlay, Unmount, mount_table};

fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
}

/// A mount point that is unmounted by Drop.
struct Target(PathBuf);

impl Target {
    fn new(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = mount::unmount(&self.0, Unmount::Lazy);
    }
}

fn image(dir: &Path, text: &str) -> PathBuf {
    let (tree, image) = (dir.join("tree"), dir.join("image"));
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), text).unwrap();
    let made = Command::new("mkfs.erofs")
        .args([&image, &tree])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    image
}

#[test]
fn an_image_is_mounted_from_its_file() {
    let dir = scratch();
    let image = image(dir.path(), "text");
    let target = Target::new(dir.path().join("with space"));
    let mounted = mount::erofs(&image, &[]).unwrap();
    mounted.set_read_ahead_kb(64).unwrap();
    assert_eq!(mounted.read_ahead_kb().unwrap(), 64);
    mounted.attach(&target.0).unwrap();
    assert_eq!(fs::read_to_string(target.0.join("file")).unwrap(), "text");

    let table = mount_table().unwrap();
    let entry = table.iter().find(|entry| entry.target == target.0).unwrap();
    assert_eq!(
        (entry.kind.as_str(), entry.source.as_os_str()),
        ("erofs", image.as_os_str())
    );
    mount::unmount(&target.0, Unmount::Now).unwrap();
    assert!(mount::unmount(&target.0, Unmount::Now).is_err());
}

#[test]
fn an_image_with_a_very_long_path_is_mounted() {
    let dir = scratch();
    let mut deep = dir.path().to_owned();
    for _ in 0..3 {
        deep.push("d".repeat(100));
    }
    fs::create_dir_all(&deep).unwrap();
    let image = image(&deep, "deep");
    let target = Target::new(deep.join("target"));
    mount::erofs(&image, &[])
        .unwrap()
        .attach(&target.0)
        .unwrap();
    assert_eq!(fs::read_to_string(target.0.join("file")).unwrap(), "deep");
}

#[test]
fn the_kernels_reason_is_in_the_error() {
    let dir = scratch();
    let image = dir.path().join("image");
    fs::write(&image, [0; 8192]).unwrap();
    let error = mount::erofs(&image, &[]).unwrap_err().to_string();
    assert!(error.contains("erofs"), "{error}");
    let missing = mount::erofs(&dir.path().join("none"), &[]).unwrap_err();
    let source = std::error::Error::source(&missing).unwrap().to_string();
    assert!(source.contains("No such file"), "{source}");
}

#[test]
fn overlays_are_written_to_their_upper_directory() {
    let dir = scratch();
    // Too long for one option string value, and with the separators of option strings.
    let long = dir.path().join("x".repeat(200)).join("a:b,c\\d".repeat(8));
    for (path, label) in [(dir.path().join("short"), "short"), (long, "long")] {
        let sub = |name: &str| {
            let sub = path.join(name);
            fs::create_dir_all(&sub).unwrap();
            sub
        };
        let overlay = Overlay {
            source: "tested".into(),
            lower: vec![sub("first"), sub("second")],
            upper: Some((sub("upper"), sub("work"))),
            volatile: true,
        };
        fs::write(overlay.lower[0].join("a"), "first").unwrap();
        fs::write(overlay.lower[1].join("a"), "second").unwrap();
        let target = Target::new(path.join("target"));
        mount::overlay(&overlay, &target.0).unwrap();
        assert_eq!(
            fs::read_to_string(target.0.join("a")).unwrap(),
            "first",
            "{label}"
        );
        fs::write(target.0.join("b"), "new").unwrap();
        assert_eq!(
            fs::read_to_string(path.join("upper/b")).unwrap(),
            "new",
            "{label}"
        );
    }
}

#[test]
fn a_tmpfs_has_its_size_and_a_bind_shows_its_source() {
    let dir = scratch();
    let (memory, twin) = (
        Target::new(dir.path().join("memory")),
        Target::new(dir.path().join("twin")),
    );
    mount::tmpfs(Some(1 << 20), 0o700)
        .unwrap()
        .attach(&memory.0)
        .unwrap();
    fs::write(memory.0.join("small"), "x").unwrap();
    assert!(fs::write(memory.0.join("big"), vec![1; 2 << 20]).is_err());
    mount::bind(&memory.0).unwrap().attach(&twin.0).unwrap();
    assert_eq!(fs::read_to_string(twin.0.join("small")).unwrap(), "x");
}

#[test]
fn the_file_behind_a_loop_device_is_found() {
    let dir = scratch();
    let file = dir.path().join("a file");
    fs::File::create(&file).unwrap().set_len(1 << 20).unwrap();
    let made = Command::new("mkfs.ext4").arg("-q").arg(&file).output();
    assert!(made.unwrap().status.success());
    let target = Target::new(dir.path().join("target"));
    mount::ext4(&file).unwrap().attach(&target.0).unwrap();
    let table = mount_table().unwrap();
    let entry = table.iter().find(|entry| entry.target == target.0).unwrap();
    assert!(entry.source.to_str().unwrap().starts_with("/dev/loop"));
    assert_eq!(entry.file(), file);
    // What has no loop device is mounted from its source.
    let root = table.iter().find(|entry| entry.kind == "proc").unwrap();
    assert_eq!(root.file().as_os_str(), root.source);
}

fn options(target: &Path) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let target = format!(" {} ", target.display());
    let line = table.lines().find(|line| line.contains(&target)).unwrap();
    line.to_owned()
}

#[test]
fn a_mount_reads_its_files_directly_or_not() {
    let dir = scratch();
    let image = image(dir.path(), &"text".repeat(9000));
    let target = Target::new(dir.path().join("target"));
    mount::erofs(&image, &[])
        .unwrap()
        .attach(&target.0)
        .unwrap();
    let before = options(&target.0);
    assert!(!before.contains("directio"), "{before}");
    mount::erofs_reads_directly(&target.0, true).unwrap();
    assert!(options(&target.0).contains("directio"));
    let text = fs::read_to_string(target.0.join("file")).unwrap();
    assert!(text == "text".repeat(9000));
    mount::erofs_reads_directly(&target.0, false).unwrap();
    assert_eq!(options(&target.0), before);
}

#[test]
fn what_lies_below_a_mount_that_is_gone_is_left_alone() {
    let dir = scratch();
    let target = Target::new(dir.path().join("target"));
    mount::tmpfs(None, 0o700)
        .unwrap()
        .attach(&target.0)
        .unwrap();
    let before = options(&target.0);
    let error = mount::erofs_reads_directly(&target.0, false).unwrap_err();
    assert!(matches!(error, mount::Error::Open { .. }), "{error}");
    assert_eq!(options(&target.0), before);
    fs::write(target.0.join("file"), "still written").unwrap();
}
