//! What an instance is told, what it may do, and what it reaches.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;
use thaw_testkit::image::{Entry, Layer, function, real};
use thaw_testkit::net::{Link, Namespace, Shape};
use thaw_testkit::scratch;

use crate::support::{Host, until};

/// The headers of every request that Function Compute's documentation names (without `x-fc-`). Credentials
/// of the cloud and the log service's names are not there: this host has neither.
const HEADERS: [&str; 15] = [
    "account-id",
    "control-path",
    "function-handler",
    "function-initializer",
    "function-memory",
    "function-name",
    "function-timeout",
    "initialization-timeout",
    "instance-lifecycle-pre-freeze-handler",
    "instance-lifecycle-pre-stop-handler",
    "qualifier",
    "region",
    "request-id",
    "service-name",
    "version-id",
];

/// The variables that it names (without `FC_`), and the port by the name that many programs read.
const VARIABLES: [&str; 11] = [
    "ACCOUNT_ID",
    "CUSTOM_LISTEN_PORT",
    "FUNCTION_HANDLER",
    "FUNCTION_MEMORY_SIZE",
    "FUNCTION_NAME",
    "FUNC_CODE_PATH",
    "INSTANCE_ID",
    "QUALIFIER",
    "REGION",
    "SERVER_PORT",
    "SERVICE_NAME",
];

/// What stands between a prefix and one of these characters, line by line.
fn names<'a>(text: &'a str, prefix: &str, end: char) -> BTreeSet<&'a str> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
    lines
        .filter_map(|line| Some(line.split_once(end)?.0))
        .collect()
}

#[test]
fn a_function_is_told_all_that_the_contract_names() {
    let host = Host::start();
    let hook = json!({ "handler": "hook", "timeout": 3 });
    host.deploy(&json!({
        "initializer": "init", "initializationTimeout": 7, "timeout": 20, "memorySize": 192,
        "instanceLifecycleConfig": { "preFreeze": hook, "preStop": hook },
    }));
    host.publish("web.test");
    let headers = host.invoke("headers").text();
    let mut wanted = BTreeSet::from(HEADERS);
    assert_eq!(names(&headers, "x-fc-", ':'), wanted);
    for line in [
        "x-fc-account-id: 1",
        "x-fc-control-path: /invoke",
        "x-fc-function-handler: none",
        "x-fc-function-initializer: init",
        "x-fc-function-memory: 192",
        "x-fc-function-timeout: 20",
        "x-fc-initialization-timeout: 7",
        "x-fc-instance-lifecycle-pre-stop-handler: hook",
        "x-fc-qualifier: LATEST",
        "x-fc-region: local",
    ] {
        assert!(headers.lines().any(|it| it == line), "{line}: {headers}");
    }
    let request = host.http("GET", "/x", &[("Host", "web.test")], b"").text();
    wanted.insert("base-path");
    assert_eq!(names(&request, "x-fc-", ':'), wanted);
    let environment = host.invoke("env").text();
    let told = names(&environment, "FC_", '=');
    assert_eq!(told, BTreeSet::from(VARIABLES));
}

#[test]
fn a_full_disk_is_told_as_such() {
    let host = Host::start();
    host.deploy(&json!({ "diskSize": 64 }));
    assert_eq!(host.invoke("write 20").text(), "wrote 20");
    let failed = |event: &str| {
        let answer = host.invoke(event);
        assert_eq!(answer.header("x-fc-error-type"), "UnhandledInvocationError");
        answer.json()["errorMessage"].as_str().unwrap().to_owned()
    };
    let full = "its disk is full: it may have 64 MiB (diskSize)";
    assert_eq!(failed("fail"), "failed as told", "that is another failure");
    let said = failed("write 200");
    assert!(
        said.contains("No space left") && said.contains(full),
        "{said}"
    );
    // The answer to an HTTP request is the function's own; what is noted of it says why.
    host.publish("web.test");
    let answer = host.http("GET", "/fail", &[("Host", "web.test")], b"");
    assert_eq!(answer.text(), "failed as told");
    until("it is noted", || {
        let facts = host.facts();
        let last = facts["last"].as_array().unwrap().last().unwrap();
        last["error"].as_str().is_some_and(|error| error == full)
    });
    let said = failed("fill");
    assert!(
        said.contains("exit code 9") && said.contains(full),
        "{said}"
    );
    assert_eq!(
        host.invoke("write 20").text(),
        "wrote 20",
        "another instance"
    );
}

#[test]
fn a_disk_bounds_all_that_an_instance_writes() {
    let mut host = Host::start();
    let directory = scratch::directory().unwrap();
    // What this function writes it writes to a VOLUME; another begins with a file that is a hole but for its
    // first bytes, and larger than the disk.
    let large = Entry::sparse("held/large", 1 << 28, vec![(0, b"a hole follows".to_vec())]);
    let image = function::image(&real::cache_directory(), 2).unwrap();
    let image = image
        .layer(Layer::new([Entry::directory("held"), large]))
        .config("Volumes", json!({ "/tmp": {}, "/held": {} }));
    let layout = image.write(directory.path(), "latest").unwrap();
    host.image = layout.push(&host.registry, "volumes:1").unwrap();
    host.deploy(&json!({ "diskSize": 64 }));
    assert_eq!(host.invoke("write 20").text(), "wrote 20");
    let mounts = host.invoke("cat /proc/self/mountinfo").text();
    // Mount point and device (proc(5)): all of them are on one.
    let device = |target: &str| {
        let mut lines = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        let line = lines.find(|line| line[4] == target);
        line.unwrap_or_else(|| panic!("{target}: {mounts}"))[2].to_owned()
    };
    let loops = device("/tmp");
    assert!(loops.starts_with("7:"), "a loop device: {mounts}");
    for target in ["/held", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"] {
        assert_eq!(device(target), loops, "{target}: {mounts}");
    }
    let answer = host.invoke("write 200");
    let said = answer.json()["errorMessage"].as_str().unwrap().to_owned();
    assert!(
        said.contains("its disk is full: it may have 64 MiB"),
        "{said}"
    );
}

/// A listener in a namespace.
fn listener(namespace: &Namespace) -> TcpListener {
    let path = namespace.path();
    let made = thread::spawn(move || {
        let namespace = fs::File::open(path).unwrap();
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&namespace),
            Some(LinkNameSpaceType::Network),
        )
        .unwrap();
        TcpListener::bind("0.0.0.0:0").unwrap()
    });
    made.join().unwrap()
}

#[test]
fn only_a_function_with_internet_access_reaches_what_is_outside() {
    let host = Host::start();
    host.deploy(&json!({}));
    let services = "/2016-08-15/services";
    host.call(
        "POST",
        services,
        &json!({ "serviceName": "shut", "internetAccess": false }),
    )
    .ok();
    let function = json!({
        "functionName": "web", "runtime": "custom-container", "handler": "none", "timeout": 30,
        "customContainerConfig": { "image": host.image, "accelerationType": "None" },
    });
    host.call("POST", &format!("{services}/shut/functions"), &function)
        .ok();
    let connect = |service: &str, target: &str| {
        let path = format!("{services}/{service}/functions/web/invocations");
        let stream =
            std::os::unix::net::UnixStream::connect(host.thaw.root().join("functions.sock"));
        let event = format!("connect {target}");
        crate::support::exchange(stream.unwrap(), "POST", &path, &[], event.as_bytes()).text()
    };
    let outside = Namespace::new().unwrap();
    let link = Link::new(&outside, Shape::GIGABIT).unwrap();
    let far = listener(&outside);
    let far = format!("{}:{}", link.far(), far.local_addr().unwrap().port());
    assert_eq!(connect("demo", &far), "connected");
    assert_eq!(connect("shut", "127.0.0.1:9000"), "connected", "itself");
    let states = host.states();
    // The host, at the address that it has for those who may go out, and an instance of theirs.
    let near = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = near.local_addr().unwrap().port();
    let addresses = states.iter();
    let addresses = addresses.filter_map(|it| it["endpoint"]["address"].as_str());
    let addresses: Vec<&str> = addresses.collect();
    assert_eq!(addresses.len(), 1, "only the other one is on the bridge");
    for target in [
        far,
        format!("10.188.0.1:{port}"),
        format!("{}:{port}", link.near()),
        host.address.clone(),
        format!("{}:9000", addresses[0]),
    ] {
        let said = connect("shut", &target);
        assert!(
            said.contains("unreachable") || said.contains("refused"),
            "{target}: {said}"
        );
    }
    let api = connect("demo", &host.address);
    assert!(
        api.contains("refused"),
        "nor does the other one reach the API: {api}"
    );
}

/// The value of a line `NAME: VALUE`.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| *key == name);
    found
        .unwrap_or_else(|| panic!("no {name}: {status}"))
        .1
        .trim()
}

#[test]
fn an_instance_is_confined_as_seen_from_inside() {
    let host = Host::start();
    host.deploy(&json!({ "memorySize": 256 }));
    host.deploy(&json!({ "functionName": "other" }));
    let status = host.invoke("cat /proc/self/status").text();
    // CAP_DAC_READ_SEARCH, NET_ADMIN, SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_ADMIN, SYS_BOOT, SYS_TIME,
    // SYSLOG, PERFMON, BPF (include/uapi/linux/capability.h).
    let powers = [2, 12, 16, 17, 19, 21, 22, 25, 34, 38, 39];
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let has = u64::from_str_radix(field(&status, set), 16).unwrap();
        let too_much = powers.iter().filter(|bit| has & (1 << **bit) != 0);
        assert_eq!(too_much.count(), 0, "{set} {has:x}");
    }
    assert_eq!(field(&status, "NoNewPrivs"), "1");
    assert_eq!(field(&status, "Seccomp"), "2", "a filter");
    let threads: u32 = host.invoke("threads 3000").text().parse().unwrap();
    assert!((100..1024).contains(&threads), "{threads} threads");
    // What it changes of its image it changes for itself alone.
    let other = || {
        let path = "/2016-08-15/services/demo/functions/other/invocations";
        let stream =
            std::os::unix::net::UnixStream::connect(host.thaw.root().join("functions.sock"));
        crate::support::exchange(stream.unwrap(), "POST", path, &[], b"read /srv/data").text()
    };
    let before = other();
    assert_eq!(host.invoke("overwrite /srv/data").text(), "overwritten");
    assert_eq!(host.invoke("cat /srv/data").text(), "overwritten");
    assert_eq!(other(), before);
    let proc = host.invoke("overwrite /proc/sys/kernel/hostname").text();
    assert!(proc.contains("Read-only"), "{proc}");
}

/// What a control group's file says, by either version (cgroups(7)).
fn limit(id: &str, controller: &str, v1: &str, v2: &str) -> String {
    let root = Path::new("/sys/fs/cgroup");
    let mut found: Vec<PathBuf> = vec![root.join(controller).join("thaw").join(id).join(v1)];
    found.extend(["", "unified"].map(|sub| root.join(sub).join("thaw").join(id).join(v2)));
    let read = found.iter().find_map(|path| fs::read_to_string(path).ok());
    read.unwrap_or_else(|| panic!("none of {found:?}"))
        .trim()
        .to_owned()
}

#[test]
fn an_instance_is_confined_as_seen_from_the_host() {
    let host = Host::start();
    host.deploy(&json!({ "memorySize": 192, "cpu": 0.3 }));
    host.invoke("x");
    let states = host.states();
    let id = states[0]["id"].as_str().unwrap();
    let memory = limit(id, "memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(memory, (192 << 20).to_string());
    assert_eq!(limit(id, "pids", "pids.max", "pids.max"), "1024");
    // Of each 100 ms.
    let cpu = limit(id, "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert_eq!(cpu.split(' ').next(), Some("30000"), "{cpu}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let disk = host
        .thaw
        .root()
        .join("containers")
        .join(id)
        .join("writable");
    let disk = disk.display().to_string();
    let mount = mounts.lines().find(|line| line.contains(&disk));
    assert!(
        mount.is_some_and(|line| line.contains(" ext4 ")),
        "{mount:?}"
    );
    let size = rustix::fs::statvfs(&disk).unwrap();
    assert!(size.f_blocks * size.f_frsize <= 512 << 20, "diskSize");
    until("it is frozen", || {
        let group = thaw_node::container::Cgroup::of(&format!("/thaw/{id}"));
        group.unwrap().is_frozen().unwrap()
    });
}
