//! The registry goes away under a lazy image, or is not the one that it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use thaw_testkit::expiring::Expiring;
use thaw_testkit::image::{Entry, Image, Layer};
use thaw_testkit::net::{Link, Namespace, Shape};
use thaw_testkit::registry::{Options, Registry};
use thaw_testkit::thaw::Thaw;

use super::{
    CONFIGURED_BOUND, NAME, Scene, bound, eventually, nothing_is_left, registry, target, thaw,
};

by_every_transport!(
    a_registry_that_is_gone_for_long,
    a_network_that_swallows_everything,
    a_registry_that_hangs_holds_up_no_image_of_another,
    a_fill_goes_on_when_the_registry_has_the_image_again,
    a_registry_in_the_place_of_another,
    a_registry_that_gives_other_bytes,
    a_mirror_that_gives_other_bytes_or_goes_away,
    a_token_and_an_address_that_expire_under_a_mount,
);

/// Mounts the scene's image lazily; a read may wait for two seconds.
fn mount(scene: &Scene, transport: &str) -> (Thaw, PathBuf) {
    let node = thaw();
    let dir = target(&node);
    let at = dir.to_str().unwrap();
    let config = bound(&node, 2);
    let options = [
        "mount",
        "--pull",
        "lazy",
        "--profile",
        "none",
        "--config",
        &config,
        "--transport",
        transport,
    ];
    node.run([&options[..], &[&scene.image, at]].concat())
        .unwrap();
    (node, dir)
}

/// A read of what is not here fails, and does not wait for longer than it may.
fn fails(scene: &Scene, dir: &Path, name: &str) {
    let begin = Instant::now();
    let error = scene.read(dir, name).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    assert!(
        begin.elapsed() < CONFIGURED_BOUND,
        "{name} was waited for too long"
    );
}

/// Every byte is right in the end.
fn heals(scene: &Scene, node: &Thaw, dir: &Path) {
    eventually("every byte", || {
        scene.files.keys().all(|name| scene.read(dir, name).is_ok())
    });
    nothing_is_left(node);
}

fn a_registry_that_is_gone_for_long(transport: &str) {
    let mut scene = Scene::new();
    let (node, dir) = mount(&scene, transport);
    scene.read(&dir, "srv/f0-1").unwrap();
    scene.registry = None;
    fails(&scene, &dir, "srv/f1-3");
    fails(&scene, &dir, "srv/f1-3");
    scene.read(&dir, "srv/f0-1").unwrap();
    scene.restore();
    heals(&scene, &node, &dir);
}

/// The scene's registry once more, behind a link that can be cut. Fields end in this order.
struct Behind {
    registry: Registry,
    link: Link,
    _namespace: Namespace,
}

impl Behind {
    fn new(scene: &Scene) -> Self {
        let namespace = Namespace::new().unwrap();
        let link = Link::new(&namespace, Shape::GIGABIT).unwrap();
        let options = Options {
            address: format!("{}:5000", link.far()),
            namespace: Some(namespace.path()),
            storage: Some(scene.directory.path().join("registry")),
            ..Options::default()
        };
        Self {
            registry: Registry::start_with(&options).unwrap(),
            link,
            _namespace: namespace,
        }
    }

    /// The image as it is there, and a configuration with a bound of so many seconds.
    fn image(&self, scene: &Scene, node: &Thaw, seconds: u32) -> (String, String) {
        let host = self.registry.host();
        let config = bound(node, seconds);
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, format!("{text}plain-http = [\"{host}\"]\n")).unwrap();
        (scene.image.replace(&scene.host, host), config)
    }
}

/// No refusal and no reset: packets are lost, also those of connections that are there.
fn a_network_that_swallows_everything(transport: &str) {
    let scene = Scene::new();
    let behind = Behind::new(&scene);
    let node = thaw();
    let (image, config) = behind.image(&scene, &node, 2);
    let dir = target(&node);
    let at = dir.to_str().unwrap();
    let options = ["mount", "--pull", "lazy", "--profile", "none", "--config"];
    let by = ["--transport", transport];
    node.run([&options[..], &[&config], &by, &[&image, at]].concat())
        .unwrap();
    scene.read(&dir, "srv/f0-1").unwrap();
    behind.link.cut(true);
    fails(&scene, &dir, "srv/f1-3");
    fails(&scene, &dir, "srv/f2-3");
    scene.read(&dir, "srv/f0-1").unwrap();
    behind.link.cut(false);
    heals(&scene, &node, &dir);
}

/// More readers wait for the one than there are threads for a registry.
fn a_registry_that_hangs_holds_up_no_image_of_another(transport: &str) {
    const READERS: usize = 160;
    let (hanging, well) = (Scene::of(1, READERS), Scene::new());
    let behind = Behind::new(&hanging);
    let node = thaw();
    let (image, config) = behind.image(&hanging, &node, 10);
    let dirs = ["hanging", "well"].map(|name| target(&node).join(name));
    for (image, dir) in [&image, &well.image].into_iter().zip(&dirs) {
        fs::create_dir(dir).unwrap();
        let options = ["mount", "--pull", "lazy", "--profile", "none", "--config"];
        let by = ["--transport", transport, image, dir.to_str().unwrap()];
        node.run([&options[..], &[&config], &by].concat()).unwrap();
    }
    // What is asked first loads the tables.
    hanging.read(&dirs[0], "srv/f0-0").unwrap();
    behind.link.cut(true);
    let ended = AtomicUsize::new(0);
    thread::scope(|scope| {
        for reader in 1..READERS {
            let (hanging, dir, ended) = (&hanging, &dirs[0], &ended);
            scope.spawn(move || {
                // Some came ahead.
                let begin = Instant::now();
                let read = hanging.read(dir, &format!("srv/f0-{reader}"));
                // The kernel asks for a file like these in two pieces, and then for the first page alone.
                assert!(begin.elapsed().as_secs() < 18, "it has waited twice");
                ended.fetch_add(usize::from(read.is_err()), Ordering::SeqCst);
            });
        }
        let waiting = || {
            let metrics = node.run(["metrics"]).unwrap();
            let line = metrics
                .lines()
                .find(|it| it.starts_with("thaw_faults_waiting "));
            line.unwrap()
                .split(' ')
                .nth(1)
                .unwrap()
                .parse::<f64>()
                .unwrap()
        };
        eventually("their reads", || waiting() > 60.0);
        well.files
            .keys()
            .for_each(|name| well.read(&dirs[1], name).unwrap());
        assert_eq!(
            ended.load(Ordering::SeqCst),
            0,
            "they have all the threads no more"
        );
    });
    behind.link.cut(false);
    nothing_is_left(&node);
}

fn a_fill_goes_on_when_the_registry_has_the_image_again(transport: &str) {
    let mut scene = Scene::new();
    let (node, dir) = mount(&scene, transport);
    fs::read(dir.join("bin/busybox")).unwrap();
    scene.registry = None;
    let empty = registry(&scene.host, &scene.directory.path().join("empty"));
    // The image is mounted already: nobody need be asked for the start.
    scene.start(
        &node,
        &["--net", "none", "--transport", transport, "--fill"],
    );
    let log = || fs::read_to_string(node.root().join("daemon.log")).unwrap();
    eventually("a failure", || log().contains("not completed"));
    drop(empty);
    scene.restore();
    eventually("all of it", || {
        let images = node.run(["images", "--json"]).unwrap();
        let images: serde_json::Value = serde_json::from_str(&images).unwrap();
        images[0]["whole"] == true
    });
    node.run(["rm", "-f", "box"]).unwrap();
    nothing_is_left(&node);
}

fn a_registry_in_the_place_of_another(transport: &str) {
    let mut scene = Scene::new();
    let (node, dir) = mount(&scene, transport);
    // The same address and name, another image: it does not have our blobs.
    scene.registry = None;
    let other = registry(&scene.host, &scene.directory.path().join("other"));
    let layer = Layer::new([Entry::directory("./"), Entry::file("srv", "other")]);
    Image::new([layer])
        .write(&scene.directory.path().join("other-layout"), "latest")
        .unwrap()
        .push(&other, NAME)
        .unwrap();
    fails(&scene, &dir, "srv/f1-3");
    drop(other);
    scene.restore();
    heals(&scene, &node, &dir);
}

fn a_registry_that_gives_other_bytes(transport: &str) {
    let scene = Scene::new();
    let (node, dir) = mount(&scene, transport);
    let kept = damage(&scene.directory.path().join("registry"), |bytes| {
        !bytes.starts_with(b"{")
    });
    assert!(kept.len() > super::LAYERS, "all layers are blobs");
    for name in ["srv/f0-3", "srv/f1-3", "srv/f2-3"] {
        fails(&scene, &dir, name);
    }
    says_little_of_much(&scene, &node, &dir);
    for (path, bytes) in kept {
        fs::write(path, bytes).unwrap();
    }
    heals(&scene, &node, &dir);
}

/// What fails on and on has the first 50 lines, and then 5 in a second.
fn says_little_of_much(scene: &Scene, node: &Thaw, dir: &Path) {
    let log = node.root().join("daemon.log");
    let said = || {
        fs::read_to_string(&log)
            .unwrap()
            .matches("a read fails")
            .count()
    };
    let (begin, before) = (Instant::now(), said());
    let mut tried = 0;
    while tried < 400 || said() - before < 40 {
        scene.read(dir, "srv/f0-3").unwrap_err();
        tried += 1;
    }
    let allowed = 50 + 5 * (1 + begin.elapsed().as_secs());
    let lines = u64::try_from(said() - before).unwrap();
    assert!(lines <= allowed, "{lines} lines, {allowed} may be");
    assert!(
        tried > 2 * allowed,
        "{tried} reads are too slow to be too many for {allowed} lines"
    );
}

fn a_mirror_that_gives_other_bytes_or_goes_away(transport: &str) {
    let scene = Scene::new();
    let copy = scene.directory.path().join("mirror");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(scene.directory.path().join("registry"))
        .arg(&copy)
        .status();
    assert!(copied.unwrap().success());
    // All of it is right but the layers.
    let layers = damage(&copy, |bytes| bytes.starts_with(&[0x1f, 0x8b]));
    assert!(layers.len() >= super::LAYERS);
    let mirror = registry("127.0.0.1:0", &copy);
    let asked = |mirror: &Registry| {
        let requests = mirror.requests();
        let blobs = requests.iter().filter(|it| it.uri.contains("/blobs/"));
        blobs.count()
    };
    let with_mirror = || {
        let node = thaw();
        let config = node.root().with_file_name("mirrored.toml");
        let table = format!("[registry.\"{}\"]\n", scene.host);
        let text = format!("{table}mirrors = [\"{}\"]\n", mirror.host());
        fs::write(&config, text).unwrap();
        (node, config.to_str().unwrap().to_owned())
    };
    let (puller, config) = with_mirror();
    puller
        .run(["pull", "--config", &config, &scene.image])
        .unwrap();
    let pulled = asked(&mirror);
    assert!(pulled > 0, "the mirror is asked first");

    let (node, config) = with_mirror();
    let dir = target(&node);
    let at = dir.to_str().unwrap();
    let options = ["--pull", "lazy", "--profile", "none", "--config", &config];
    let by = ["--transport", transport, &scene.image, at];
    node.run([&["mount"], &options[..], &by].concat()).unwrap();
    scene.read(&dir, "srv/f0-1").unwrap();
    assert!(asked(&mirror) > pulled, "the mirror is asked first");
    drop(mirror);
    heals(&scene, &node, &dir);
}

/// What a read that waits needs is refused twice: the token and the address of the blob are too old.
fn a_token_and_an_address_that_expire_under_a_mount(transport: &str) {
    let mut scene = Scene::new();
    let expiring = Expiring::new(&scene.host).unwrap();
    scene.image = scene.image.replace(&scene.host, &expiring.host());
    let (node, dir) = mount(&scene, transport);
    let more = ["--profile", "none", "--transport", transport];
    let inside = scene.start(&node, &[&["--net", "none"], &more[..]].concat());
    for layer in 0..super::LAYERS {
        scene.read(&dir, &format!("srv/f{layer}-1")).unwrap();
    }
    // Far behind what was read: in another chunk, and not fetched ahead.
    for (root, name) in [
        (&dir, "srv/f0-18"),
        (&inside, "srv/f1-18"),
        (&dir, "srv/f2-18"),
    ] {
        let before = expiring.refused();
        expiring.expire();
        scene.read(root, name).unwrap();
        let after = expiring.refused();
        assert!(after.0 > before.0, "no token was too old: {after:?}");
        assert!(after.1 > before.1, "no address was too old: {after:?}");
    }
    expiring.expire();
    let progress = std::sync::atomic::AtomicUsize::new(0);
    assert_eq!(scene.read_all(&inside, &progress), 0);
    node.run(["rm", "-f", "box"]).unwrap();
    nothing_is_left(&node);
}

/// Gives blobs other bytes under the same digest: those that `choose` wants. Their paths and bytes.
fn damage(storage: &Path, choose: impl Fn(&[u8]) -> bool) -> Vec<(PathBuf, Vec<u8>)> {
    let mut kept = Vec::new();
    for path in files(&storage.join("docker/registry/v2/blobs/sha256")) {
        let bytes = fs::read(&path).unwrap();
        if choose(&bytes) {
            let other: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
            fs::write(&path, other).unwrap();
            kept.push((path, bytes));
        }
    }
    kept
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}
