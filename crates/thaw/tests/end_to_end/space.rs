//! What the cache may take, and many images and mounts on one store.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::SystemTime;

use thaw_testkit::image::{Entry, Image, Layer};
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

use crate::support::{BUSYBOX, Scene, json, run, sh, target, thaw};

fn taken(node: &Thaw) -> u64 {
    let layers = fs::read_dir(node.root().join("layers")).unwrap();
    let files = layers.flat_map(|layer| fs::read_dir(layer.unwrap().path()).unwrap());
    let blocks = files.map(|file| file.unwrap().metadata().unwrap().blocks());
    blocks.sum::<u64>() * 512
}

/// Collects until the cache has that size: somebody may hold a layer for some seconds.
fn shrink(node: &Thaw, size: u64) {
    let size_text = size.to_string();
    for _ in 0..900 {
        node.run(["gc", "--cache-size", &size_text]).unwrap();
        if taken(node) <= size {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("it has {} bytes still", taken(node));
}

/// Has the layer with the program be the one that was used by nobody for the longest time: the first that
/// has to lose something.
fn neglect_the_program(node: &Thaw, image: &str) {
    let facts = json(&node.run(["inspect", "--json", image]).unwrap());
    let layer = facts["layers"][0]["diff_id"].as_str().unwrap();
    let layer = layer.strip_prefix("sha256:").unwrap();
    for file in fs::read_dir(node.root().join("layers").join(layer)).unwrap() {
        let file = fs::File::open(file.unwrap().path()).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    }
}

#[test]
fn a_cache_that_is_too_large_loses_its_working_sets_last() {
    let scene = Scene::accelerated();
    let node = thaw();
    let start = ["--pull", "lazy"];
    assert!(run(&node, &start, &scene.image, &[]).status.success());
    node.run(["pull", &scene.image]).unwrap();
    node.run(["unmount", "--all"]).unwrap();
    let whole = taken(&node);
    assert!(whole > 12 << 20, "{whole}");

    let plan = node.run(["gc", "--cache-size", "4m", "--dry-run"]).unwrap();
    assert!(plan.contains("all but its working sets"), "{plan}");
    assert_eq!(taken(&node), whole, "a plan takes nothing");
    shrink(&node, 4 << 20);

    // What went is fetched again, and is right.
    let read = sh(
        &node,
        &start,
        &scene.image,
        "cat /srv/message; md5sum /srv/never-read",
    );
    let other = thaw();
    let full = ["--pull", "full"];
    let expected = sh(
        &other,
        &full,
        &scene.image,
        "cat /srv/message; md5sum /srv/never-read",
    );
    assert_eq!(read, expected);
    node.run(["unmount", "--all"]).unwrap();
    neglect_the_program(&node, &scene.image);
    shrink(&node, 4 << 20);

    // What the working set has is here still: the program, but for the end of its file. The mount has not
    // fetched it, having no profile, and then nobody can.
    let dir = target(&node);
    let lazily = ["mount", "--pull", "lazy", "--profile", "none"];
    node.run(lazily.into_iter().chain([&*scene.image, &*dir]))
        .unwrap();
    drop(scene);
    let program = fs::read(BUSYBOX).unwrap();
    let mut loaded = vec![0; program.len() / 2];
    let busybox = fs::File::open(format!("{dir}/bin/busybox")).unwrap();
    busybox.read_exact_at(&mut loaded, 0).unwrap();
    assert!(loaded == program[..loaded.len()]);
    drop(busybox);
    let images = json(&node.run(["images", "--json"]).unwrap());
    assert_eq!(images[0]["whole"], false, "{images}");
    assert!(taken(&node) <= 4 << 20, "{}", taken(&node));
    node.run(["unmount", "--all"]).unwrap();
    shrink(&node, 1);
}

#[test]
fn the_daemon_keeps_the_cache_to_its_size() {
    let scene = Scene::accelerated();
    let node = thaw();
    let config = node.root().with_file_name("config.toml");
    fs::write(&config, "cache-size = \"1m\"\n").unwrap();
    let config = config.to_str().unwrap();
    node.run(["--config", config, "pull", &scene.image])
        .unwrap();
    for _ in 0..600 {
        if taken(&node) <= 1 << 20 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("it has {} bytes still", taken(&node));
}

/// Images with one layer in common and one of their own, each in a layout directory.
fn images(directory: &Path, count: usize) -> Vec<String> {
    let program = fs::read(BUSYBOX).expect("busybox-static is needed: cargo xtask setup");
    let base = Layer::new([
        Entry::directory("./"),
        Entry::directory("bin"),
        Entry::file("bin/busybox", program).mode(0o755),
    ]);
    let image = |number: usize| {
        let name = format!("image {number}\n");
        let own = Layer::new([Entry::directory("./"), Entry::file("name", name)]);
        let path = directory.join(number.to_string());
        Image::new([base.clone(), own])
            .write(&path, "latest")
            .unwrap();
        format!("oci:{}", path.display())
    };
    (0..count).map(image).collect()
}

/// Does something with each number, several at a time: each waits for the disk most of the time.
fn side_by_side(count: usize, work: impl Fn(usize) + Sync) {
    const THREADS: usize = 8;
    std::thread::scope(|scope| {
        for first in 0..THREADS {
            let work = &work;
            scope.spawn(move || (first..count).step_by(THREADS).for_each(work));
        }
    });
}

/// KiB of memory that the store's daemon has.
fn resident(node: &Thaw) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.daemon().unwrap())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.unwrap().trim().trim_end_matches(" kB");
    resident.parse().unwrap()
}

#[test]
fn many_images_and_mounts_on_one_store() {
    const IMAGES: usize = 500;
    const MOUNTS: usize = 200;
    let directory = scratch::directory().unwrap();
    let images = images(directory.path(), IMAGES);
    let node = thaw();
    let at = |number: usize| directory.path().join(format!("mount-{number}"));
    for number in 0..MOUNTS {
        fs::create_dir(at(number)).unwrap();
    }
    side_by_side(IMAGES, |number| {
        match number < MOUNTS {
            true => node.run(["mount", &images[number], at(number).to_str().unwrap()]),
            false => node.run(["pull", &images[number]]),
        }
        .unwrap();
    });
    let listed = json(&node.run(["images", "--json"]).unwrap());
    assert_eq!(listed.as_array().unwrap().len(), IMAGES);
    let mounts = json(&node.run(["mount", "--json"]).unwrap());
    assert_eq!(mounts.as_array().unwrap().len(), MOUNTS);
    for number in 0..MOUNTS {
        let name = fs::read_to_string(at(number).join("name")).unwrap();
        assert_eq!(name, format!("image {number}\n"));
    }
    let resident = resident(&node);
    assert!(resident < 200 << 10, "{resident} KiB");

    node.run(["gc", "--all"]).unwrap();
    assert_eq!(json(&node.run(["images", "--json"]).unwrap()), json("[]"));
    assert_eq!(taken(&node), 0);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = directory.path().to_str().unwrap();
    assert!(!table.contains(ours), "{table}");
}

#[test]
fn many_lazy_mounts_on_one_store() {
    const IMAGES: usize = 50;
    const MOUNTS: usize = 200;
    let directory = scratch::directory().unwrap();
    let images = images(directory.path(), IMAGES);
    let other = thaw();
    side_by_side(IMAGES, |number| {
        other.run(["accelerate", &images[number]]).unwrap();
    });
    for transport in ["fanotify", "fuse"] {
        let node = thaw();
        let at = |number: usize| directory.path().join(format!("{transport}-{number}"));
        side_by_side(MOUNTS, |number| {
            let at = at(number);
            fs::create_dir(&at).unwrap();
            let mount = ["mount", "--pull", "lazy", "--transport", transport];
            let place = [images[number % IMAGES].as_str(), at.to_str().unwrap()];
            node.run(mount.into_iter().chain(place)).unwrap();
        });
        let mounts = json(&node.run(["mount", "--json"]).unwrap());
        let mounts = mounts.as_array().unwrap();
        let lazy = mounts.iter().filter(|it| it["way"]["how"] == "lazy");
        assert_eq!(lazy.count(), MOUNTS);
        side_by_side(MOUNTS, |number| {
            let name = fs::read_to_string(at(number).join("name")).unwrap();
            assert_eq!(name, format!("image {}\n", number % IMAGES));
        });
        let resident = resident(&node);
        println!("{resident} KiB resident with {MOUNTS} lazy mounts by {transport}");
        assert_eq!(json(&node.run(["ps", "--json"]).unwrap()), json("[]"));

        let undone = json(&node.run(["unmount", "--all", "--json"]).unwrap());
        assert_eq!(undone.as_array().unwrap().len(), MOUNTS);
        assert_eq!(json(&node.run(["mount", "--json"]).unwrap()), json("[]"));
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = directory.path().to_str().unwrap();
        assert!(!table.contains(ours), "{table}");
    }
}
