//! A small filesystem of its own, whose power can fail.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An ext4 filesystem in a file; gone with the value.
pub(crate) struct Disk {
    pub(crate) root: PathBuf,
    image: PathBuf,
    _dir: tempfile::TempDir,
}

fn run(program: &str, args: &[&Path]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{program}: {output:?} (this test needs root and ext4)"
    );
}

impl Disk {
    pub(crate) fn new(bytes: u64) -> Self {
        let dir = super::scratch();
        let image = dir.path().join("image");
        std::fs::File::create(&image)
            .unwrap()
            .set_len(bytes)
            .unwrap();
        run("mkfs.ext4", &[Path::new("-q"), &image]);
        Self::mount(dir, image)
    }

    /// Nothing is written out for as long as a test takes, unless somebody asks for it.
    fn mount(dir: tempfile::TempDir, image: PathBuf) -> Self {
        let root = dir.path().join("mounted");
        std::fs::create_dir(&root).unwrap();
        let options = [Path::new("-o"), Path::new("loop,commit=900")];
        run("mount", &[&options[..], &[&image, &root]].concat());
        Self {
            root,
            image,
            _dir: dir,
        }
    }

    /// What is on the disk at this moment, mounted: what the kernel has not written yet is lost.
    /// Nobody may write meanwhile.
    pub(crate) fn after_a_power_cut(&self) -> Self {
        let dir = super::scratch();
        let image = dir.path().join("image");
        std::fs::copy(&self.image, &image).unwrap();
        Self::mount(dir, image)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.root).status();
    }
}
