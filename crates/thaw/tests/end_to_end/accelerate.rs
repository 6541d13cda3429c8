//! `accelerate`: where the acceleration goes, what a recorded start gives, and profiles.

use std::fs;
use std::process::Command;

use serde_json::Value;
use thaw_image::media;
use thaw_testkit::process;
use thaw_testkit::registry::{Options, Registry};
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

use crate::signing::Signed;
use crate::support::{Scene, busybox, json, kill_daemon, refused, run, stdout, target, thaw};

#[test]
fn a_recorded_start_waits_for_nothing_and_moves_little() {
    let scene = Scene::new();
    let said = thaw()
        .run([
            "accelerate",
            "--json",
            "--record",
            "--ready",
            "exit",
            "--net",
            "none",
            &scene.image,
        ])
        .unwrap();
    let recorded = &json(&said)[1];
    let blocks = recorded["blocks"].as_u64().unwrap();
    assert!((100_000..6_000_000).contains(&blocks), "{said}");
    let said = thaw().run(["accelerate", "--json", &scene.image]).unwrap();
    assert_eq!(
        json(&said)[0]["guessed"],
        Value::Null,
        "a recorded set stays"
    );
    let node = thaw();
    let output = node
        .output([
            "run",
            "--net",
            "none",
            "--pull",
            "lazy",
            "--timing",
            "--json",
            "--name",
            "r",
            &scene.image,
            "--",
            "sh",
            "-c",
            "cat /srv/message; sleep 2",
        ])
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let ps = json(&node.run(["ps", "--all", "--json"]).unwrap());
    let why = ps[0]["way"]["why"].as_str().unwrap();
    assert!(why.contains("with a working set"), "{why}");
    let images = json(&node.run(["images", "--json"]).unwrap());
    assert!(
        images[0]["cached"].as_u64().unwrap() < 8_000_000,
        "{images}"
    );
    let without = thaw();
    let why = without
        .run([
            "mount",
            "--json",
            "--pull",
            "lazy",
            "--profile",
            "none",
            &scene.image,
            &target(&without),
        ])
        .unwrap();
    assert!(
        !json(&why)["way"]["why"]
            .as_str()
            .unwrap()
            .contains("working set"),
        "{why}"
    );
}

#[test]
fn one_that_promises_more_than_any_image_has_is_not_used_and_costs_nothing() {
    let signed = Signed::of(Scene::accelerated());
    signed.forge(|content| {
        let layers = content.layers.iter_mut();
        for table in layers.filter(|layer| layer.media_type == media::SEEK_TABLE) {
            let size = (200u64 << 30).to_string();
            let key = media::ANNOTATION_TAR_SIZE.to_owned();
            table.annotations.insert(key, size);
        }
    });
    let (node, image) = (thaw(), &signed.scene.image);
    let dir = target(&node);
    let lazily = ["mount", "--pull", "lazy", image, &dir];
    let (_, said) = refused(&node, &lazily);
    assert!(said.contains("over the limit"), "{said}");
    let layers = || fs::read_dir(node.root().join("layers")).unwrap();
    assert_eq!(layers().count(), 0);
    let said = json(&node.run(["mount", "--json", image, &dir]).unwrap());
    assert_eq!(said["way"]["how"], "full", "{said}");
    let why = said["way"]["why"].as_str().unwrap();
    assert!(why.contains("over the limit"), "{why}");
    let message = fs::read_to_string(format!("{dir}/srv/message")).unwrap();
    assert_eq!(message, "read from the second layer\n");
    for layer in layers() {
        let presence = layer.unwrap().path().join("presence");
        let bytes = fs::metadata(presence).unwrap().len();
        assert!(bytes < 1 << 20, "{bytes} bytes");
    }
}

#[test]
fn where_nobody_may_push_it_stays_here_and_says_so() {
    let open = Registry::start().unwrap();
    let directory = scratch::directory().unwrap();
    let layout = busybox(&directory.path().join("layout"));
    layout.push(&open, "busybox:1").unwrap();
    let storage = directory.path().join("storage");
    std::fs::rename(open.storage(), &storage).unwrap();
    let registry = Registry::start_with(&Options {
        storage: Some(storage),
        read_only: true,
        ..Options::default()
    });
    let registry = registry.unwrap();
    let image = format!("{}/busybox:1", registry.host());
    let node = thaw();
    let args = [
        "accelerate",
        "--record",
        "--ready",
        "exit",
        "--net",
        "none",
        &image,
    ];
    let said = node.run(args).unwrap();
    let kept = format!(
        "kept in this store only: {}/busybox answered 405",
        registry.host()
    );
    assert_eq!(
        said.matches(&kept).count(),
        2,
        "index and working set: {said}"
    );
    let said = thaw().run(["pull", "--push", &image]).unwrap();
    assert!(said.contains(&kept), "{said}");
    let facts = json(&node.run(["inspect", "--json", &image]).unwrap());
    assert_eq!(facts["acceleration"]["source"], "this store");
    assert_eq!(facts["working_sets"][0]["profile"], "default");
    // A repository that was named has to take it.
    let to = format!("{}/elsewhere", registry.host());
    let (_, said) = refused(&thaw(), &["accelerate", "--to", &to, &image]);
    assert!(said.contains("405"), "{said}");
}

#[test]
fn another_repository_serves_those_who_trust_it() {
    let scene = Scene::new();
    let elsewhere = Registry::start().unwrap();
    let to = format!("{}/team/accelerations", elsewhere.host());
    let said = thaw()
        .run(["accelerate", "--to", &to, &scene.image])
        .unwrap();
    assert!(said.contains(&format!("pushed to {to}")), "{said}");

    let stranger = thaw();
    let facts = json(&stranger.run(["inspect", "--json", &scene.image]).unwrap());
    assert_eq!(facts["way"]["how"], "full", "{facts}");
    let directory = scratch::directory().unwrap();
    let config = directory.path().join("config.toml");
    std::fs::write(&config, format!("trusted-repositories = [\"{to}\"]\n")).unwrap();
    let config = config.to_str().unwrap();
    let pinned = format!("{}@{}", scene.image, scene.layout.digest());
    let node = thaw();
    let output = node.run([
        "--config", config, "run", "--rm", "--net", "none", "--pull", "lazy", &pinned,
    ]);
    assert_eq!(output.unwrap(), "read from the second layer\n");
}

#[test]
fn a_local_acceleration_is_nobody_else_s() {
    let scene = Scene::new();
    let node = thaw();
    let done = json(
        &node
            .run(["accelerate", "--json", "--local", &scene.image])
            .unwrap(),
    );
    assert_eq!(done[0]["repository"], serde_json::Value::Null);
    let (_, said) = refused(&thaw(), &["run", "--pull", "lazy", &scene.image]);
    assert!(said.contains("no acceleration in"), "{said}");
    assert!(
        run(&node, &["--pull", "lazy"], &scene.image, &[])
            .status
            .success()
    );
}

#[test]
fn profiles_are_recorded_gathered_and_chosen() {
    let scene = Scene::new();
    let image = scene.image.as_str();
    let recorder = thaw();
    let record = [
        "accelerate",
        "--record",
        "--ready",
        "exit",
        "--net",
        "none",
        "--profile",
        "probe",
    ];
    recorder
        .run(record.into_iter().chain([image, "--", "cat", "/etc/group"]))
        .unwrap();
    let (_, said) = refused(
        &recorder,
        &["accelerate", "--record", "--profile", "none", image],
    );
    assert!(said.contains("`none`"), "{said}");

    let node = thaw();
    let inspect = || json(&node.run(["inspect", "--json", image]).unwrap());
    let facts = inspect();
    let profiles = facts["working_sets"].as_array().unwrap().iter();
    let mut profiles = profiles.map(|set| set["profile"].as_str().unwrap());
    assert!(profiles.any(|profile| profile == "probe"), "{facts}");
    assert_ne!(facts["load"]["source"], "starts on this node", "{facts}");
    let (_, said) = refused(&node, &["accelerate", "--from-traces", image]);
    assert!(said.contains("run it lazily first"), "{said}");
    let why = |node: &thaw_testkit::thaw::Thaw, profile: &str| {
        let dir = target(node);
        let args = [
            "mount",
            "--json",
            "--pull",
            "lazy",
            "--profile",
            profile,
            image,
            &dir,
        ];
        let why = json(&node.run(args).unwrap())["way"]["why"].to_string();
        node.run(["unmount", &dir]).unwrap();
        why
    };
    assert!(why(&thaw(), "probe").contains("with a working set"));
    assert!(!why(&thaw(), "unheard-of").contains("working set"));
    assert!(!why(&thaw(), "none").contains("working set"));

    // What a start reads is kept, and becomes the working set of its profile.
    assert!(run(&node, &["--pull", "lazy"], image, &[]).status.success());
    let load = inspect()["load"].clone();
    assert_eq!(load["source"], "starts on this node", "{load}");
    let read = load["read"].as_u64().unwrap();
    let unpacked = inspect()["unpacked"].as_u64().unwrap();
    assert!(
        (100_000..unpacked / 2).contains(&read),
        "{load} of {unpacked}"
    );
    let gathered = node
        .run(["accelerate", "--json", "--from-traces", image])
        .unwrap();
    let gathered = json(&gathered);
    assert_eq!(gathered["profile"], "default");
    assert_eq!(gathered["repository"], image.rsplit_once(':').unwrap().0);
    let other = thaw();
    assert!(why(&other, "default").contains("with a working set"));
    let facts = json(&thaw().run(["inspect", "--json", image]).unwrap());
    assert_eq!(
        facts["load"]["source"], "the working set \"default\"",
        "{facts}"
    );
    assert!(stdout(&thaw().output(["inspect", image]).unwrap()).contains("load rate"));
}

#[test]
fn a_start_that_reads_less_takes_nothing_from_the_working_set() {
    let scene = Scene::new();
    let much = "cat /etc/group; busybox dd if=/srv/never-read of=/dev/null bs=65536 count=8";
    let record = ["accelerate", "--json", "--record", "--ready", "exit"];
    let what = ["--net", "none", &scene.image, "--", "sh", "-c", much];
    let recorded = json(&thaw().run(record.into_iter().chain(what)).unwrap())[1].clone();
    let blocks = |set: &serde_json::Value| set["blocks"].as_u64().unwrap();
    assert!(blocks(&recorded) > 512 << 10, "{recorded}");

    let node = thaw();
    let dir = target(&node);
    node.run(["mount", "--pull", "lazy", &scene.image, &dir])
        .unwrap();
    fs::read(format!("{dir}/etc/passwd")).unwrap();
    let gathered = ["accelerate", "--json", "--from-traces", &scene.image];
    let gathered = json(&node.run(gathered).unwrap());
    assert!(blocks(&gathered) >= blocks(&recorded), "{gathered}");
}

#[test]
fn what_starts_read_that_share_a_mount_counts_for_the_profile_of_each() {
    let scene = Scene::accelerated();
    let node = thaw();
    let dir = target(&node);
    let mount = ["mount", "--pull", "lazy", "--profile", "first"];
    node.run(mount.into_iter().chain([&*scene.image, &dir]))
        .unwrap();
    let much = "busybox dd if=/srv/never-read of=/dev/null bs=65536 count=8";
    let second = ["--pull", "lazy", "--profile", "second"];
    let output = run(&node, &second, &scene.image, &["sh", "-c", much]);
    assert!(output.status.success(), "{output:?}");
    for profile in ["first", "second"] {
        let gathered = [
            "accelerate",
            "--json",
            "--from-traces",
            "--profile",
            profile,
        ];
        let gathered = node.run(gathered.into_iter().chain([&*scene.image]));
        let gathered = json(&gathered.unwrap());
        assert!(
            gathered["blocks"].as_u64().unwrap() > 512 << 10,
            "{gathered}"
        );
    }
}

#[test]
fn an_image_starts_lazily_by_each_transport() {
    let scene = Scene::accelerated();
    for transport in ["fanotify", "fuse", "auto"] {
        let node = thaw();
        let flags = ["--transport", transport, "--pull", "lazy"];
        let output = run(&node, &flags, &scene.image, &[]);
        assert_eq!(stdout(&output), "read from the second layer\n");
        let images = json(&node.run(["images", "--json"]).unwrap());
        assert_eq!(images[0]["whole"], false, "{transport}: {images}");
    }
}

#[test]
fn a_store_has_one_transport_at_a_time() {
    let scene = Scene::accelerated();
    let node = thaw();
    let dir = target(&node);
    let mount = |transport: &str| {
        let options = [
            "mount",
            "--json",
            "--pull",
            "lazy",
            "--transport",
            transport,
        ];
        node.output(options.into_iter().chain([&*scene.image, &*dir]))
            .unwrap()
    };
    let said = json(&stdout(&mount("fuse")));
    let why = said["way"]["why"].as_str().unwrap();
    assert!(why.ends_with("; served by FUSE"), "{why}");
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let devices = node.root().join("devices");
    let served = format!("{} fuse.thaw ro", devices.display());
    assert!(mounts.contains(&served), "{mounts}");
    // Whoever does not care shares it, whoever does is refused, and the next daemon goes on with it.
    kill_daemon(&node);
    let flags = ["--transport", "auto", "--pull", "lazy"];
    let output = run(&node, &flags, &scene.image, &[]);
    assert_eq!(stdout(&output), "read from the second layer\n");
    let flags = ["run", "--transport", "fanotify", "--pull", "lazy"];
    let (code, said) = refused(&node, &[&flags[..], &[&scene.image]].concat());
    assert_eq!(code, 125);
    assert!(
        said.contains("mounts of this store are served by fuse"),
        "{said}"
    );
    node.run(["unmount", &dir]).unwrap();
    let said = json(&stdout(&mount("fanotify")));
    let why = said["way"]["why"].as_str().unwrap();
    assert!(!why.contains("FUSE"), "{why}");
    node.run(["unmount", &dir]).unwrap();
}

/// A filesystem for a store, unmounted by Drop.
struct Filesystem(std::path::PathBuf);

impl Filesystem {
    /// `mount -t KIND -o OPTIONS KIND TARGET`.
    fn new(target: &std::path::Path, kind: &str, options: &str) -> Self {
        std::fs::create_dir_all(target).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", kind, "-o", options, kind]).arg(target);
        process::run(&mut mount).unwrap();
        Self(target.to_owned())
    }
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        let _ = process::run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

#[test]
fn a_store_that_cannot_be_watched_is_served_by_fuse() {
    let scene = Scene::accelerated();
    let directory = scratch::directory().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["lower", "upper", "work"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    let dirs = ["lower", "upper", "work"].map(|name| format!("{name}dir={}", at(name).display()));
    for (kind, options) in [("tmpfs", "size=1g"), ("overlay", &dirs.join(","))] {
        let filesystem = Filesystem::new(&at(kind), kind, options);
        let node = Thaw::at(env!("CARGO_BIN_EXE_thaw"), filesystem.0.join("store"));
        let doctor = node.output(["doctor", "--json"]).unwrap();
        let doctor = json(&stdout(&doctor));
        assert_eq!(
            (&doctor["start"], &doctor["transport"]),
            (&"lazy".into(), &"fuse".into())
        );
        assert_ne!(doctor["better"], Value::Array(Vec::new()), "{doctor}");
        // What a container writes cannot lie on an overlay either.
        let flags = ["--pull", "lazy", "--storage-size", "16M"];
        let output = run(&node, &flags, &scene.image, &[]);
        assert_eq!(stdout(&output), "read from the second layer\n");
        let images = json(&node.run(["images", "--json"]).unwrap());
        assert_eq!(images[0]["whole"], false, "{kind}: {images}");
        node.end().unwrap();
    }
}

#[test]
fn a_start_is_recorded_by_fuse() {
    let scene = Scene::new();
    let directory = scratch::directory().unwrap();
    let filesystem = Filesystem::new(&directory.path().join("memory"), "tmpfs", "size=1g");
    let node = Thaw::at(env!("CARGO_BIN_EXE_thaw"), filesystem.0.join("store"));
    let options = ["--json", "--record", "--ready", "exit", "--net", "none"];
    let args = ["accelerate"].into_iter().chain(options);
    let said = node.run(args.chain([&*scene.image])).unwrap();
    let blocks = json(&said)[1]["blocks"].as_u64().unwrap();
    // The layers are whole here, and every read of them is seen all the same.
    assert!((100_000..6_000_000).contains(&blocks), "{said}");
    node.end().unwrap();
}

/// `skopeo ARGS…`, against registries in plain HTTP.
fn skopeo(args: &[&str]) -> String {
    let mut command = Command::new("skopeo");
    let output = process::run(command.arg("--insecure-policy").args(args)).unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_acceleration_is_copied_and_deleted_by_an_ordinary_tool() {
    let scene = Scene::accelerated();
    let name = |image: &str, tag: &str| {
        let repository = image.rsplit_once(':').unwrap().0;
        format!("docker://{repository}:{tag}")
    };
    // Where there is no referrers API, all that speaks for an image hangs on this tag.
    let referrers = scene.layout.digest().to_string().replace(':', "-");
    let other = Registry::start().unwrap();
    let copied = format!("{}/elsewhere:1", other.host());
    for (tag, to) in [("1", "1"), (&*referrers, &*referrers)] {
        let (from, to) = (name(&scene.image, tag), name(&copied, to));
        let plain = ["--src-tls-verify=false", "--dest-tls-verify=false"];
        skopeo(&[&["copy", "--all"], &plain[..], &[&from, &to]].concat());
    }
    let run = ["run", "--rm", "--net", "none", "--pull", "lazy", &copied];
    assert_eq!(thaw().run(run).unwrap(), "read from the second layer\n");

    let list = name(&scene.image, &referrers);
    let raw = skopeo(&["inspect", "--tls-verify=false", "--raw", &list]);
    let entries = json(&raw)["manifests"].as_array().unwrap().clone();
    let acceleration = entries
        .iter()
        .find(|entry| entry["artifactType"] == "application/vnd.thaw.acceleration.v1");
    let digest = acceleration.unwrap()["digest"].as_str().unwrap();
    let list = name(&copied, &referrers);
    let repository = list.rsplit_once(':').unwrap().0;
    skopeo(&[
        "delete",
        "--tls-verify=false",
        &format!("{repository}@{digest}"),
    ]);
    let node = thaw();
    assert_eq!(
        node.run(["run", "--rm", "--net", "none", &copied]).unwrap(),
        "read from the second layer\n"
    );
    let (code, said) = refused(&thaw(), &run);
    assert_eq!(code, 125, "{said}");
}
