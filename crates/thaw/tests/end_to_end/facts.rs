//! What the program tells of images, containers and the store; `--json` has the same keys for ever.

use std::fs;

use serde_json::Value;
use thaw_testkit::image::Compression;
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

use crate::support::{Scene, image, json, keys, refused, run, stdout, target, thaw};

#[test]
fn collecting_everything_leaves_nothing() {
    let scene = Scene::accelerated();
    let node = thaw();
    node.run(["run", "--net", "none", "--pull", "lazy", &scene.image])
        .unwrap();
    let planned = json(&node.run(["gc", "--all", "--dry-run", "--json"]).unwrap());
    assert_eq!(planned["dry_run"], true);
    assert_eq!(
        json(&node.run(["images", "--json"]).unwrap())
            .as_array()
            .unwrap()
            .len(),
        1
    );
    node.run(["gc", "--all"]).unwrap();
    assert_eq!(
        json(&node.run(["ps", "--all", "--json"]).unwrap()),
        Value::Array(vec![])
    );
    for place in [
        "layers",
        "blobs",
        "containers",
        "mounts",
        "images/refs",
        "images/manifests",
    ] {
        let dir = node.root().join(place);
        let left: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != ".lock")
            .collect();
        assert!(left.is_empty(), "{place}: {left:?}");
    }
}

#[test]
fn an_image_that_is_named_goes_and_what_others_have_stays() {
    let scene = Scene::new();
    let directory = scratch::directory().unwrap();
    // It has the same layers.
    let other =
        image(Compression::Gzip(6)).config("Cmd", serde_json::json!(["cat", "/srv/message"]));
    let other = other.write(&directory.path().join("other"), "latest");
    let other = other.unwrap().push(&scene.registry, "other:1").unwrap();
    let node = thaw();
    let named = |what: &[&str]| {
        let said = node.run(what).unwrap();
        said.lines().map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let images = || named(&["images", "--quiet"]);
    let layers = || fs::read_dir(node.root().join("layers")).unwrap().count();
    node.run(["pull", &scene.image]).unwrap();
    let first = images();
    let alone = layers();
    node.run(["pull", &other]).unwrap();
    let both = images();
    assert_eq!((both.len(), layers()), (2, alone));

    let (code, said) = refused(&node, &["gc", &scene.image, "nobody/has:this"]);
    assert!(
        code == 125 && said.contains("nobody/has:this is not in the store"),
        "{said}"
    );
    let args = [
        "run",
        "-d",
        "--net",
        "none",
        "--name",
        "live",
        &scene.image,
        "sleep",
        "60",
    ];
    node.run(args).unwrap();
    let id = named(&["ps", "-q"]);
    assert!(id.len() == 1 && id[0].len() == 12, "{id:?}");
    let (_, said) = refused(&node, &["rmi", &scene.image]);
    assert!(said.contains("in use"), "{said}");
    node.run(["rm", "-f", &id[0]]).unwrap();
    let plan = node.run(["rmi", "--dry-run", &scene.image]).unwrap();
    assert!(
        plan.contains("it was named") && !plan.contains("layer"),
        "{plan}"
    );
    assert_eq!(images(), both);

    node.run(["rmi", &scene.image]).unwrap();
    assert_eq!((images().len(), layers()), (1, alone));
    assert_ne!(images(), first);
    assert!(
        run(&node, &["--pull", "lazy"], &other, &[])
            .status
            .success()
    );
    node.run(["rmi", &images()[0]]).unwrap();
    assert!(images().is_empty());
    let left = fs::read_dir(node.root().join("layers")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == ".lock"), "{left:?}");
}

#[test]
fn traces_go_with_their_image() {
    let scene = Scene::accelerated();
    let node = thaw();
    let start = |profile: &str| {
        let flags = ["--pull", "lazy", "--profile", profile];
        assert!(run(&node, &flags, &scene.image, &[]).status.success());
        node.run(["unmount", "--all"]).unwrap();
    };
    let traces = || fs::read_dir(node.root().join("traces")).unwrap().count();
    start("default");
    start("never-published");
    assert_eq!(traces(), 2);
    node.run(["gc"]).unwrap();
    assert_eq!(traces(), 2, "their image is there");
    let plan = node.run(["gc", "--all", "--dry-run"]).unwrap();
    for profile in ["default", "never-published"] {
        assert!(
            plan.contains(&format!("trace \"{profile}\" of sha256:")),
            "{plan}"
        );
    }
    assert_eq!(traces(), 2, "a plan removes nothing");
    node.run(["gc", "--all"]).unwrap();
    assert_eq!(traces(), 0);
}

#[test]
fn a_plan_says_what_will_be_done_and_does_nothing() {
    let scene = Scene::accelerated();
    let node = thaw();
    assert!(
        run(
            &node,
            &["--pull", "lazy", "-v", "mine:/data"],
            &scene.image,
            &[]
        )
        .status
        .success()
    );
    let dir = target(&node);
    node.run(["mount", &scene.image, &dir]).unwrap();
    let start = [
        "run",
        "-d",
        "--net",
        "none",
        "--name",
        "live",
        &scene.image,
        "--",
        "sleep",
        "1000",
    ];
    node.run(start).unwrap();
    let names = |plan: &Value, list: &str| {
        let list = plan[list].as_array().unwrap().iter();
        let mut names: Vec<String> = list
            .map(|one| {
                one["what"]
                    .as_str()
                    .unwrap()
                    .split(' ')
                    .next()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        names.dedup();
        names
    };
    let plan = |node: &thaw_testkit::thaw::Thaw| {
        json(&node.run(["gc", "--all", "--dry-run", "--json"]).unwrap())
    };
    let first = plan(&node);
    assert_eq!(names(&first, "removals"), ["mount"], "{first}");
    assert_eq!(
        names(&first, "kept"),
        ["container", "volume", "image"],
        "{first}"
    );
    node.run(["rm", "-f", "live"]).unwrap();

    // The image is still mounted, for the next start; nobody uses it.
    let second = plan(&node);
    let removed = names(&second, "removals");
    let wanted = ["mount", "image", "layer", "blob", "trace"];
    assert_eq!(removed, wanted, "{second}");
    assert!(
        fs::read(format!("{dir}/srv/message")).is_ok(),
        "a plan unmounts nothing"
    );
    let text = node.run(["gc", "--all", "--dry-run"]).unwrap();
    assert!(
        text.contains("would give back") && text.contains("not in use"),
        "{text}"
    );
    let done = json(&node.run(["gc", "--all", "--json"]).unwrap());
    assert_eq!(done["dry_run"], false);
    assert_eq!(
        json(&node.run(["images", "--json"]).unwrap()),
        Value::Array(vec![])
    );
    assert!(
        fs::read_dir(&dir).unwrap().next().is_none(),
        "the mount is gone"
    );
}

#[test]
fn mounts_are_listed_with_how_and_how_much() {
    let scene = Scene::accelerated();
    let node = thaw();
    let list = || json(&node.run(["mount", "--json"]).unwrap());
    assert_eq!(list(), serde_json::json!([]));
    let dir = target(&node);
    node.run(["mount", "--pull", "lazy", &scene.image, &dir])
        .unwrap();
    let facts = |of: &Value| {
        assert_eq!(
            (&of[0]["dir"], &of[0]["image"]),
            (&dir.as_str().into(), &scene.image.as_str().into())
        );
        let bytes = |key: &str| of[0][key].as_u64().unwrap();
        (bytes("present"), bytes("size"), of[0]["way"].clone())
    };
    let (present, size, way) = facts(&list());
    assert!(present < size && size > 12_000_000, "{present} of {size}");
    assert_eq!(way["how"], "lazy");
    assert!(
        way["why"].as_str().unwrap().contains("acceleration from "),
        "{way}"
    );
    let text = node.run(["mount"]).unwrap();
    assert!(text.starts_with("DIR ") && text.contains(&dir), "{text}");

    // The next daemon knows as much.
    node.run(["daemon", "--stop"]).unwrap();
    assert_eq!(facts(&list()).2, way);
    fs::read(format!("{dir}/srv/never-read")).unwrap();
    assert!(facts(&list()).0 > present + 11_000_000);
    node.run(["unmount", &dir]).unwrap();
    assert_eq!(list(), serde_json::json!([]));
    for half in [&["mount", &scene.image][..], &["mount", "--pull", "lazy"]] {
        assert_eq!(
            node.output(half).unwrap().status.code(),
            Some(125),
            "{half:?}"
        );
    }
}

#[test]
fn inspect_knows_an_acceleration_that_is_not_used() {
    let scene = Scene::accelerated();
    let name = scene.image.rsplit_once(':').unwrap().0;
    let pinned = format!("{name}@{}", scene.layout.digest());
    let facts = json(&thaw().run(["inspect", "--json", &pinned]).unwrap());
    assert_eq!(facts["way"]["how"], "full", "{facts}");
    let trust = facts["acceleration"]["trust"].as_str().unwrap();
    assert!(trust.starts_with("not used: a pinned digest"), "{trust}");
    let text = stdout(&thaw().output(["inspect", &scene.image]).unwrap());
    for line in [
        "manifest ",
        "platform ",
        "compressed ",
        "unpacked ",
        "acceleration ",
        "  size ",
        "would start    ",
        "tar+gzip",
    ] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    // Which is sooner is measured, and on a busy machine not always the same.
    let ways = [
        "lazy: acceleration from ",
        "full: fetching all of it takes ",
    ];
    let would = |way: &&str| text.contains(&format!("would start    {way}"));
    assert!(ways.iter().any(would), "{text}");
}

#[test]
fn inspect_names_the_transport_that_would_serve_an_image() {
    let scene = Scene::new();
    // Without a network between it is always quicker to start lazily.
    let image = format!("oci:{}:latest", scene.layout.directory().display());
    let transport_of = |node: &Thaw| {
        let facts = json(&node.run(["inspect", "--json", &image]).unwrap());
        facts["transport"].clone()
    };
    assert!(transport_of(&thaw()).is_null(), "without an acceleration");
    thaw().run(["accelerate", &image]).unwrap();
    let node = thaw();
    let transport = || transport_of(&node);
    assert_eq!(transport(), "fanotify");
    let text = stdout(&node.output(["inspect", &image]).unwrap());
    assert!(text.contains("\n  served by    fanotify\n"), "{text}");
    // A store has one at a time.
    let dir = target(&node);
    let options = ["mount", "--pull", "lazy", "--transport", "fuse"];
    node.run(options.into_iter().chain([&*image, &*dir]))
        .unwrap();
    assert_eq!(transport(), "fuse");
    node.run(["unmount", &dir]).unwrap();
    node.run(["pull", &image]).unwrap();
    assert!(transport().is_null(), "all of it is here");
}

#[test]
fn the_keys_of_every_answer() {
    let scene = Scene::new();
    let node = thaw();
    let image = scene.image.as_str();
    let ask = |args: &[&str]| {
        json(&stdout(
            &node.command(["--json"]).args(args).output().unwrap(),
        ))
    };
    let record = [
        "accelerate",
        "--record",
        "--ready",
        "exit",
        "--net",
        "none",
        image,
    ];
    let done = ask(&record);
    assert_eq!(
        keys(&done[0]),
        [
            "acceleration",
            "compressed",
            "full_layers",
            "guessed",
            "index",
            "manifest",
            "not_pushed",
            "repository",
            "signed_by",
            "took",
            "warnings"
        ]
    );
    assert_eq!(
        keys(&done[1]),
        [
            "blocks",
            "not_pushed",
            "packed",
            "profile",
            "ready_after",
            "repository",
            "signed_by",
            "working_set"
        ]
    );
    let inspected = ask(&["inspect", image]);
    assert_eq!(
        keys(&inspected),
        [
            "acceleration",
            "cached",
            "command",
            "compressed",
            "layers",
            "load",
            "manifest",
            "platform",
            "reference",
            "transport",
            "unpacked",
            "way",
            "working_sets"
        ]
    );
    assert_eq!(
        keys(&inspected["acceleration"]),
        ["manifest", "signed_by", "size", "source", "trust"]
    );
    assert_eq!(
        keys(&inspected["layers"][0]),
        [
            "blob",
            "cached",
            "compressed",
            "diff_id",
            "media_type",
            "seek_table",
            "unpacked"
        ]
    );
    assert_eq!(
        keys(&inspected["working_sets"][0]),
        ["blocks", "packed", "profile"]
    );
    assert_eq!(keys(&inspected["load"]), ["rate", "read", "source"]);
    assert_eq!(
        keys(&ask(&["pull", image])),
        [
            "already_here",
            "compressed",
            "manifest",
            "pushed",
            "took",
            "unpacked"
        ]
    );
    let dir = target(&node);
    assert_eq!(
        keys(&ask(&["mount", image, &dir])),
        ["dir", "manifest", "spans", "way"]
    );
    assert_eq!(
        keys(&ask(&["mount"])[0]),
        ["dir", "image", "manifest", "present", "size", "way"]
    );
    assert_eq!(ask(&["unmount", &dir]), serde_json::json!([dir]));
    let started = ask(&[
        "run", "-d", "--net", "none", "--name", "box", image, "--", "sleep", "1000",
    ]);
    assert_eq!(keys(&started), ["id", "manifest", "name", "ports", "way"]);
    assert_eq!(keys(&started["way"]), ["how", "why"]);
    assert_eq!(
        keys(&ask(&["ps"])[0]),
        [
            "created", "id", "image", "name", "ports", "running", "status", "way"
        ]
    );
    assert_eq!(
        keys(&ask(&["images"])[0]),
        [
            "cached",
            "compressed",
            "in_use",
            "index",
            "manifest",
            "reference",
            "used",
            "whole"
        ]
    );
    let outcome = serde_json::json!([{ "container": "box", "error": null }]);
    assert_eq!(ask(&["stop", "-t", "0", "box"]), outcome);
    assert_eq!(ask(&["rm", "box"]), outcome);
    let output = node.command(["--json", "rm", "box"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let failed = json(&String::from_utf8_lossy(&output.stdout));
    assert!(
        failed[0]["error"]
            .as_str()
            .unwrap()
            .contains("no container \"box\"")
    );
    let collected = ask(&["gc", "--all"]);
    assert_eq!(keys(&collected), ["dry_run", "kept", "removals"]);
    assert_eq!(keys(&collected["removals"][0]), ["bytes", "what", "why"]);
    let doctor = ask(&["doctor"]);
    assert_eq!(
        keys(&doctor),
        [
            "advice",
            "better",
            "checks",
            "kernel",
            "reason",
            "start",
            "store",
            "transport"
        ]
    );
    assert_eq!(doctor["transport"], "fanotify");
    let checks = doctor["checks"].as_array().unwrap();
    let is_ok = |name: &str| {
        let mut checks = checks.iter();
        checks.any(|check| check["name"] == name && check["ok"] == true)
    };
    assert!(is_ok("direct reads"));
    assert_eq!(is_ok("idle processors"), thaw_sys::wake::Awake::is_of_use());
    assert_eq!(
        keys(&doctor["checks"][0]),
        ["advice", "evidence", "name", "needed_for", "ok"]
    );
}
