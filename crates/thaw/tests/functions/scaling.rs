//! From zero to many and back; limits; what instances may and may not do.

use std::thread;

use serde_json::{Value, json};

use crate::support::{Host, until};

/// Answers to events that are sent at once.
fn burst(host: &Host, event: &str, count: usize) -> Vec<crate::support::Answer> {
    thread::scope(|scope| {
        let all: Vec<_> = (0..count)
            .map(|_| scope.spawn(|| host.invoke(event)))
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

#[test]
fn a_burst_starts_as_many_as_are_needed_and_no_more_than_allowed() {
    let host = Host::with(&["--keep", "1s"]);
    host.deploy(&json!({}));
    let config = "/2016-08-15/services/demo/functions/web/on-demand-config";
    host.call("PUT", config, &json!({ "maximumInstanceCount": 3 }))
        .ok();
    let answers = burst(&host, "sleep 300", 6);
    assert!(answers.iter().all(|answer| answer.text() == "slept 300"));
    let starts = host.facts()["coldStarts"].as_array().unwrap().len();
    assert!(
        (2..=3).contains(&starts),
        "{starts} instances for six requests"
    );
    // An instance takes as many at once as it says.
    host.call(
        "PUT",
        "/2016-08-15/services/demo/functions/web",
        &json!({ "instanceConcurrency": 10 }),
    )
    .ok();
    until("the others have ended", || host.containers().is_empty());
    let answers = burst(&host, "sleep 300", 6);
    assert!(answers.iter().all(|answer| answer.text() == "slept 300"));
    assert_eq!(
        host.facts()["coldStarts"].as_array().unwrap().len(),
        starts + 1
    );
    host.call("PUT", config, &json!({ "maximumInstanceCount": 0 }))
        .ok();
    assert_eq!(host.invoke("x").refused(429), "ResourceExhausted");
}

#[test]
fn the_host_promises_no_more_memory_than_it_has() {
    let host = Host::with(&["--memory", "256m"]);
    host.deploy(&json!({ "memorySize": 128 }));
    host.deploy(&json!({ "functionName": "other", "memorySize": 256 }));
    assert_eq!(burst(&host, "sleep 200", 2).len(), 2);
    assert_eq!(host.containers().len(), 2);
    let path = "/2016-08-15/services/demo/functions/other/invocations";
    host.call("POST", path, &Value::Null).ok();
    assert_eq!(host.containers().len(), 1, "what was idle made room");
    host.deploy(&json!({ "functionName": "huge", "memorySize": 512 }));
    let path = "/2016-08-15/services/demo/functions/huge/invocations";
    let refused = host.call("POST", path, &Value::Null);
    assert_eq!(refused.refused(429), "ResourceExhausted");
    assert!(
        refused.text().contains("256 MiB for all"),
        "{}",
        refused.text()
    );
}

#[test]
fn what_has_to_be_there_is_there() {
    let host = Host::with(&["--keep", "1s"]);
    host.deploy(&json!({}));
    let config = "/2016-08-15/services/demo/functions/web/provision-config";
    host.call("PUT", config, &json!({ "target": 2 })).ok();
    until("there are two", || host.containers().len() == 2);
    thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(host.containers().len(), 2, "they are kept");
    assert_eq!(host.call("GET", config, &Value::Null).ok()["current"], 2);
    host.call("PUT", config, &json!({ "target": 0 })).ok();
    until("there are none", || host.containers().is_empty());
}

#[test]
fn idle_instances_are_frozen_and_wake_up() {
    let host = Host::start();
    host.deploy(&json!({ "instanceLifecycleConfig": {
        "preFreeze": { "handler": "x", "timeout": 3 }, "preStop": { "handler": "x", "timeout": 3 },
    }, "initializer": "x", "initializationTimeout": 3 }));
    assert_eq!(host.invoke("x").text(), "x");
    let listed = host.thaw.run(["ps", "--json"]).unwrap();
    let id = serde_json::from_str::<Value>(&listed).unwrap()[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let group = thaw_node::container::Cgroup::of(&format!("/thaw/{id}")).unwrap();
    until("it is frozen", || group.is_frozen().unwrap());
    assert_eq!(host.invoke("awake").text(), "awake");
    until("it is frozen again", || group.is_frozen().unwrap());
    let update = json!({ "description": "another configuration" });
    host.call("PUT", "/2016-08-15/services/demo/functions/web", &update)
        .ok();
    let logs = || {
        host.call("GET", "/thaw/logs?name=demo/web", &Value::Null)
            .text()
    };
    until("the old one has ended", || logs().contains("/pre-stop"));
    let logs = logs();
    let at = |what: &str| {
        logs.find(what)
            .unwrap_or_else(|| panic!("no {what}: {logs}"))
    };
    assert!(at("POST /initialize") < at("FC Invoke Start"));
    assert!(at("FC Invoke Start") < at("GET /pre-freeze"));
    assert!(at("GET /pre-freeze") < at("GET /pre-stop"));
}

#[test]
fn a_failed_initializer_is_the_function_s_error() {
    let host = Host::start();
    host.deploy(&json!({
        "initializer": "x", "initializationTimeout": 3,
        "environmentVariables": { "FAIL": "/initialize" },
    }));
    let answer = host.invoke("x");
    assert_eq!(
        (answer.status, answer.header("x-fc-error-type")),
        (200, "InitializationError")
    );
    assert!(answer.text().contains("status 404"), "{}", answer.text());
}

#[test]
fn a_container_is_told_what_it_is_and_reaches_nothing_that_is_not_its_own() {
    let host = Host::start();
    host.deploy(&json!({
        "environmentVariables": { "LISTEN": "127.0.0.1", "MINE": "yes" }, "caPort": 8123,
    }));
    let environment = host.invoke("env").text();
    for wanted in [
        "FC_FUNCTION_NAME=web",
        "FC_SERVICE_NAME=demo",
        "FC_SERVER_PORT=8123",
        "FC_CUSTOM_LISTEN_PORT=8123",
        "FC_FUNCTION_MEMORY_SIZE=128",
        "MINE=yes",
    ] {
        assert!(
            environment.lines().any(|line| line == wanted),
            "{wanted}: {environment}"
        );
    }
    let headers = host
        .invoke_with("headers", &[("x-fc-control-path", "/forged")])
        .text();
    for wanted in [
        "x-fc-control-path: /invoke",
        "x-fc-function-name: web",
        "x-fc-service-name: demo",
    ] {
        assert!(
            headers.lines().any(|line| line == wanted),
            "{wanted}: {headers}"
        );
    }
}

#[test]
fn what_an_instance_prints_comes_with_the_answer() {
    let host = Host::start();
    host.deploy(&json!({}));
    host.invoke("print before");
    let answer = host.invoke_with("print now", &[("X-Fc-Log-Type", "Tail")]);
    use base64::Engine as _;
    let log = base64::engine::general_purpose::STANDARD.decode(answer.header("x-fc-log-result"));
    let log = String::from_utf8(log.unwrap()).unwrap();
    let id = answer.header("x-fc-request-id");
    assert!(
        log.starts_with(&format!("FC Invoke Start RequestId: {id}\nnow\n")),
        "{log}"
    );
    assert!(!log.contains("before"), "{log}");
}

#[test]
fn functions_reach_neither_the_host_nor_each_other() {
    let host = Host::start();
    host.deploy(&json!({}));
    host.deploy(&json!({ "functionName": "other" }));
    let other = "/2016-08-15/services/demo/functions/other/invocations";
    host.call("POST", other, &json!("x"));
    host.invoke("x");
    let addresses: Vec<String> = host
        .states()
        .iter()
        .map(|state| state["endpoint"]["address"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    // Something listens at every address of the host.
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let gateway = "10.188.0.1";
    assert!(
        addresses.iter().all(|it| it.starts_with("10.188.")),
        "{addresses:?}"
    );
    assert!(
        std::net::TcpStream::connect((gateway, port)).is_ok(),
        "the host reaches itself"
    );
    for target in [
        format!("{gateway}:{port}"),
        format!("{}:9000", addresses[0]),
        format!("{}:9000", addresses[1]),
    ] {
        let own = host.invoke("read /proc/net/fib_trie").text();
        let said = host.invoke(&format!("connect {target}")).text();
        let to_itself = said == "connected" && is_own(&host, &target);
        assert!(to_itself || said != "connected", "{target}: {said} {own}");
    }
}

/// Whether an address is the one of `demo/web`'s instance.
fn is_own(host: &Host, target: &str) -> bool {
    let states = host.states();
    let mine = |state: &&Value| state["name"].as_str().unwrap().starts_with("fn-web-");
    let mine = states.iter().find(mine).unwrap();
    target.starts_with(&format!(
        "{}:",
        mine["endpoint"]["address"].as_str().unwrap()
    ))
}

/// One that takes all the memory, again and again, gives some of it up.
#[test]
fn a_function_that_has_all_the_memory_leaves_some_to_others() {
    let host = Host::with(&["--memory", "256m"]);
    host.deploy(&json!({ "memorySize": 128 }));
    let mut quiet = json!({ "memorySize": 128 });
    quiet["functionName"] = json!("quiet");
    host.deploy(&quiet);
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::SeqCst) {
                    host.invoke("sleep 300");
                }
            });
        }
        until("it has all the memory", || host.containers().len() == 2);
        let begin = std::time::Instant::now();
        let path = "/2016-08-15/services/demo/functions/quiet/invocations";
        let answer = host.call("POST", path, &json!("me, too"));
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(answer.text(), "\"me, too\"");
        assert!(begin.elapsed() < std::time::Duration::from_secs(30));
    });
}

#[test]
fn a_noisy_function_does_not_starve_another() {
    let host = Host::start();
    host.deploy(&json!({}));
    host.deploy(&json!({ "functionName": "quiet" }));
    for name in ["web", "quiet"] {
        let config = format!("/2016-08-15/services/demo/functions/{name}/on-demand-config");
        host.call("PUT", &config, &json!({ "maximumInstanceCount": 2 }))
            .ok();
    }
    let quiet = "/2016-08-15/services/demo/functions/quiet/invocations";
    host.call("POST", quiet, &json!("x")).ok();
    thread::scope(|scope| {
        let noise: Vec<_> = (0..40)
            .map(|_| scope.spawn(|| host.invoke("sleep 400")))
            .collect();
        until("the noisy one has a line", || {
            host.facts()["instances"]["waiting"].as_u64().unwrap() > 20
        });
        for _ in 0..5 {
            host.call("POST", quiet, &json!("x")).ok();
        }
        let waiting = host.facts()["instances"]["waiting"].as_u64().unwrap();
        assert!(
            waiting > 0,
            "the other one was answered before the line was empty"
        );
        assert!(
            noise
                .into_iter()
                .all(|one| one.join().unwrap().status == 200)
        );
    });
}
