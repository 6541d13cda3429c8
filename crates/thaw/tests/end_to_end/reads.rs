//! How a mount reads the tars below it: through their page cache while something arrives, past it afterwards.

use std::fs::{self, File};
use std::io::IoSliceMut;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use crate::support::{Scene, sh, target, thaw};

fn reads_directly(dir: &str) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = format!(" {dir} ");
    let line = table.lines().find(|line| line.contains(&mount));
    line.unwrap().contains("directio")
}

fn wait_until(dir: &str, directly: bool) {
    let begin = Instant::now();
    while reads_directly(dir) != directly {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "{dir}: {directly}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Gives up what the page cache has of a file.
fn forget(path: &Path) {
    let file = File::open(path).unwrap();
    // What is not on the disk yet stays. An EROFS has nothing to sync.
    file.sync_data().ok();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
}

/// Pages of a file in the page cache: those that can be read without the disk.
fn cached(path: &Path) -> usize {
    const PAGE: usize = 4096;
    let file = File::open(path).unwrap();
    let pages = file.metadata().unwrap().len() / PAGE as u64;
    let is_cached = |page: &u64| {
        let mut buffer = [0; PAGE];
        let into = &mut [IoSliceMut::new(&mut buffer)];
        match preadv2(&file, into, page * PAGE as u64, ReadWriteFlags::NOWAIT) {
            Ok(_) => true,
            Err(Errno::AGAIN) => false,
            Err(error) => panic!("{}: {error}", path.display()),
        }
    };
    (0..pages).filter(is_cached).count()
}

/// The tar that has most bytes.
fn largest_tar(root: &Path) -> PathBuf {
    let layers = fs::read_dir(root.join("layers")).unwrap();
    let tars = layers.map(|layer| layer.unwrap().path().join("tar"));
    tars.max_by_key(|tar| tar.metadata().unwrap().len())
        .unwrap()
}

#[test]
fn a_mount_reads_past_the_page_cache_of_the_tars_while_nothing_arrives() {
    let scene = Scene::accelerated();
    let lazily = |transport| {
        let node = thaw();
        let dir = target(&node);
        let flags = ["mount", "--pull", "lazy", "--transport", transport];
        let mount = flags.into_iter().chain([&*scene.image, &dir]);
        node.run(mount).unwrap();
        assert!(!reads_directly(&dir));
        (node, dir)
    };
    let (node, dir) = lazily("fanotify");
    let (by_fuse, fuse_dir) = lazily("fuse");
    let refused = thaw();
    let config = refused.root().with_file_name("config.toml");
    fs::write(&config, "direct-reads = false\n").unwrap();
    let config = config.to_str().unwrap();
    let refused_dir = target(&refused);
    let mount = ["--config", config, "mount", &scene.image, &refused_dir];
    refused.run(mount).unwrap();
    wait_until(&dir, true);

    // What is absent arrives, and so does what is behind it.
    let message = fs::read_to_string(format!("{dir}/srv/message")).unwrap();
    assert_eq!(message, "read from the second layer\n");
    wait_until(&dir, false);
    let large = PathBuf::from(format!("{dir}/srv/never-read"));
    let first = fs::read(&large).unwrap();
    wait_until(&dir, true);

    let tar = largest_tar(node.root());
    // The daemon, too, reads a layer that has become complete: once, to check it.
    let begin = Instant::now();
    loop {
        for path in [&tar, &large] {
            forget(path);
        }
        assert!(fs::read(&large).unwrap() == first);
        match cached(&tar) {
            0 => break,
            pages => assert!(begin.elapsed() < Duration::from_secs(60), "{pages} pages"),
        }
    }

    // By another way, the same bytes.
    assert!(fs::read(format!("{fuse_dir}/srv/never-read")).unwrap() == first);
    assert!(!reads_directly(&fuse_dir) && !reads_directly(&refused_dir));
    let large = PathBuf::from(format!("{refused_dir}/srv/never-read"));
    assert!(fs::read(&large).unwrap() == first);
    let tar = largest_tar(refused.root());
    for path in [&tar, &large] {
        forget(path);
    }
    assert!(fs::read(&large).unwrap() == first);
    assert!(cached(&tar) > 0, "read through the page cache");

    // The image's own mount, which containers share, reads as that of the directory does.
    let own = fs::read_dir(node.root().join("mounts")).unwrap();
    let own = own
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_dir());
    assert!(reads_directly(own.unwrap().to_str().unwrap()));
    let read = sh(&node, &[], &scene.image, "cat /srv/message");
    assert_eq!(read, message);
    drop(by_fuse);
}
