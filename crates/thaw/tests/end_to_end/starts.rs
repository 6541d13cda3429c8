//! Starts: what they wait for, and which way they take.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;
use thaw_image::media;
use thaw_testkit::expiring::Expiring;
use thaw_testkit::far::{Far, Trip, longest_chain, most_at_once};
use thaw_testkit::image::{Compression, Entry, Image, Layer, write_index};
use thaw_testkit::registry::Registry;
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

use crate::metrics::metrics;
use crate::support::{BUSYBOX, Scene, image, json, target, thaw};

/// What `--timing --json` says of a start.
fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|line| line.starts_with('{'));
    json(line.unwrap_or_else(|| panic!("no timing: {text}")))["report"].clone()
}

/// A cold start, as `--timing` reports it.
fn cold_start(node: &Thaw, name: &str, image: &str) -> Value {
    let options = [
        "run", "--net", "none", "--pull", "lazy", "--timing", "--json",
    ];
    let named = ["--name", name, image];
    report(&node.output(options.into_iter().chain(named)).unwrap())
}

/// The digest of the layout, the last thing that a start waits for.
fn layout_of(scene: &Scene, node: &Thaw, image: &str) -> String {
    let inspected = json(&node.run(["inspect", "--json", image]).unwrap());
    let acceleration = inspected["acceleration"]["manifest"].as_str().unwrap();
    let manifest = scene.registry.blob(&acceleration.parse().unwrap());
    let manifest = json(&fs::read_to_string(manifest).unwrap());
    manifest["layers"][0]["digest"].as_str().unwrap().to_owned()
}

/// What was asked of a registry. Connections that are opened ahead ask for nothing: nobody waits
/// for their answers.
fn asked_of(far: &Far) -> Vec<Trip> {
    let mut trips = far.trips();
    trips.retain(|trip| trip.path != "/v2/");
    trips
}

#[test]
fn a_cold_start_makes_few_round_trips() {
    let scene = Scene::accelerated();
    let far = Far::new(scene.registry.host(), Duration::from_millis(60)).unwrap();
    let image = scene.image.replace(scene.registry.host(), &far.host());
    let node = thaw();
    let run = |name: &str| cold_start(&node, name, &image);
    let cold = run("cold");
    let why = cold["way"]["why"].as_str().unwrap();
    assert!(why.contains("with a working set"), "{why}");

    let layout = &*layout_of(&scene, &node, &image);
    let trips = asked_of(&far);
    let last = trips.iter().find(|trip| trip.path.ends_with(layout));
    // Manifest; configuration and lists, in which the artifacts' manifests are; layout.
    assert_eq!(longest_chain(&trips, last.unwrap()), 3, "{trips:#?}");
    assert_eq!(cold["round_trips"], 3, "{trips:#?}");

    let asked = trips.len();
    assert_eq!(run("shared")["round_trips"], 0);
    node.run(["unmount", "--all"]).unwrap();
    assert_eq!(run("again")["round_trips"], 0);
    let manifests = |trips: &[Trip]| {
        let of = |trip: &&Trip| trip.path.contains("/manifests/") || trip.path.ends_with(layout);
        trips.iter().filter(of).count()
    };
    let all = far.trips();
    assert_eq!(manifests(&all), manifests(&trips[..asked]), "{all:#?}");
}

/// What is between a start and a registry as it is: a token is asked for, blobs are elsewhere, and
/// the image may be one of an index's.
#[test]
fn with_tokens_redirects_and_an_index_it_is_six() {
    let scene = Scene::accelerated();
    let directory = scratch::directory().unwrap();
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let images = [(architecture, image(Compression::Gzip(6)))];
    let layout = write_index(&directory.path().join("index"), "latest", &images).unwrap();
    let listed = layout.push(&scene.registry, "listed:1").unwrap();
    thaw().run(["accelerate", &listed]).unwrap();
    for image in [&scene.image, &listed] {
        // So far away that what a busy machine puts between two requests is no trip.
        let delay = Duration::from_millis(300);
        let expiring = Expiring::far(scene.registry.host(), delay).unwrap();
        let far = Far::new(&expiring.host(), delay).unwrap();
        let image = image.replace(scene.registry.host(), &far.host());
        let node = thaw();
        let cold = cold_start(&node, "cold", &image);
        let why = cold["way"]["why"].as_str().unwrap();
        assert!(why.contains("with a working set"), "{why}");

        let layout = &*layout_of(&scene, &node, &image);
        let trips = asked_of(&far);
        let last = trips.iter().find(|trip| trip.path.ends_with(layout));
        // The refusal; manifest or index; lists; where the layout is. The token and the layout are
        // got from elsewhere, which is one more each.
        assert_eq!(longest_chain(&trips, last.unwrap()), 4, "{trips:#?}");
        assert_eq!(cold["round_trips"], 6, "{trips:#?}");
    }
}

/// Both registries ask for a token: that of the second comes while the manifest does.
#[test]
fn with_the_acceleration_in_another_registry_it_is_six_too() {
    let scene = Scene::new();
    let second = Registry::start().unwrap();
    let to = format!("{}/accelerations", second.host());
    thaw()
        .run(["accelerate", "--to", &to, &scene.image])
        .unwrap();
    let delay = Duration::from_millis(300);
    let both = [&scene.registry, &second];
    let both = both.map(|registry| Expiring::far(registry.host(), delay).unwrap());
    let both = both
        .each_ref()
        .map(|it| Far::new(&it.host(), delay).unwrap());
    let image = scene.image.replace(scene.registry.host(), &both[0].host());
    let trusted = to.replace(second.host(), &both[1].host());
    let config = scratch::directory().unwrap();
    let file = config.path().join("config.toml");
    fs::write(&file, format!("trusted-repositories = [\"{trusted}\"]")).unwrap();
    let node = thaw();
    node.run(["--config", file.to_str().unwrap(), "images"])
        .unwrap();
    let cold = cold_start(&node, "cold", &image);
    let why = cold["way"]["why"].as_str().unwrap();
    assert!(
        why.contains(&trusted) && why.contains("with a working set"),
        "{why}"
    );

    let inspected = json(&node.run(["inspect", "--json", &image]).unwrap());
    let acceleration = inspected["acceleration"]["manifest"].as_str().unwrap();
    let manifest = second.blob(&acceleration.parse().unwrap());
    let manifest = json(&fs::read_to_string(manifest).unwrap());
    let layout = manifest["layers"][0]["digest"].as_str().unwrap();
    let mut trips = asked_of(&both[0]);
    trips.extend(asked_of(&both[1]));
    let last = trips.iter().find(|trip| trip.path.ends_with(layout));
    assert_eq!(longest_chain(&trips, last.unwrap()), 4, "{trips:#?}");
    assert_eq!(cold["round_trips"], 6, "{trips:#?}");
}

/// Milliseconds of a waterfall in which some step went on, and all that it tells of.
fn covered(said: &str) -> (f64, f64) {
    let number = |word: &str| -> f64 { word.parse().unwrap_or_else(|_| panic!("{said}")) };
    let rows = said.lines().filter(|line| line.contains('█'));
    let mut steps: Vec<(f64, f64)> = rows
        .map(|row| {
            let (before, after) = (row.find('█').unwrap(), row.rfind('█').unwrap());
            let begin = number(row[..before].split_whitespace().last().unwrap());
            let took = row[after..].split_whitespace().nth(1).unwrap();
            (begin, begin + number(took))
        })
        .collect();
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut covered, mut until) = (0.0, 0.0_f64);
    for (begin, end) in steps {
        covered += (end - begin.max(until)).max(0.0);
        until = until.max(end);
    }
    let total = said.lines().find_map(|line| line.strip_prefix("total "));
    (covered, number(total.unwrap().split(' ').next().unwrap()))
}

#[test]
fn a_timing_is_a_waterfall_and_the_log_has_it() {
    let scene = Scene::accelerated();
    // So far away that what a busy machine puts between two requests is no trip.
    let far = Far::new(scene.registry.host(), Duration::from_millis(300)).unwrap();
    let image = scene.image.replace(scene.registry.host(), &far.host());
    let node = thaw();
    // To begin a daemon is no part of a start.
    node.run(["images"]).unwrap();
    let options = ["run", "--net", "none", "--pull", "lazy", "--timing"];
    let output = node.output(options.into_iter().chain([&*image]));
    let output = output.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    // Each step has a line with where it began and how long it took, and a bar there.
    let row = |name: &str| -> (f64, f64, usize) {
        let line = said.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name}: {said}"));
        let words: Vec<&str> = line[name.len()..].split_whitespace().collect();
        let [begin, bar, took, unit] = words[..] else {
            panic!("{line}");
        };
        assert!(bar.chars().all(|c| c == '█') && unit == "ms", "{line}");
        let at = line.chars().position(|c| c == '█').unwrap();
        (begin.parse().unwrap(), took.parse().unwrap(), at)
    };
    let steps = ["layout", "mount", "overlay", "runtime"].map(row);
    for pair in steps.windows(2) {
        let [(begin, took, bar), (next, _, next_bar)] = pair else {
            unreachable!()
        };
        assert!(begin + took <= next + 0.2 && bar <= next_bar, "{said}");
    }
    for step in [
        "resolve manifest",
        "find acceleration",
        "fetch configuration",
    ] {
        row(step);
    }
    let (covered, total) = covered(&said);
    assert!(covered > 0.9 * total, "{covered} of {total}: {said}");
    assert!(covered <= total + 0.2, "{covered} of {total}: {said}");

    let log = fs::read_to_string(node.root().join("daemon.log")).unwrap();
    let span = format!("start{{image=\"{image}\"}}");
    let line = log.lines().find(|line| line.contains(&span)).unwrap();
    for word in [
        "prepared",
        "way=lazy",
        "round_trips=3",
        "took=",
        "resolve manifest ",
        "find acceleration ",
        "fetch configuration ",
        "layout ",
        "mount ",
        "overlay ",
    ] {
        assert!(line.contains(word), "{word}: {line}");
    }
}

#[test]
fn layers_are_fetched_side_by_side() {
    let noise = |seed: u32| -> Vec<u8> {
        let word = |i: u32| (i ^ seed).wrapping_mul(0x9e37_79b9).to_be_bytes();
        (0..100_000).flat_map(word).collect()
    };
    let registry = Registry::start().unwrap();
    let directory = scratch::directory().unwrap();
    let layer = |seed: u32| {
        let name = format!("file{seed}");
        Layer::new([Entry::directory("./"), Entry::file(name, noise(seed))])
    };
    let layout = Image::new((1..5).map(layer)).write(directory.path(), "latest");
    let image = layout.unwrap().push(&registry, "layers:1").unwrap();
    for transport in ["auto", "directories"] {
        let far = Far::new(registry.host(), Duration::from_millis(200)).unwrap();
        let image = image.replace(registry.host(), &far.host());
        thaw()
            .run(["pull", "--transport", transport, &image])
            .unwrap();
        let trips = far.trips();
        let blobs: Vec<&Trip> = trips
            .iter()
            .filter(|it| it.path.contains("/blobs/"))
            .collect();
        let beside = |one: &Trip| {
            let others = blobs.iter().filter(|it| it.path != one.path);
            others.filter(|it| it.overlaps(one)).count()
        };
        let most = blobs.iter().map(|it| beside(it)).max().unwrap();
        assert!(most >= 1, "{transport}: one after the other: {trips:#?}");
    }
}

#[test]
fn a_guessed_working_set_brings_the_program() {
    let scene = Scene::new();
    let said = thaw().run(["accelerate", "--json", &scene.image]).unwrap();
    let guessed = &json(&said)[0]["guessed"];
    assert_eq!(guessed["profile"], "default", "{said}");
    let program = fs::metadata(BUSYBOX).unwrap().len();
    let blocks = guessed["blocks"].as_u64().unwrap();
    assert!((program / 2..program + 100_000).contains(&blocks), "{said}");

    let node = thaw();
    let mount = |dir: &str, profile: &str| {
        fs::create_dir_all(dir).unwrap();
        let options = ["mount", "--json", "--pull", "lazy", "--profile", profile];
        let said = node
            .run(options.into_iter().chain([&*scene.image, dir]))
            .unwrap();
        json(&said)["way"]["why"].as_str().unwrap().to_owned()
    };
    let cached = || {
        let images = json(&node.run(["images", "--json"]).unwrap());
        images[0]["cached"].as_u64().unwrap()
    };
    let (one, other) = (target(&node), format!("{}-2", target(&node)));
    assert!(!mount(&one, "none").contains("working set"));
    assert!(cached() < program / 2);
    // Whoever shares the mount and wants a working set gets it.
    mount(&other, "default");
    let began = Instant::now();
    while cached() < blocks && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(scene);
    // The linker's own sections, at the end of the file, are nothing that a start reads.
    let mut loaded = vec![0; usize::try_from(program / 2).unwrap()];
    let busybox = fs::File::open(format!("{one}/bin/busybox")).unwrap();
    busybox.read_exact_at(&mut loaded, 0).unwrap();
    assert!(loaded == fs::read(BUSYBOX).unwrap()[..loaded.len()]);
    drop(busybox);
    for dir in [&one, &other] {
        node.run(["unmount", dir]).unwrap();
    }
}

/// Waits until it is so.
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_container_starts_when_the_layout_is_there_and_not_the_working_set() {
    let program = fs::read(BUSYBOX).unwrap();
    let layer = |name: &str| {
        let program = Entry::file(name, &program).mode(0o755);
        let directories = ["./", "bin", "etc"].map(Entry::directory);
        Layer::new(directories.into_iter().chain([program]))
    };
    // The working set has the image's own program alone, so that another one needs nothing of it.
    let image = Image::new([layer("bin/busybox"), layer("bin/server")])
        .config("Env", serde_json::json!(["PATH=/bin"]))
        .config("Cmd", serde_json::json!(["/bin/server"]));
    let registry = Registry::start().unwrap();
    let directory = scratch::directory().unwrap();
    let layout = image.write(&directory.path().join("layout"), "latest");
    let image = layout.unwrap().push(&registry, "programs:1").unwrap();
    let said = thaw().run(["accelerate", "--json", &image]).unwrap();
    let set = json(&said)[0]["guessed"]["working_set"].clone();
    let set = registry.blob(&set.as_str().unwrap().parse().unwrap());
    let set = json(&fs::read_to_string(set).unwrap());
    let is_data = |part: &&Value| part["mediaType"] == media::WORKING_SET_DATA;
    let data = set["layers"].as_array().unwrap().iter().find(is_data);
    let data = data.unwrap()["digest"].as_str().unwrap();

    let far = Far::new(registry.host(), Duration::ZERO).unwrap();
    let image = image.replace(registry.host(), &far.host());
    let withheld = far.withhold(data);
    let node = thaw();
    let options = [
        "run", "--net", "none", "--pull", "lazy", "--timing", "--json",
    ];
    let command = [&*image, "--", "busybox", "true"];
    let ran = node.output(options.into_iter().chain(command)).unwrap();
    let report = report(&ran);
    let why = report["way"]["why"].as_str().unwrap();
    assert!(why.contains("with a working set"), "{why}");

    // The start has asked for it, and would have given it up had it waited for it: then nothing
    // would come any more.
    let brought = || metrics(&node)["thaw_filled_bytes_total{cause=\"working_set\"}"];
    eventually("a request for the working set", || withheld.asked() > 0);
    assert_eq!(brought(), 0.0, "it was withheld");
    drop(withheld);
    eventually("the working set", || brought() > 0.0);
}

#[test]
fn an_image_that_is_fetched_sooner_than_mounted_is_fetched() {
    let registry = Registry::start().unwrap();
    let directory = scratch::directory().unwrap();
    let layer = Layer::new([Entry::directory("./"), Entry::file("file", "small")]);
    let layout = Image::new([layer])
        .write(&directory.path().join("layout"), "latest")
        .unwrap();
    let image = layout.push(&registry, "small:1").unwrap();
    thaw().run(["accelerate", &image]).unwrap();
    let node = thaw();
    for command in ["inspect", "mount"] {
        let mut args = vec![command, "--json", &image];
        let dir = target(&node);
        args.extend((command == "mount").then_some(&*dir));
        let way = &json(&node.run(args).unwrap())["way"];
        assert_eq!(way["how"], "full", "{way}");
        assert!(
            way["why"].as_str().unwrap().contains("takes about"),
            "{way}"
        );
    }
}

/// Over a long link one layer is many requests, and more of them are on their way at a time than the two
/// that are made where the rate is not known. So long that a slow machine fills no less of it.
#[test]
fn a_full_pull_fills_a_long_link() {
    let scene = Scene::new();
    let far = Far::new(scene.registry.host(), Duration::from_millis(300)).unwrap();
    let name = scene.image.split_once('/').unwrap().1;
    thaw()
        .run(["pull", &format!("{}/{name}", far.host())])
        .unwrap();
    let trips = far.trips();
    let mut blobs: BTreeMap<String, Vec<Trip>> = BTreeMap::new();
    for trip in trips.iter().filter(|trip| trip.path.contains("/blobs/")) {
        let trips = blobs.entry(trip.path.clone()).or_default();
        trips.push(trip.clone());
    }
    let largest = blobs.values().max_by_key(|trips| trips.len()).unwrap();
    let most = most_at_once(largest);
    assert!((3..=4).contains(&most), "{most}: {trips:?}");
}
