//! What the cache may take, and many images and mounts on one store.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use thaw_testkit::far::Far;
use thaw_testkit::image::{Entry, Image, Layer};
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

use crate::support::{BUSYBOX, Scene, json, run, sh, target, thaw, until};

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

/// What the store would have if every layer kept its working set alone, with what is not told exactly.
fn with_working_sets_alone(node: &Thaw) -> u64 {
    let plan = ["gc", "--cache-size", "1", "--dry-run", "--json"];
    let plan = json(&node.run(plan).unwrap());
    let removals = plan["removals"].as_array().unwrap().iter();
    let shrunk = removals.filter(|it| it["what"].as_str().unwrap().contains("working sets"));
    let spare: u64 = shrunk.map(|it| it["bytes"].as_u64().unwrap()).sum();
    taken(node) - spare + (128 << 10)
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
    let least = with_working_sets_alone(&node);
    shrink(&node, least);

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
    assert!(taken(&node) <= 4 << 20, "{} of {least}", taken(&node));
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
    let pull = ["--config", config, "pull"];
    node.run(pull.into_iter().chain([&*scene.image])).unwrap();
    until("the cache is small", || taken(&node) <= 1 << 20);
    // A container that has ended leaves its image mounted, for the next one.
    let start = ["run", "--rm", "--net", "none", "--pull", "full"];
    node.run(start.into_iter().chain([&*scene.image])).unwrap();
    until("the cache is small again", || taken(&node) <= 1 << 20);
}

/// An image of one layer of 2 MiB, named and filled by a number.
fn of_two_mebibytes(directory: &Path, number: u32) -> String {
    let noise = (0..1 << 19).map(|at: u32| (at ^ number << 20).wrapping_mul(0x9e37_79b9));
    let noise: Vec<u8> = noise.flat_map(u32::to_be_bytes).collect();
    let layer = Layer::new([Entry::directory("./"), Entry::file("noise", noise)]);
    let path = directory.join(number.to_string());
    Image::new([layer]).write(&path, "latest").unwrap();
    format!("oci:{}", path.display())
}

/// By the name of its image: whether it is whole in the store.
fn whole(node: &Thaw, images: &[String]) -> Vec<bool> {
    let listed = json(&node.run(["images", "--json"]).unwrap());
    let listed = listed.as_array().unwrap();
    let is_whole = |name: &String| {
        let image = listed.iter().find(|it| it["reference"] == **name);
        image.unwrap()["whole"] == true
    };
    images.iter().map(is_whole).collect()
}

#[test]
fn what_was_used_the_longest_ago_goes_first() {
    let directory = scratch::directory().unwrap();
    let images = [1, 2, 3, 4].map(|number| of_two_mebibytes(directory.path(), number));
    let node = thaw();
    // Times of use are told in seconds.
    let pause = || std::thread::sleep(std::time::Duration::from_millis(1100));
    for image in &images {
        node.run(["pull", image]).unwrap();
        pause();
    }
    let dir = target(&node);
    node.run(["mount", &images[1], &dir]).unwrap();
    pause();
    node.run(["unmount", &dir]).unwrap();
    // To look at it is no use of it.
    node.run(["inspect", &images[0]]).unwrap();
    assert_eq!(whole(&node, &images), [true; 4]);
    shrink(&node, 7 << 20);
    assert_eq!(whole(&node, &images), [false, true, true, true]);
    shrink(&node, 5 << 20);
    assert_eq!(whole(&node, &images), [false, true, false, true]);
    // Neither is that it was made smaller.
    shrink(&node, 3 << 20);
    assert_eq!(whole(&node, &images), [false, true, false, false]);
    shrink(&node, 1);
}

#[test]
fn a_layer_of_which_nothing_is_known_goes() {
    let directory = scratch::directory().unwrap();
    let images = [1, 2].map(|number| of_two_mebibytes(directory.path(), number));
    let node = thaw();
    for image in &images {
        node.run(["pull", image]).unwrap();
    }
    // As where the machine went down while it was written.
    node.end().unwrap();
    for layer in fs::read_dir(node.root().join("layers")).unwrap() {
        for name in ["presence", "presence.durable"] {
            fs::remove_file(layer.as_ref().unwrap().path().join(name)).unwrap();
        }
    }
    shrink(&node, 1);
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

/// Has a command wait for the second layer of an image, of which the first is here, and then go on.
fn while_it_waits(config: &str, command: &[&str], meanwhile: impl FnOnce(&Thaw, &Path)) {
    let scene = Scene::new();
    let layers = scene.layout.manifest().unwrap()["layers"].clone();
    let far = Far::new(scene.registry.host(), std::time::Duration::ZERO).unwrap();
    let image = scene.image.replace(scene.registry.host(), &far.host());
    let withheld = far.withhold(layers[1]["digest"].as_str().unwrap());
    let node = thaw();
    let file = node.root().with_file_name("config.toml");
    fs::write(&file, config).unwrap();
    std::thread::scope(|scope| {
        let begun = scope.spawn(|| {
            let config = ["--config", file.to_str().unwrap()];
            node.run(config.iter().chain(command).chain([&&*image]))
        });
        let first = || {
            let listed = fs::read_dir(node.root().join("layers"))
                .into_iter()
                .flatten();
            let mut layers = listed.map(|it| it.unwrap().path());
            layers.find(|it| it.join("presence.durable").exists() || it.join("presence").exists())
        };
        until("the request", || withheld.asked() > 0);
        until("the first layer", || first().is_some());
        meanwhile(&node, &first().unwrap());
        drop(withheld);
        begun.join().unwrap().unwrap();
    });
    assert_eq!(whole(&node, &[image]), [true]);
}

#[test]
fn what_is_being_pulled_is_not_collected() {
    while_it_waits("", &["pull"], |node, first| {
        let said = node.run(["gc"]).unwrap();
        assert!(first.join("presence").exists(), "{said}");
        node.run(["gc", "--all"]).unwrap();
        node.run(["gc", "--cache-size", "1"]).unwrap();
        assert!(first.join("presence").exists(), "{said}");
    });
}

#[test]
fn a_start_that_waits_for_its_registry_does_not_keep_the_cache_large() {
    let directory = scratch::directory().unwrap();
    let other = of_two_mebibytes(directory.path(), 1);
    let start = ["run", "--rm", "--net", "none", "--pull", "full"];
    while_it_waits("cache-size = \"1m\"\n", &start, |node, _| {
        node.run(["pull", &other]).unwrap();
        let images = [other.clone()];
        until("the other image is smaller", || {
            whole(node, &images) == [false]
        });
    });
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
