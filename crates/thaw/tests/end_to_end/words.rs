//! Images that have layers in common and trust different words: what one of them is lied to about
//! is nothing that the other one reads.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use thaw_accelerate::{Origin, PackOptions, WorkingSetArtifact, pack};
use thaw_image::{DiffId, Digest, Extent, media};
use thaw_registry::{Client, Descriptor};
use thaw_testkit::image::{Compression, Layout};
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

use crate::signing::{Keys, Signed};
use crate::support::{Scene, image, json, kill_daemon, kill_keeper, refused, target, thaw};

const TRUTH: &str = "read from the second layer\n";
const LIE: &str = "READ FROM THE SECOND LAYER\n";

/// An image with a signed acceleration, and another one with the same layers, of whose upper one a
/// working set has other bytes.
struct Two {
    keys: Keys,
    signed: Signed,
    liar: String,
    /// Bytes of the tar that it lies about.
    size: u64,
    _directory: TempDir,
}

impl Two {
    fn new() -> Self {
        let keys = Keys::new(&["ours"]);
        let scene = Scene::new();
        let sign = ["accelerate", "--sign", &keys.private("ours"), &scene.image];
        thaw().run(sign).unwrap();
        let directory = scratch::directory().unwrap();
        let other = image(Compression::Gzip(6)).config("User", "33");
        let other = other.write(directory.path(), "latest").unwrap();
        let liar = other.push(&scene.registry, "liar:1").unwrap();
        let node = thaw();
        node.run(["accelerate", &liar]).unwrap();
        node.run(["pull", &liar]).unwrap();
        let layers = json(&node.run(["inspect", "--json", &liar]).unwrap())["layers"].clone();
        let layers: Vec<(DiffId, u64)> = (0..2)
            .map(|layer| {
                let layer = &layers[layer];
                let diff_id = layer["diff_id"].as_str().unwrap().parse().unwrap();
                (DiffId(diff_id), layer["unpacked"].as_u64().unwrap())
            })
            .collect();
        let (layer, size) = layers[1];
        let tar = node.root().join("layers").join(layer.0.hex()).join("tar");
        let mut tar = fs::read(tar).unwrap();
        let text = TRUTH.as_bytes();
        let at = tar.windows(text.len()).rposition(|it| it == text).unwrap();
        tar[at..at + text.len()].copy_from_slice(LIE.as_bytes());
        let read = |_: &DiffId, extent: Extent| {
            let range =
                usize::try_from(extent.offset).unwrap()..usize::try_from(extent.end()).unwrap();
            Ok(tar[range].to_vec())
        };
        let trace = [(layer, Extent::between(0, size))];
        let packed = pack(&trace, &layers, &read, &PackOptions::default()).unwrap();
        let subject = other.blob(&other.digest()).unwrap();
        let subject = Descriptor::of(media::MANIFEST, &subject);
        let set = WorkingSetArtifact::build(&subject, "default", Origin::Recorded, packed).unwrap();
        let client = Client::new(thaw_registry::Settings::default()).unwrap();
        let repository = client.open(&liar.parse().unwrap()).unwrap();
        set.publish(repository.as_ref()).unwrap();
        Self {
            keys,
            signed: Signed::of(scene),
            liar,
            size,
            _directory: directory,
        }
    }

    /// A node whose configuration trusts the key.
    fn node(&self) -> Thaw {
        let node = thaw();
        let config = self.keys.config(&["ours"], "");
        node.run(["--config", &config, "images"]).unwrap();
        node
    }

    fn mount(&self, node: &Thaw, image: &str, dir: &str) -> String {
        fs::create_dir_all(dir).unwrap();
        let config = self.keys.config(&["ours"], "");
        let mount = ["--config", &config, "mount", "--json", "--pull", "lazy"];
        let said = node.run(mount.into_iter().chain([image, dir])).unwrap();
        json(&said)["way"]["how"].as_str().unwrap().to_owned()
    }

    /// Mounts the image that is lied about, and waits until the working set has come.
    fn mount_liar(&self, node: &Thaw, dir: &str) {
        self.mount(node, &self.liar, dir);
        let begin = Instant::now();
        let present = || {
            let mounts = json(&node.run(["mount", "--json"]).unwrap());
            let mounts = mounts.as_array().unwrap().clone();
            let mut own = mounts.iter().filter(|it| it["dir"] == *dir);
            own.next().unwrap()["present"].as_u64().unwrap()
        };
        while present() < self.size {
            assert!(begin.elapsed() < Duration::from_secs(30), "no working set");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn pinned(&self) -> String {
        self.signed.pinned()
    }
}

fn message(dir: &str) -> String {
    fs::read_to_string(Path::new(dir).join("srv/message")).unwrap()
}

#[test]
fn a_lie_that_is_here_does_not_reach_an_image_that_wants_a_signature() {
    let two = Two::new();
    let node = two.node();
    let (liar, pinned) = (target(&node), format!("{}-2", target(&node)));
    two.mount_liar(&node, &liar);
    assert_eq!(message(&liar), LIE, "its repository is believed");
    // Nobody reads the layer any more: it is begun afresh.
    node.run(["unmount", "--all"]).unwrap();
    assert_eq!(two.mount(&node, &two.pinned(), &pinned), "lazy");
    assert_eq!(message(&pinned), TRUTH);
}

#[test]
fn a_lie_that_is_being_read_does_not_reach_an_image_that_wants_a_signature() {
    let two = Two::new();
    let node = two.node();
    let (liar, pinned) = (target(&node), format!("{}-2", target(&node)));
    two.mount_liar(&node, &liar);
    two.mount(&node, &two.pinned(), &pinned);
    assert_eq!(message(&pinned), TRUTH);
    node.run(["unmount", &pinned]).unwrap();
}

#[test]
fn a_lie_that_comes_later_does_not_reach_an_image_that_wants_a_signature() {
    let two = Two::new();
    let node = two.node();
    let (liar, pinned) = (target(&node), format!("{}-2", target(&node)));
    assert_eq!(two.mount(&node, &two.pinned(), &pinned), "lazy");
    // Whoever takes over knows what it was named.
    kill_daemon(&node);
    two.mount_liar(&node, &liar);
    assert_eq!(message(&pinned), TRUTH);
    assert_eq!(message(&liar), TRUTH, "the layer was fetched whole");
    node.run(["unmount", &pinned]).unwrap();
}

#[test]
fn a_mount_that_was_lied_to_is_not_shared_with_who_believes_only_its_acceleration() {
    let two = Two::new();
    let node = thaw();
    let tag = &two.signed.scene.image;
    let (repository, _) = tag.rsplit_once(':').unwrap();
    let config = node.root().with_file_name("config.toml");
    fs::write(
        &config,
        format!("trusted-repositories = [\"{repository}\"]\n"),
    )
    .unwrap();
    let config = config.to_str().unwrap();
    node.run(["--config", config, "images"]).unwrap();
    let dirs = ["1", "2", "3"].map(|dir| format!("{}-{dir}", target(&node)));
    two.mount_liar(&node, &dirs[0]);
    two.mount(&node, tag, &dirs[1]);
    assert_eq!(message(&dirs[1]), LIE, "tags share what they have");
    fs::create_dir(&dirs[2]).unwrap();
    let mount = ["mount", "--pull", "lazy", &two.pinned(), &dirs[2]];
    let (_, said) = refused(&node, &mount);
    assert!(
        said.contains("by what came from") && said.contains("liar"),
        "{said}"
    );
    // By itself it is mounted, with the layer put right.
    node.run(["unmount", &dirs[1]]).unwrap();
    two.mount(&node, &two.pinned(), &dirs[2]);
    assert_eq!(message(&dirs[2]), TRUTH);
}

#[test]
fn images_that_trust_the_same_words_have_their_layers_in_common() {
    let two = Two::new();
    let node = two.node();
    let (first, second) = (target(&node), format!("{}-2", target(&node)));
    two.mount(&node, &two.pinned(), &first);
    fs::read(Path::new(&first).join("srv/never-read")).unwrap();
    node.run(["unmount", "--all"]).unwrap();
    let before = two.signed.scene.registry.requests().len();
    assert_eq!(two.mount(&node, &two.pinned(), &second), "lazy");
    fs::read(Path::new(&second).join("srv/never-read")).unwrap();
    let requests = two.signed.scene.registry.requests();
    let fetched = requests[before..].iter().filter(|it| it.method == "GET");
    let blobs: Vec<_> = fetched.filter(|it| it.uri.contains("/blobs/")).collect();
    assert!(blobs.is_empty(), "{blobs:?}");
}

/// An image with a signed acceleration, and another one with the same layers, whose acceleration says of the upper
/// one that it has a byte less: its layout fits, and none of its blocks can be brought.
struct Sizes {
    keys: Keys,
    signed: Signed,
    liar: Signed,
}

impl Sizes {
    fn new() -> Self {
        let keys = Keys::new(&["ours"]);
        let scene = Scene::new();
        let sign = ["accelerate", "--sign", &keys.private("ours"), &scene.image];
        thaw().run(sign).unwrap();
        let other = image(Compression::Gzip(6)).config("User", "33");
        let liar = Scene::with(other);
        thaw().run(["accelerate", &liar.image]).unwrap();
        let liar = Signed::of(liar);
        liar.forge(|content| {
            let layers = content.layers.iter_mut().rev();
            let mut tables = layers.filter(|layer| layer.media_type == media::SEEK_TABLE);
            let annotations = &mut tables.next().unwrap().annotations;
            let size = annotations.get_mut(media::ANNOTATION_TAR_SIZE).unwrap();
            *size = (size.parse::<u64>().unwrap() - 1).to_string();
        });
        let signed = Signed::of(scene);
        Self { keys, signed, liar }
    }

    fn mount(&self, node: &Thaw, transport: &str, image: &str, dir: &str) -> String {
        fs::create_dir_all(dir).unwrap();
        let config = self.keys.config(&["ours"], "");
        let mount = ["--config", &config, "mount", "--json", "--pull", "lazy"];
        let more = ["--transport", transport, image, dir];
        let said = node.run(mount.into_iter().chain(more)).unwrap();
        json(&said)["way"]["how"].as_str().unwrap().to_owned()
    }
}

#[test]
fn a_lie_about_a_size_keeps_no_other_image_from_starting() {
    let sizes = Sizes::new();
    for transport in ["fanotify", "fuse"] {
        let node = thaw();
        let config = sizes.keys.config(&["ours"], "");
        node.run(["--config", &config, "images"]).unwrap();
        let dirs = ["1", "2", "3"].map(|dir| format!("{}-{dir}", target(&node)));
        let mount = |image: &str, dir: &str| sizes.mount(&node, transport, image, dir);
        let liar = &sizes.liar.scene.image;
        assert_eq!(mount(liar, &dirs[0]), "lazy");
        // By its digest and by its tag; whoever is lied to reads nothing, from the next keeper too.
        mount(&sizes.signed.pinned(), &dirs[1]);
        assert_eq!(message(&dirs[1]), TRUTH);
        let unread = || fs::read(Path::new(&dirs[0]).join("srv/message")).unwrap_err();
        unread();
        kill_keeper(&node);
        unread();
        node.run(["unmount", &dirs[1]]).unwrap();
        mount(&sizes.signed.scene.image, &dirs[2]);
        assert_eq!(message(&dirs[2]), TRUTH);
        node.run(["unmount", &dirs[2]]).unwrap();
        // And from the next daemon, where nobody else was left.
        kill_daemon(&node);
        kill_keeper(&node);
        node.run(["images"]).unwrap();
        unread();
        node.run(["unmount", "--all"]).unwrap();
        mount(liar, &dirs[0]);
        assert_eq!(message(&dirs[0]), TRUTH, "what is whole has one size");
        node.run(["unmount", "--all"]).unwrap();
    }
}

/// The next daemon has no use for what the keeper serves, and nobody else will let it go.
#[test]
fn a_lie_about_a_size_keeps_no_keeper_for_ever() {
    let sizes = Sizes::new();
    for transport in ["fanotify", "fuse"] {
        let node = thaw();
        let (liar, dir) = (target(&node), format!("{}-2", target(&node)));
        sizes.mount(&node, transport, &sizes.liar.scene.image, &liar);
        sizes.mount(&node, transport, &sizes.signed.scene.image, &dir);
        node.run(["unmount", &dir]).unwrap();
        kill_daemon(&node);
        node.run(["images"]).unwrap();
        // The kernel may have files open for a moment after an unmount.
        let begin = std::time::Instant::now();
        loop {
            node.run(["daemon", "--stop"]).unwrap();
            if !node.root().join("keeper.sock").exists() {
                break;
            }
            assert!(
                begin.elapsed().as_secs() < 30,
                "{transport}: a keeper of nothing"
            );
            node.run(["images"]).unwrap();
        }
        // And all is as it was.
        sizes.mount(&node, transport, &sizes.signed.scene.image, &dir);
        assert_eq!(message(&dir), TRUTH);
        node.run(["unmount", "--all"]).unwrap();
    }
}

#[test]
fn a_lie_about_a_size_keeps_nobody_from_a_full_pull() {
    let sizes = Sizes::new();
    let node = thaw();
    let (liar, dir) = (target(&node), format!("{}-2", target(&node)));
    sizes.mount(&node, "auto", &sizes.liar.scene.image, &liar);
    let image = &sizes.signed.scene.image;
    node.run(["pull", image]).unwrap();
    sizes.mount(&node, "auto", image, &dir);
    assert_eq!(message(&dir), TRUTH);
    node.run(["unmount", "--all"]).unwrap();
}

/// Two that say two sizes, and the one that is right came first.
#[test]
fn a_lie_about_a_size_that_comes_later_takes_nothing_away() {
    let sizes = Sizes::new();
    let node = thaw();
    let (liar, dir) = (target(&node), format!("{}-2", target(&node)));
    let image = &sizes.signed.scene.image;
    assert_eq!(sizes.mount(&node, "auto", image, &dir), "lazy");
    sizes.mount(&node, "auto", &sizes.liar.scene.image, &liar);
    assert_eq!(message(&dir), TRUTH);
    assert_eq!(message(&liar), TRUTH, "the layer was fetched whole");
    node.run(["unmount", "--all"]).unwrap();
}

/// What a node remembers of an image, in its store.
fn record(node: &Thaw, image: &Layout) -> PathBuf {
    let records = node.root().join("images/manifests");
    records.join(image.digest().hex())
}

/// Has a node remember that an image has an acceleration that is none of this store's.
fn remember_another(node: &Thaw, image: &Layout) {
    let path = record(node, image);
    let mut record = json(&fs::read_to_string(&path).unwrap());
    record["acceleration"]["manifest"] = Digest::of(b"another").to_string().into();
    fs::write(path, record.to_string()).unwrap();
}

/// A trusted repository has an acceleration; then the image's own has one, too, whose seek tables are none.
#[test]
fn a_mount_reads_by_what_it_was_made_of_whatever_is_pushed_later() {
    let scene = Scene::new();
    let (repository, _) = scene.image.rsplit_once(':').unwrap();
    let trusted = format!("{repository}-trusted");
    let pushed = thaw().run(["accelerate", "--to", &trusted, &scene.image]);
    pushed.unwrap();
    let node = thaw();
    let config = node.root().with_file_name("config.toml");
    let line = format!("trusted-repositories = [\"{trusted}\"]\n");
    fs::write(&config, line).unwrap();
    let dirs = ["1", "2"].map(|dir| format!("{}-{dir}", target(&node)));
    let mount = |image: &str, profile: &str, dir: &str| {
        fs::create_dir(dir).unwrap();
        let mount = [
            "--config",
            config.to_str().unwrap(),
            "mount",
            "--pull",
            "lazy",
        ];
        let profile = ["--profile", profile, image, dir];
        node.run(mount.into_iter().chain(profile)).unwrap();
    };
    let pinned = format!("{repository}@{}", scene.layout.digest());
    mount(&pinned, "default", &dirs[0]);

    thaw().run(["accelerate", &scene.image]).unwrap();
    let pushed = Signed::of(scene);
    pushed.forge(|content| {
        let layers = content.layers.iter_mut();
        for table in layers.filter(|layer| layer.media_type == media::SEEK_TABLE) {
            let none = pushed.put(media::SEEK_TABLE, table.digest.to_string().as_bytes());
            (table.digest, table.size) = (none.digest, none.size);
        }
    });
    let scene = &pushed.scene;
    mount(&scene.image, "other", &dirs[1]);
    let remembered = json(&fs::read_to_string(record(&node, &scene.layout)).unwrap());
    assert_eq!(
        remembered["acceleration"]["repository"], trusted,
        "{remembered}"
    );

    // Nor has the next daemon it read by what else is remembered.
    remember_another(&node, &scene.layout);
    kill_daemon(&node);
    node.run(["--config", config.to_str().unwrap(), "images"])
        .unwrap();
    assert_eq!(message(&dirs[0]), TRUTH);
    node.run(["unmount", "--all"]).unwrap();
}

#[test]
fn what_a_mount_reads_by_stays_whatever_is_remembered_of_its_image() {
    let scene = Scene::new();
    let node = thaw();
    node.run(["accelerate", "--local", &scene.image]).unwrap();
    let dir = target(&node);
    node.run(["mount", "--pull", "lazy", &scene.image, &dir])
        .unwrap();
    remember_another(&node, &scene.layout);
    node.run(["gc"]).unwrap();
    assert_eq!(message(&dir), TRUTH);
    kill_daemon(&node);
    node.run(["gc"]).unwrap();
    fs::read(Path::new(&dir).join("srv/never-read")).unwrap();
    node.run(["unmount", "--all"]).unwrap();
}
