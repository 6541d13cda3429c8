//! Images that start from directories: what they show, what they cost, and what is left of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use thaw_testkit::image::{Compression, Entry, Image, Layer};
use thaw_testkit::registry::Registry;
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

use crate::support::{Scene, image, json, kill_daemon, refused, run, stdout, target, thaw};

const BY: [&str; 2] = ["--transport", "directories"];
const MESSAGE: &str = "read from the second layer\n";

/// Names in a directory of the store; none where it is not there.
fn names(node: &Thaw, dir: &str) -> Vec<PathBuf> {
    let list = fs::read_dir(node.root().join(dir)).into_iter().flatten();
    list.map(|entry| entry.unwrap().path()).collect()
}

fn is_left(node: &Thaw) -> [usize; 3] {
    ["trees", "corrections", "tmp"].map(|dir| names(node, dir).len())
}

fn pull(node: &Thaw, image: &str) -> serde_json::Value {
    let said = node.run(["pull", "--json", BY[0], BY[1], image]);
    json(&said.unwrap())
}

#[test]
fn a_container_runs_from_directories_and_says_so() {
    let scene = Scene::accelerated();
    let node = thaw();
    let output = run(
        &node,
        &[BY[0], BY[1], "--timing", "--json"],
        &scene.image,
        &[],
    );
    assert_eq!(stdout(&output), MESSAGE);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = said.lines().find(|line| line.starts_with('{')).unwrap();
    let why = "unpacked into directories: asked for by --transport directories";
    let way = &json(report)["report"]["way"];
    assert_eq!((&way["how"], &way["why"]), (&"full".into(), &why.into()));
    // Nothing but directories came: no tar, no index.
    assert!(names(&node, "layers").is_empty());
    assert_eq!(is_left(&node), [2, 1, 0]);

    let flags = ["run", "-d", "--name", "from", "--net", "none", BY[0], BY[1]];
    let command = [&*scene.image, "--", "sleep", "1000"];
    node.run(flags.into_iter().chain(command)).unwrap();
    let ps = json(&node.run(["ps", "--json"]).unwrap())[0].clone();
    assert_eq!(
        (&ps["way"]["how"], &ps["way"]["why"]),
        (&"full".into(), &why.into())
    );
    let images = json(&node.run(["images", "--json"]).unwrap())[0].clone();
    assert_eq!(
        (&images["whole"], &images["in_use"]),
        (&true.into(), &true.into())
    );
    assert!(images["cached"].as_u64().unwrap() > 12_000_000, "{images}");
    let inspected = json(&node.run(["inspect", "--json", &scene.image]).unwrap());
    assert_eq!(inspected["cached"], inspected["unpacked"]);
    // Its writable part is its own.
    let script = "echo new > /srv/message; rm /etc/group; cat /srv/message";
    let said = node.run(["exec", "from", "sh", "-c", script]).unwrap();
    assert_eq!(said, "new\n");
    let output = run(
        &node,
        &BY,
        &scene.image,
        &["cat", "/srv/message", "/etc/group"],
    );
    assert!(stdout(&output).starts_with(MESSAGE));
    node.run(["rm", "-f", "from"]).unwrap();
}

#[test]
fn directories_are_never_lazy() {
    let scene = Scene::accelerated();
    let node = thaw();
    let args = ["run", BY[0], BY[1], "--pull", "lazy", &scene.image];
    let (code, said) = refused(&node, &args);
    assert_eq!(code, 125, "{said}");
    assert!(
        said.contains("cannot be started lazily") && said.contains("leave out --pull lazy"),
        "{said}"
    );
    assert_eq!(is_left(&node), [0, 0, 0]);
}

#[test]
fn one_mount_of_an_image_is_by_one_way() {
    let scene = Scene::accelerated();
    let node = thaw();
    let dir = target(&node);
    node.run(["mount", "--pull", "lazy", &scene.image, &dir])
        .unwrap();
    let (_, said) = refused(&node, &["run", BY[0], BY[1], &scene.image]);
    assert!(said.contains("served by EROFS"), "{said}");
    node.run(["unmount", &dir]).unwrap();
    assert_eq!(stdout(&run(&node, &BY, &scene.image, &[])), MESSAGE);
}

#[test]
fn what_was_unpacked_is_shared_and_goes_when_nothing_has_it() {
    let registry = Registry::start().unwrap();
    let directory = scratch::directory().unwrap();
    let push = |name: &str, top: &str| {
        let base = [
            Entry::directory("./"),
            Entry::file("base", "x".repeat(9000)),
        ];
        let layers = [Layer::new(base), Layer::new([Entry::file(top, top)])];
        let layout = Image::new(layers).write(&directory.path().join(name), "latest");
        layout.unwrap().push(&registry, name).unwrap()
    };
    let (one, two) = (push("one:1", "first"), push("two:1", "second"));
    let node = thaw();
    assert_eq!(pull(&node, &one)["already_here"], false);
    let inodes = || -> Vec<u64> {
        let files = names(&node, "trees")
            .into_iter()
            .map(|dir| dir.join("fs/base"));
        files
            .filter_map(|path| Some(fs::metadata(path).ok()?.ino()))
            .collect()
    };
    let before = inodes();
    assert_eq!(before.len(), 1);
    let asked = registry.requests().len();
    pull(&node, &two);
    assert_eq!(inodes(), before);
    let requests = registry.requests();
    let blobs = requests[asked..]
        .iter()
        .filter(|it| it.uri.contains("/blobs/"));
    assert_eq!(
        blobs.count(),
        2,
        "its configuration and its own layer: {requests:?}"
    );
    assert_eq!(is_left(&node), [3, 2, 0]);
    assert_eq!(pull(&node, &one)["already_here"], true);

    let dir = target(&node);
    node.run(["mount", BY[0], BY[1], &one, &dir]).unwrap();
    let dry = json(&node.run(["gc", "--all", "--dry-run", "--json"]).unwrap());
    let removals = dry["removals"].to_string();
    assert!(
        removals.contains("directories of image") && removals.contains("layer sha256"),
        "{dry}"
    );
    assert_eq!(is_left(&node), [3, 2, 0]);
    // Without --all only what no image has.
    node.run(["gc"]).unwrap();
    assert_eq!(is_left(&node), [3, 2, 0]);
    node.run(["gc", "--all"]).unwrap();
    assert_eq!(is_left(&node), [0, 0, 0]);
    assert!(
        json(&node.run(["images", "--json"]).unwrap())
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_tar_that_is_here_is_unpacked_without_a_registry() {
    let Scene {
        registry, image, ..
    } = Scene::new();
    let node = thaw();
    node.run(["pull", &image]).unwrap();
    drop(registry);
    assert_eq!(stdout(&run(&node, &BY, &image, &[])), MESSAGE);
    assert_eq!(is_left(&node), [2, 1, 0]);
}

#[test]
fn a_layer_of_zstd_is_unpacked_too() {
    let registry = Registry::start().unwrap();
    let directory = scratch::directory().unwrap();
    let layout = image(Compression::Zstd(3)).write(&directory.path().join("layout"), "latest");
    let name = layout.unwrap().push(&registry, "zstd:1").unwrap();
    let node = thaw();
    assert_eq!(stdout(&run(&node, &BY, &name, &[])), MESSAGE);
}

#[test]
fn the_next_daemon_goes_on_with_them() {
    let scene = Scene::new();
    let node = thaw();
    let dir = target(&node);
    node.run(["mount", BY[0], BY[1], &scene.image, &dir])
        .unwrap();
    let flags = [
        "run", "-d", "--name", "goes-on", "--net", "none", BY[0], BY[1],
    ];
    let command = [&*scene.image, "--", "sleep", "1000"];
    node.run(flags.into_iter().chain(command)).unwrap();
    kill_daemon(&node);
    drop(scene);
    let said = node
        .run(["exec", "goes-on", "cat", "/srv/message"])
        .unwrap();
    assert_eq!(said, MESSAGE);
    let mounts = json(&node.run(["mount", "--json"]).unwrap());
    assert_eq!(mounts[0]["dir"], *dir, "{mounts}");
    assert_eq!(mounts[0]["way"]["how"], "full");
    let images = json(&node.run(["images", "--json"]).unwrap());
    assert_eq!(images[0]["in_use"], true);
    // What is in use stays.
    node.run(["unmount", &dir]).unwrap();
    node.run(["gc", "--all"]).unwrap();
    assert_eq!(is_left(&node), [2, 1, 0]);
    node.run(["rm", "-f", "goes-on"]).unwrap();
    node.run(["gc", "--all"]).unwrap();
    assert_eq!(is_left(&node), [0, 0, 0]);
}

/// A child that is killed when the test is over.
struct Pulling(Child);

impl Drop for Pulling {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_daemon_that_is_killed_while_it_unpacks_leaves_nothing() {
    let registry = Registry::start().unwrap();
    let directory = scratch::directory().unwrap();
    let noise = |seed: u32| -> Vec<u8> {
        let word = |n: u32| {
            (n ^ seed)
                .wrapping_mul(0x9e37_79b9)
                .rotate_left(n % 31)
                .to_be_bytes()
        };
        (0..2500).flat_map(word).collect()
    };
    let files = (0..6000u32).map(|n| Entry::file(format!("d/{n}"), noise(n << 12)));
    let layout = Image::new([Layer::new(files)]).write(&directory.path().join("layout"), "latest");
    let image = layout.unwrap().push(&registry, "many:1").unwrap();
    let node = thaw();
    node.run(["images"]).unwrap();
    let mut command = node.command(["pull", BY[0], BY[1], &image]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let pulling = Pulling(command.spawn().unwrap());
    let began = Instant::now();
    let staged = || {
        let stages = names(&node, "tmp").into_iter().map(|dir| dir.join("stage"));
        stages
            .filter_map(|dir| Some(fs::read_dir(dir).ok()?.count()))
            .sum::<usize>()
    };
    while staged() == 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "it never began");
        std::thread::sleep(Duration::from_millis(1));
    }
    kill_daemon(&node);
    drop(pulling);
    assert_ne!(
        names(&node, "tmp").len(),
        0,
        "it was over too soon to be killed"
    );
    assert_eq!(names(&node, "trees").len(), 0);
    // The next daemon.
    node.run(["images"]).unwrap();
    assert_eq!(is_left(&node), [0, 0, 0]);
    pull(&node, &image);
    assert_eq!(is_left(&node), [1, 1, 0]);
    let files = names(&node, "trees")[0].join("fs/d");
    assert_eq!(fs::read_dir(files).unwrap().count(), 6000);
}

/// What is at a path of the host, without following it.
fn seen(path: &Path) -> Option<(u64, u64, i64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.ino(), metadata.len(), metadata.ctime()))
}

#[test]
fn a_hostile_layer_writes_nowhere_else() {
    let registry = Registry::start().unwrap();
    let directory = scratch::directory().unwrap();
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "as it was").unwrap();
    let victim = outside.join("victim");
    let before = (seen(&outside), seen(&victim));
    let out = outside.to_str().unwrap();
    let push = |name: &str, entries: Vec<Entry>| {
        let layers = [Layer::new([Entry::directory("./")]), Layer::new(entries)];
        let layout = Image::new(layers).write(&directory.path().join(name), "latest");
        layout
            .unwrap()
            .push(&registry, &format!("{name}:1"))
            .unwrap()
    };
    let node = thaw();
    let climb = format!("{}{out}/victim", "../".repeat(20));
    let bad = [
        (
            "climbs",
            vec![Entry::file(&climb, "x")],
            "it climbs with `..`",
        ),
        (
            "links-out",
            vec![Entry::hard_link("mine", format!("{out}/victim"))],
            "which does not exist",
        ),
        (
            "links-up",
            vec![Entry::hard_link("mine", &climb)],
            "it climbs with `..`",
        ),
        (
            "loops",
            vec![
                Entry::symlink("a", "b"),
                Entry::symlink("b", "a"),
                Entry::file("a/x", "x"),
            ],
            "symbolic links",
        ),
        (
            "owner",
            vec![Entry::file("x", "x").owner(1 << 40, 0)],
            "larger than Linux can hold",
        ),
    ];
    for (name, entries, message) in bad {
        let image = push(name, entries);
        let (_, said) = refused(&node, &["pull", BY[0], BY[1], &image]);
        assert!(
            said.contains("layer 2") && said.contains(message),
            "{name}: {said}"
        );
        // What is right of the image may stay for others; half a layer does not.
        assert_eq!(is_left(&node)[1..], [0, 0], "{name}");
    }
    // These are paths within the image, whatever they look like.
    let image = push(
        "inside",
        vec![
            Entry::symlink("link", out),
            Entry::file("link/victim", "x").mode(0o777),
            Entry::symlink("up", "../../../../../.."),
            Entry::file(format!("up{out}/victim"), "y"),
            Entry::file(format!("{out}/absolute"), "z"),
            Entry::symlink("final", victim.to_str().unwrap()),
            Entry::file("final", "no link any more"),
            Entry::directory("turns"),
            Entry::symlink("turns", out),
            Entry::hard_link("hard", format!("{out}/victim")),
        ],
    );
    pull(&node, &image);
    assert_eq!((seen(&outside), seen(&victim)), before);
    let dir = target(&node);
    node.run(["mount", BY[0], BY[1], &image, &dir]).unwrap();
    let read = |path: &str| fs::read_to_string(format!("{dir}/{path}")).unwrap();
    assert_eq!(read(&format!("{out}/victim")), "y");
    assert_eq!(read("hard"), "y");
    assert_eq!(read(&format!("{out}/absolute")), "z");
    assert_eq!(read("final"), "no link any more");
    node.run(["unmount", &dir]).unwrap();
}

#[test]
fn damage_is_never_unpacked() {
    let scene = Scene::new();
    let layers = scene.layout.manifest().unwrap()["layers"].clone();
    let digest = layers[1]["digest"].as_str().unwrap().parse().unwrap();
    let blob = scene.registry.blob(&digest);
    let mut bytes = fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let node = thaw();
    let (_, said) = refused(&node, &["run", BY[0], BY[1], &scene.image]);
    assert!(
        said.contains("layer 2 of 2") && said.contains("damaged"),
        "{said}"
    );
    assert_eq!(is_left(&node)[1..], [0, 0]);
    let trees = names(&node, "trees");
    assert!(
        trees.iter().all(|dir| !dir.join("fs/srv/message").exists()),
        "{trees:?}"
    );
}
