//! What the daemon counts, as a scraper reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use thaw_testkit::far::Far;
use thaw_testkit::thaw::Thaw;

use crate::support::{BUSYBOX, Scene, json, keys, kill_daemon, refused, target, thaw};

/// Samples by name and labels; fails on whatever a scraper would refuse.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let (mut helped, mut typed) = (BTreeSet::new(), BTreeSet::new());
    let mut family = String::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let name = help.split(' ').next().unwrap();
            assert!(helped.insert(name.to_owned()), "twice: {line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(
                helped.contains(name) && typed.insert(name.to_owned()),
                "{line}"
            );
            family = name.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let of_histogram = ["", "_bucket", "_sum", "_count"];
            let end = name.strip_prefix(family.as_str()).unwrap_or("of another");
            assert!(of_histogram.contains(&end), "{line} under {family}");
            assert!(!series.contains('{') || series.ends_with("\"}"), "{line}");
            let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(
                samples.insert(series.to_owned(), value).is_none(),
                "twice: {line}"
            );
        }
    }
    assert_eq!(helped, typed);
    samples
}

pub(crate) fn metrics(node: &Thaw) -> BTreeMap<String, f64> {
    parse(&node.run(["metrics"]).unwrap())
}

#[test]
fn a_lazy_start_is_counted() {
    a_lazy_start_by("fanotify");
}

#[test]
fn a_lazy_start_by_fuse_is_counted_alike() {
    a_lazy_start_by("fuse");
}

fn a_lazy_start_by(transport: &str) {
    let scene = Scene::accelerated();
    let node = thaw();
    let before = metrics(&node);
    let version = env!("CARGO_PKG_VERSION");
    let info = format!("thaw_daemon_info{{version=\"{version}\",transport=\"none\"}}");
    assert_eq!(before[&info], 1.0);
    assert!(!before.contains_key("thaw_faults_total"), "nobody counts");
    assert_eq!(before["thaw_lazy_image_bytes_total"], 0.0);

    let dir = target(&node);
    node.run([
        "mount",
        "--pull",
        "lazy",
        "--profile",
        "none",
        "--transport",
        transport,
        &scene.image,
        &dir,
    ])
    .unwrap();
    let mounted = metrics(&node);
    fs::read(format!("{dir}/srv/message")).unwrap();
    let read = metrics(&node);
    let info = format!("thaw_daemon_info{{version=\"{version}\",transport=\"{transport}\"}}");
    assert_eq!(read[&info], 1.0);
    let grew = |name: &str| {
        let by = read[name] - mounted[name];
        assert!(by > 0.0, "{name}: {by}");
        by
    };
    assert!(grew("thaw_faults_total") >= 1.0);
    grew("thaw_fault_requests_total");
    grew("thaw_fetched_bytes_total{cause=\"demand\"}");
    grew("thaw_filled_bytes_total{cause=\"demand\"}");
    grew("thaw_network_received_bytes_total");
    assert_eq!(read["thaw_fetched_bytes_total{cause=\"fill\"}"], 0.0);
    assert_eq!(read["thaw_fetched_bytes_total{cause=\"working_set\"}"], 0.0);
    assert_eq!(read["thaw_read_failures_total{reason=\"failed\"}"], 0.0);
    let waited = read["thaw_fault_wait_seconds_count"];
    assert_eq!(waited, read["thaw_fault_wait_seconds_bucket{le=\"+Inf\"}"]);
    assert_eq!(
        waited + read["thaw_faults_waiting"],
        read["thaw_faults_total"]
    );
    assert!(read["thaw_fault_wait_seconds_sum"] > 0.0);

    let compressed = scene.layout.manifest().unwrap()["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["size"].as_f64().unwrap())
        .sum::<f64>();
    assert_eq!(read["thaw_lazy_image_bytes_total"], compressed);
    let saved = |of: &BTreeMap<String, f64>| of["thaw_saved_bytes"];
    assert!(saved(&mounted) <= compressed && saved(&read) > 0.0);
    assert!(saved(&read) < saved(&mounted), "less is absent");
    assert_eq!((saved(&before), fetched(&before)), (0.0, 0.0));

    let load = |of: &BTreeMap<String, f64>, name: &str| {
        let labels = format!("\",reference=\"{}\",how=\"lazy\"}}", scene.image);
        let begin = format!("{name}{{manifest=\"sha256:");
        let mut found = of.iter().filter(|(name, _)| name.starts_with(&begin));
        let (name, value) = found.next().unwrap();
        assert!(name.ends_with(&labels) && found.next().is_none(), "{name}");
        *value
    };
    let present = load(&read, "thaw_image_present_bytes");
    assert!(present > load(&mounted, "thaw_image_present_bytes"));
    assert!(present < load(&read, "thaw_image_size_bytes"));
    assert_eq!((read["thaw_mounts"], mounted["thaw_mounts"]), (1.0, 1.0));

    // The next daemon fetched nothing of what is here, and what is not is saved as before.
    kill_daemon(&node);
    let restarted = metrics(&node);
    assert_eq!(saved(&restarted), saved(&read), "{restarted:?}");
    assert_eq!(fetched(&restarted), 0.0);
    assert_eq!(restarted["thaw_lazy_image_bytes_total"], 0.0);
    assert_eq!(restarted["thaw_faults_total"], read["thaw_faults_total"]);
    fs::read(format!("{dir}/srv/never-read")).unwrap();
    let less = metrics(&node);
    assert!(cause(&less, "demand") > 0.0 && saved(&less) < saved(&read));

    // What is here costs nothing.
    fs::read(format!("{dir}/srv/message")).unwrap();
    node.run(["run", "--net", "none", &scene.image, "--", "sh", "-c", ":"])
        .unwrap();
    let again = metrics(&node);
    assert_eq!(again["thaw_lazy_image_bytes_total"], 0.0, "it was mounted");
    assert!(saved(&again) <= saved(&less));

    let facts = json(&node.run(["metrics", "--json"]).unwrap());
    let wanted = [
        "containers",
        "images",
        "mismatches",
        "mounts",
        "moved",
        "reads",
        "received",
        "requests",
        "saved",
        "started",
        "transport",
    ];
    let mut told = keys(&facts);
    told.sort_unstable();
    assert_eq!(told, wanted);
}

/// All bytes that were fetched, for whatever cause.
fn fetched(of: &BTreeMap<String, f64>) -> f64 {
    let all = of.iter();
    let fetched = all.filter(|(name, _)| name.starts_with("thaw_fetched_bytes_total{"));
    fetched.map(|(_, bytes)| bytes).sum()
}

fn cause(of: &BTreeMap<String, f64>, name: &str) -> f64 {
    of[&format!("thaw_fetched_bytes_total{{cause=\"{name}\"}}")]
}

/// Waits until what is counted is so.
fn until(node: &Thaw, what: &str, so: impl Fn(&BTreeMap<String, f64>) -> bool) {
    let begin = std::time::Instant::now();
    loop {
        let counted = metrics(node);
        if so(&counted) {
            return;
        }
        assert!(begin.elapsed().as_secs() < 60, "{what}: {counted:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn each_cause_is_counted() {
    each_cause_by("fanotify");
}

#[test]
fn each_cause_is_counted_alike_by_fuse() {
    each_cause_by("fuse");
}

/// What a working set brings, what somebody waits for, what is filled, and what is found here is counted
/// as that, and bytes that nobody fetched are saved.
fn each_cause_by(transport: &str) {
    const READ: usize = 4 << 20;
    let scene = Scene::new();
    let script = format!("busybox dd if=/srv/never-read of=/dev/null bs={READ} count=1");
    let record = ["accelerate", "--record", "--ready", "exit", "--net", "none"];
    let command = [&*scene.image, "--", "sh", "-c", &script];
    thaw().run(record.into_iter().chain(command)).unwrap();

    let node = thaw();
    let dir = target(&node);
    let options = ["mount", "--pull", "lazy", "--transport", transport];
    node.run(options.into_iter().chain([&*scene.image, &dir]))
        .unwrap();
    until(&node, "no working set", |now| {
        now["thaw_filled_bytes_total{cause=\"working_set\"}"] > READ as f64
    });
    let file = fs::File::open(format!("{dir}/srv/never-read")).unwrap();
    let read = |from: usize, len: usize| {
        let at = u64::try_from(from).unwrap();
        file.read_exact_at(&mut vec![0; len], at).unwrap();
        metrics(&node)
    };
    let brought = metrics(&node);
    assert!(cause(&brought, "working_set") > 1e5, "{brought:?}");
    let hit = read(0, READ);
    let rate = |from: &BTreeMap<String, f64>, to: &BTreeMap<String, f64>| {
        let grew = |name: &str| to[name] - from[name];
        let hits = grew("thaw_read_hits_total");
        hits / (hits + grew("thaw_faults_total"))
    };
    assert!(hit["thaw_read_hits_total"] > brought["thaw_read_hits_total"]);
    assert_eq!(rate(&brought, &hit), 1.0, "{brought:?} {hit:?}");
    assert_eq!(fetched(&hit), fetched(&brought));
    assert_eq!(hit["thaw_saved_bytes"], brought["thaw_saved_bytes"]);

    let missed = read(2 * READ, 4096);
    assert!(rate(&hit, &missed) < 1.0);
    assert!(cause(&missed, "demand") > cause(&hit, "demand"));
    let saved = |of: &BTreeMap<String, f64>| of["thaw_saved_bytes"];
    assert!(saved(&missed) < saved(&hit));
    assert!(saved(&missed) > 0.0, "most of it was not read: {missed:?}");

    let run = ["run", "--net", "none", "--pull", "lazy", "--fill"];
    let by = [
        "--transport",
        transport,
        &scene.image,
        "--",
        "sh",
        "-c",
        ":",
    ];
    node.run(run.into_iter().chain(by)).unwrap();
    until(&node, "it is never whole", |_| {
        json(&node.run(["images", "--json"]).unwrap())[0]["whole"] == true
    });
    let filled = metrics(&node);
    assert!(cause(&filled, "fill") > 1e6, "{filled:?}");
    assert!(filled["thaw_filled_bytes_total{cause=\"fill\"}"] > 1e6);
    assert_eq!(saved(&filled), 0.0, "all of it is here");
    assert_eq!(filled["thaw_mounts"], 1.0);
    // The load rate is what was read, and not what was filled.
    let of_image = |name: &str| {
        let mut values = filled.iter().filter(|(it, _)| it.starts_with(name));
        *values.next().unwrap().1
    };
    let size = of_image("thaw_image_size_bytes{");
    assert_eq!(of_image("thaw_image_present_bytes{"), size);
    let read = of_image("thaw_image_read_bytes{");
    assert!(read > 0.0 && read < size / 2.0, "{read} of {size}");
    // Each byte came once, for one cause, and had to be fetched and unpacked for that.
    let sum = |name: &str| {
        let of_causes = filled.iter().filter(|(it, _)| it.starts_with(name));
        of_causes.map(|(_, bytes)| bytes).sum::<f64>()
    };
    assert_eq!(sum("thaw_filled_bytes_total{"), size);
    for name in ["demand", "working_set", "fill"] {
        let of = |what: &str| filled[&format!("thaw_{what}_bytes_total{{cause=\"{name}\"}}")];
        assert!(of("unpacked") >= of("filled"), "{name}: {filled:?}");
    }
    assert!(filled["thaw_network_received_bytes_total"] >= fetched(&filled));
    drop(file);
}

#[test]
fn what_is_read_ahead_is_counted_apart() {
    let scene = Scene::accelerated();
    let node = thaw();
    let dir = target(&node);
    let options = ["mount", "--pull", "lazy", "--profile", "none"];
    node.run(options.into_iter().chain([&*scene.image, &dir]))
        .unwrap();
    let mounted = metrics(&node);
    let file = fs::File::open(format!("{dir}/srv/never-read")).unwrap();
    for piece in 0..16 {
        file.read_exact_at(&mut [0; 64 << 10], piece << 16).unwrap();
    }
    let names = ["fetched", "unpacked", "filled"];
    let ahead = |of: &BTreeMap<String, f64>| {
        names.map(|name| of[&format!("thaw_{name}_bytes_total{{cause=\"ahead\"}}")])
    };
    assert_eq!(ahead(&mounted), [0.0; 3]);
    until(&node, "nothing comes ahead", |now| {
        ahead(now).iter().all(|bytes| *bytes > 0.0)
    });
    drop(file);
}

#[test]
fn containers_are_counted_by_state() {
    let scene = Scene::accelerated();
    let node = thaw();
    let containers = || {
        let counted = metrics(&node);
        ["running", "ended"].map(|state| counted[&format!("thaw_containers{{state=\"{state}\"}}")])
    };
    let run = ["run", "-d", "--name", "box", "--net", "none", &scene.image];
    node.run(run.into_iter().chain(["--", "sleep", "1000"]))
        .unwrap();
    assert_eq!(containers(), [1.0, 0.0]);
    node.run(["stop", "--time", "0", "box"]).unwrap();
    assert_eq!(containers(), [0.0, 1.0]);
    node.run(["rm", "box"]).unwrap();
    assert_eq!(containers(), [0.0, 0.0]);
}

#[test]
fn failures_are_counted_by_their_reason() {
    failures_by("fanotify");
}

#[test]
fn failures_are_counted_alike_by_fuse() {
    failures_by("fuse");
}

fn failures_by(transport: &str) {
    let scene = Scene::accelerated();
    let far = Far::new(scene.registry.host(), Duration::ZERO).unwrap();
    let image = scene.image.replace(scene.registry.host(), &far.host());
    let node = thaw();
    let config = node.root().with_file_name("config.toml");
    fs::write(&config, "fault-timeout-seconds = 5\n").unwrap();
    let dir = target(&node);
    let options = ["--config", config.to_str().unwrap(), "mount"];
    let lazily = ["--pull", "lazy", "--profile", "none"];
    let mount = ["--transport", transport, &image, &dir];
    node.run(options.into_iter().chain(lazily).chain(mount))
        .unwrap();
    let failures = |of: &BTreeMap<String, f64>| {
        ["failed", "expired", "unknown"]
            .map(|reason| of[&format!("thaw_read_failures_total{{reason=\"{reason}\"}}")])
    };
    let mounted = metrics(&node);
    assert_eq!(failures(&mounted), [0.0; 3]);
    assert_eq!(mounted["thaw_mismatches_total"], 0.0);
    let fails = |path: &str| {
        let error = fs::read(format!("{dir}/{path}")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "{error}");
    };

    // The registry's bytes are damaged.
    let layers = scene.layout.manifest().unwrap()["layers"].clone();
    let blob = |layer: usize| layers[layer]["digest"].as_str().unwrap().to_owned();
    let damaged = scene.registry.blob(&blob(1).parse().unwrap());
    let damaged = fs::File::options().read(true).write(true).open(damaged);
    let damaged = damaged.unwrap();
    let (mut byte, middle) = ([0], damaged.metadata().unwrap().len() / 2);
    damaged.read_exact_at(&mut byte, middle).unwrap();
    damaged.write_all_at(&[byte[0] ^ 1], middle).unwrap();
    fails("srv/never-read");
    let wrong = metrics(&node);
    let [failed, expired, unknown] = failures(&wrong);
    assert!(failed > 0.0, "{wrong:?}");
    assert_eq!((expired, unknown), (0.0, 0.0), "{wrong:?}");
    assert!(wrong["thaw_mismatches_total"] > 0.0, "{wrong:?}");

    // It says nothing any more.
    let withheld = far.withhold(&blob(0));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| fails("bin/busybox"));
        until(&node, "nobody waits", |now| {
            now["thaw_faults_waiting"] > 0.0
        });
        reader.join().unwrap();
    });
    drop(withheld);
    let silent = metrics(&node);
    let [failed_now, expired_now, _] = failures(&silent);
    assert!(failed_now + expired_now > failed, "{silent:?}");
    until(&node, "somebody waits", |now| {
        now["thaw_faults_waiting"] == 0.0
    });

    // The daemon says nothing any more: nobody but the clock can end a wait.
    let daemon = Pid::from_raw(node.daemon().unwrap().cast_signed()).unwrap();
    kill_process(daemon, Signal::STOP).unwrap();
    let program = fs::File::open(format!("{dir}/bin/busybox")).unwrap();
    let end = fs::metadata(BUSYBOX).unwrap().len() - 4096;
    let error = program.read_exact_at(&mut [0; 4096], end);
    kill_process(daemon, Signal::CONT).unwrap();
    assert_eq!(error.unwrap_err().raw_os_error(), Some(5));
    drop(program);
    let stopped = metrics(&node);
    assert!(failures(&stopped)[1] > expired_now, "{stopped:?}");
    assert_eq!(failures(&stopped)[0], failed_now, "{stopped:?}");
    assert_eq!(failures(&stopped)[2], 0.0);
    assert_eq!(
        stopped["thaw_mismatches_total"],
        wrong["thaw_mismatches_total"]
    );
}

fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[test]
fn a_configured_address_serves_them() {
    let node = thaw();
    fs::create_dir_all(node.root()).unwrap();
    let file = node.root().with_file_name("config.toml");
    let config = file.to_str().unwrap();
    let listen =
        |address: &str| fs::write(&file, format!("metrics-listen = \"{address}\"\n")).unwrap();

    listen("localhost");
    let (code, said) = refused(&node, &["--config", config, "metrics"]);
    assert_eq!(code, 125);
    let wanted = format!(
        "in the configuration {config}: line 1: metrics-listen: invalid socket address syntax"
    );
    assert!(said.contains(&wanted), "{said}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    listen(&address);
    let (_, said) = refused(&node, &["--config", config, "metrics"]);
    let wanted = format!("cannot serve metrics at {address} (metrics-listen in the configuration)");
    assert!(said.contains(&wanted) && said.contains("in use"), "{said}");

    drop(taken);
    listen("127.0.0.1:0");
    let by_socket = parse(&node.run(["--config", config, "metrics"]).unwrap());
    let log = fs::read_to_string(node.root().join("daemon.log")).unwrap();
    let address = log.split("metrics at http://").nth(1).unwrap();
    let address = address.split("/metrics").next().unwrap();
    let (head, body) = get(address, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert_eq!(parse(&body), by_socket, "nothing has happened in between");
    assert!(get(address, "/").0.starts_with("HTTP/1.1 404 "));

    // The next daemon gets the port, however soon it comes.
    listen(address);
    node.run(["daemon", "--stop"]).unwrap();
    node.run(["--config", config, "metrics"]).unwrap();
    assert!(get(address, "/metrics").0.starts_with("HTTP/1.1 200 "));
}
