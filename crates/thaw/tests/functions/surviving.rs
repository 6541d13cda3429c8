//! The host is killed, its registry goes, its callers are hostile.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use thaw_node::container::Cgroup;

use crate::support::{Host, until};

#[test]
fn a_host_that_is_killed_goes_on_where_it_was() {
    let mut host = Host::start();
    host.deploy(&json!({ "customContainerConfig": { "accelerationType": "Default" } }));
    assert_eq!(host.invoke("x").text(), "x");
    let slow = [("X-Fc-Invocation-Type", "Async")];
    assert_eq!(host.invoke_with("sleep 3000", &slow).status, 202);
    let tasks = "/2016-08-15/services/demo/functions/web/stateful-async-invocations";
    let states = |host: &Host| {
        let listed = host.call("GET", tasks, &Value::Null).ok();
        let all = listed["invocations"].as_array().unwrap().clone();
        all.iter()
            .map(|it| it["status"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    until("it runs", || states(&host) == ["Running"]);
    let before = host.containers();
    host.kill();
    host.begin(&[]);
    let after = host.containers();
    assert!(
        before.iter().all(|name| !after.contains(name)),
        "what the killed host had left is taken away: {before:?} {after:?}"
    );
    assert_eq!(host.invoke("again").text(), "again");
    until("the invocation is over", || states(&host) == ["Succeeded"]);
    until("it is accelerated", || {
        host.facts()["acceleration"]["status"] == "Ready"
    });
    host.end();
    assert!(host.containers().is_empty());
    host.thaw.run(["gc", "--all"]).unwrap();
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let root = host.thaw.root().display().to_string();
    assert!(!mounts.contains(&root), "{mounts}");
}

#[test]
fn a_host_that_is_stopped_goes_on_where_it_was() {
    let host = Host::start();
    host.deploy(&json!({}));
    assert_eq!(host.invoke("before").text(), "before");
    let runs = host.containers();
    host.signal(Signal::STOP);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| host.invoke("meanwhile").text());
        std::thread::sleep(Duration::from_secs(3));
        assert!(!waiting.is_finished(), "nobody is there to answer");
        host.signal(Signal::CONT);
        assert_eq!(waiting.join().unwrap(), "meanwhile");
    });
    assert_eq!(host.containers(), runs, "by the same instance");
}

/// What is on the machine of containers with these ids, and of this store: mounts, loop devices, network
/// namespaces, control groups.
fn traces(host: &Host, ids: &BTreeSet<String>) -> Vec<String> {
    let root = host.thaw.root().display().to_string();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mounts.lines().map(str::to_owned);
    let mut found: Vec<String> = mounts.filter(|line| line.contains(&root)).collect();
    let names = |dir: &str| -> Vec<String> {
        let all = fs::read_dir(dir).into_iter().flatten().flatten();
        all.map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    };
    for device in names("/sys/block") {
        let file = fs::read_to_string(format!("/sys/block/{device}/loop/backing_file"));
        found.extend(file.ok().filter(|file| file.contains(&root)));
    }
    let mut groups = vec!["/sys/fs/cgroup/thaw".to_owned()];
    let hierarchies = names("/sys/fs/cgroup").into_iter();
    groups.extend(hierarchies.map(|name| format!("/sys/fs/cgroup/{name}/thaw")));
    for dir in groups.iter().map(String::as_str).chain(["/run/netns"]) {
        let left = names(dir).into_iter();
        let left = left.filter(|name| ids.iter().any(|id| name.contains(id.as_str())));
        found.extend(left.map(|name| format!("{dir}/{name}")));
    }
    found
}

/// The ids of containers that have a directory, whether or not anything is known of them.
fn made(host: &Host) -> BTreeSet<String> {
    let all = fs::read_dir(host.thaw.root().join("containers"));
    let names = all
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| !name.starts_with('.')).collect()
}

/// A host that is killed at different moments of its work. Each next one finds all that it had to do, and
/// nothing stays of the instances of the one before.
#[test]
fn a_host_may_be_killed_at_any_moment() {
    let mut host = Host::start();
    let mut ids = BTreeSet::new();
    let functions = "/2016-08-15/services/demo/functions";
    host.deploy(&json!({ "instanceConcurrency": 5 }));
    let mut slow = json!({ "environmentVariables": { "START_DELAY": "1500" } });
    slow["functionName"] = json!("slow");
    host.deploy(&slow);
    let mut kill = |host: &mut Host, moment: &str| {
        let now = made(host);
        assert!(!now.is_empty(), "{moment}: there is an instance");
        ids.extend(now);
        let before = host.containers();
        host.kill();
        host.begin(&[]);
        let left = host.containers();
        let stays = left.iter().any(|name| before.contains(name));
        assert!(!stays, "{moment}: {before:?} {left:?}");
        let names = |what: &String| ids.iter().any(|id| what.contains(id.as_str()));
        let left = traces(host, &ids);
        let left: Vec<String> = left.into_iter().filter(names).collect();
        assert!(left.is_empty(), "{moment}: {left:?}");
    };

    let mut starting = host.asks("slow", "x");
    until("one is being made", || !made(&host).is_empty());
    kill(&mut host, "while an instance is made");
    starting.read_to_end(&mut Vec::new()).ok();

    let mut starting = host.asks("slow", "x");
    until("one is being started", || !host.containers().is_empty());
    kill(&mut host, "while an instance starts");
    starting.read_to_end(&mut Vec::new()).ok();

    let mut served = host.asks("web", "sleep 60000");
    until("it is busy", || host.facts()["instances"]["busy"] == 1);
    kill(&mut host, "while it serves");
    served.read_to_end(&mut Vec::new()).ok();

    let tasks = format!("{functions}/web/stateful-async-invocations");
    let states = |host: &Host| {
        let listed = host.call("GET", &tasks, &Value::Null).ok();
        let all = listed["invocations"].as_array().unwrap().clone();
        let status = |it: &Value| it["status"].as_str().unwrap().to_owned();
        all.iter().map(status).collect::<Vec<_>>()
    };
    host.invoke("x");
    for number in 0..8 {
        let event = format!("sleep {}", 500 + number);
        let queued = host.invoke_with(&event, &[("X-Fc-Invocation-Type", "Async")]);
        assert_eq!(queued.status, 202);
    }
    kill(&mut host, "with a queue");
    assert_eq!(states(&host).len(), 8, "all of them are remembered");

    until("the queue is empty", || {
        states(&host).iter().all(|state| state == "Succeeded")
    });
    let id = host.states()[0]["id"].as_str().unwrap().to_owned();
    let group = Cgroup::of(&format!("/thaw/{id}")).unwrap();
    until("it is frozen", || group.is_frozen().unwrap());
    kill(&mut host, "while one is frozen");

    let switch = "/thaw/acceleration?name=demo/web&to=on";
    host.call("POST", switch, &Value::Null).ok();
    until("a start is recorded", || {
        host.facts()["acceleration"]["doing"] == "recording a start" && !made(&host).is_empty()
    });
    kill(&mut host, "while a start is recorded");
    until("it is accelerated", || {
        host.facts()["acceleration"]["status"] == "Ready"
    });
    assert_eq!(states(&host).len(), 8);
    assert_eq!(host.invoke("again").text(), "again");
    ids.extend(made(&host));
    host.end();
    host.thaw.run(["gc", "--all"]).unwrap();
    let left = traces(&host, &ids);
    assert!(left.is_empty(), "{left:?}");
    assert!(made(&host).is_empty());
}

#[test]
fn a_host_that_is_killed_while_it_accelerates_begins_again() {
    let mut host = Host::start();
    host.deploy(&json!({ "customContainerConfig": { "accelerationType": "Default" } }));
    for moment in [0, 10, 20, 40] {
        std::thread::sleep(Duration::from_millis(moment));
        let status = host.facts()["acceleration"]["status"].clone();
        assert!(status == "Preparing" || moment > 0, "{status}");
        host.kill();
        host.begin(&[]);
    }
    until("it is accelerated", || {
        host.facts()["acceleration"]["status"] == "Ready"
    });
    assert_eq!(host.invoke("x").text(), "x");
    host.end();
    host.thaw.run(["gc", "--all"]).unwrap();
    let left = traces(&host, &BTreeSet::new());
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_is_frozen_does_not_outlive_a_host_that_is_killed() {
    let mut host = Host::start();
    host.deploy(&json!({}));
    assert_eq!(host.invoke("x").text(), "x");
    let id = host.states()[0]["id"].as_str().unwrap().to_owned();
    let cgroup = Cgroup::of(&format!("/thaw/{id}")).unwrap();
    until("it is frozen", || cgroup.is_frozen().unwrap());
    host.kill();
    assert!(cgroup.is_frozen().unwrap(), "nobody wakes it");
    host.begin(&[]);
    assert!(host.containers().is_empty() && host.states().is_empty());
    assert_eq!(host.invoke("again").text(), "again");
}

#[test]
fn an_image_that_is_here_needs_no_registry() {
    let mut host = Host::with(&["--keep", "1s"]);
    host.deploy(&json!({}));
    assert_eq!(host.invoke("x").text(), "x");
    until("it is scaled to zero", || host.containers().is_empty());
    host.registry = std::sync::Arc::new(thaw_testkit::registry::Registry::start().unwrap());
    assert_eq!(host.invoke("without").text(), "without");
}

#[test]
fn an_image_that_is_not_there_is_refused_when_the_function_is_made() {
    let host = Host::start();
    host.call(
        "POST",
        "/2016-08-15/services",
        &json!({ "serviceName": "demo" }),
    )
    .ok();
    let image = format!("{}/nothing:1", host.registry.host());
    let function = json!({
        "functionName": "web", "runtime": "custom-container",
        "customContainerConfig": { "image": image },
    });
    let answer = host.call("POST", "/2016-08-15/services/demo/functions", &function);
    assert_eq!(answer.refused(400), "InvalidArgument");
    assert!(answer.text().contains(&image), "{}", answer.text());
}

/// Sends bytes, and reads until the other side closes or says no more.
fn raw(host: &Host, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(&host.address).unwrap();
    stream
        .set_read_timeout(Some(std::time::Duration::from_secs(3)))
        .unwrap();
    stream.write_all(bytes).ok();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn hostile_requests_get_errors_and_cost_little() {
    let host = Host::start();
    host.deploy(&json!({}));
    let trigger = json!({
        "triggerName": "http", "triggerType": "http",
        "triggerConfig": { "authType": "anonymous", "methods": ["GET", "POST"] },
    });
    host.call(
        "POST",
        "/2016-08-15/services/demo/functions/web/triggers",
        &trigger,
    )
    .ok();
    let status = |answer: String| answer.split(' ').nth(1).unwrap_or("closed").to_owned();
    let path = "/2016-08-15/proxy/demo/web/";
    let ask = |rest: &str| {
        status(raw(
            &host,
            format!("GET {path} HTTP/1.1\r\nHost: x\r\n{rest}").as_bytes(),
        ))
    };
    assert_eq!(ask("Connection: close\r\n\r\n"), "200");
    let long = format!("X: {}\r\n", "x".repeat(1 << 20));
    assert!(
        ["431", "400"].contains(&ask(&long).as_str()),
        "a head without end"
    );
    let many: String = (0..500).map(|i| format!("X-{i}: 1\r\n")).collect();
    assert!(
        ["431", "400"].contains(&ask(&format!("{many}\r\n")).as_str()),
        "many headers"
    );
    // Two lengths, or a length and chunks, are how requests are smuggled (RFC 9112, section 6.3).
    let two = "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab";
    assert_eq!(ask(two), "400");
    let smuggled = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n";
    let answer = raw(
        &host,
        format!("POST {path} HTTP/1.1\r\nHost: x\r\n{smuggled}").as_bytes(),
    );
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    let chunks = "Transfer-Encoding: chunked\r\n\r\nzz\r\n";
    assert!(ask(chunks) != "200", "bad chunks");
    for bad in [
        "/2016-08-15/services/..%2f..%2fetc",
        "/2016-08-15/services/%00",
        "/%ff",
        "/thaw/keys",
    ] {
        let answer = raw(
            &host,
            format!("GET {bad} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
        );
        assert!(
            ["400", "403", "404"].contains(&status(answer.clone()).as_str()),
            "{bad}: {answer}"
        );
    }
    let bomb = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let answer = host.call("POST", "/2016-08-15/services", &Value::Null);
    assert_eq!(answer.refused(400), "InvalidArgument");
    let stream =
        std::os::unix::net::UnixStream::connect(host.thaw.root().join("functions.sock")).unwrap();
    let answer =
        crate::support::exchange(stream, "POST", "/2016-08-15/services", &[], bomb.as_bytes());
    assert_eq!(answer.refused(400), "InvalidArgument");
    assert_eq!(host.invoke("still there").text(), "still there");
}

#[test]
fn who_has_no_key_is_refused() {
    let host = Host::start();
    host.deploy(&json!({}));
    let services = "/2016-08-15/services";
    assert_eq!(
        host.http("GET", services, &[], b"").refused(400),
        "MissingRequiredHeader"
    );
    let forged = [
        ("Authorization", "FC nobody:c2ln"),
        ("Date", "Mon, 23 Nov 2026 08:00:00 GMT"),
    ];
    assert_eq!(
        host.http("GET", services, &forged, b"").refused(403),
        "InvalidAccessKeyID"
    );
    let output = host
        .thaw
        .output(["serve", "--listen", "0.0.0.0:0", "--no-auth"])
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("loopback"), "{said}");
    let output = host
        .thaw
        .output(["serve", "--listen", "127.0.0.1:0"])
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("another `thaw serve`"),
        "{said}"
    );
}

#[test]
fn a_host_that_ends_while_it_records_leaves_nothing() {
    let mut host = Host::start();
    host.deploy(&json!({ "customContainerConfig": { "accelerationType": "Default" } }));
    until("a start is recorded", || {
        let doing = host.facts()["acceleration"]["doing"].clone();
        doing == "recording a start" && !host.containers().is_empty()
    });
    let path = "/2016-08-15/services/demo/functions/web";
    assert_eq!(host.call("DELETE", path, &Value::Null).status, 204);
    host.end();
    assert!(host.containers().is_empty());
    // What the store's owner leaves behind fails the test when it goes.
}
