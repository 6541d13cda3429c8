//! Functions that are no servers: a container for each event, whose end is the answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::support::{Answer, Host, until};

const FUNCTION: &str = "/2016-08-15/services/demo/functions/web";

fn job(host: &Host, more: &Value) {
    host.deploy(more);
    let container = json!({ "webServerMode": false, "accelerationType": "None" });
    let config = json!({ "customContainerConfig": container });
    let changed = host.call("PUT", FUNCTION, &config).ok();
    assert_eq!(changed["customContainerConfig"]["webServerMode"], false);
}

fn log(answer: &Answer) -> String {
    let log = BASE64.decode(answer.header("x-fc-log-result")).unwrap();
    String::from_utf8(log).unwrap()
}

const TAIL: [(&str, &str); 1] = [("X-Fc-Log-Type", "Tail")];

#[test]
fn an_event_has_a_container_of_its_own_and_its_end_is_the_answer() {
    let host = Host::start();
    job(&host, &json!({ "instanceConcurrency": 5 }));
    let answer = host.invoke_with("print an event, \"quoted\"\nin lines", &TAIL);
    assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    assert_eq!(answer.header("x-fc-error-type"), "");
    assert_eq!(log(&answer), "an event, \"quoted\"\nin lines\nprinted\n");
    let instance = |answer: &Answer| log(answer).trim().to_owned();
    let first = instance(&host.invoke_with("pid", &TAIL));
    let second = instance(&host.invoke_with("pid", &TAIL));
    assert!(!first.is_empty() && first != second, "{first} {second}");
    until("the containers are gone", || host.containers().is_empty());

    let failed = |event: &str| {
        let answer = host.invoke(event);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-fc-error-type"), "UnhandledInvocationError");
        let peak: f64 = answer.header("x-fc-max-memory-usage").parse().unwrap();
        // The whole of its 128 MiB where it wanted more.
        assert!(
            peak > if event.starts_with("eat") { 100.0 } else { 0.1 },
            "{peak}"
        );
        answer.json()["errorMessage"].as_str().unwrap().to_owned()
    };
    let ended = failed("exit 5");
    assert!(
        ended.contains("exit code 5") && ended.contains("exiting as told"),
        "{ended}"
    );
    let hungry = failed("eat 512");
    assert!(hungry.contains("128 MiB (memorySize)"), "{hungry}");
    let refused = host.invoke_with("\0", &[]);
    assert_eq!(refused.refused(400), "InvalidArgument");
    host.call("PUT", FUNCTION, &json!({ "timeout": 1 })).ok();
    assert!(failed("sleep 60000").contains("timed out after 1 s"));
    until("the containers are gone", || host.containers().is_empty());
    // What they have printed stays.
    let facts = host.thaw.run(["fn", "logs", "demo/web"]).unwrap();
    assert!(facts.contains("an event, \"quoted\""), "{facts}");
}

#[test]
fn events_share_the_places_of_a_function_that_is_no_server() {
    let host = Host::start();
    job(&host, &json!({}));
    let limit = json!({ "maximumInstanceCount": 2 });
    let path = format!("{FUNCTION}/on-demand-config");
    host.call("PUT", &path, &limit).ok();
    let many = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| assert_eq!(host.invoke("sleep 300").ok(), Value::Null));
        }
        for _ in 0..50 {
            let now = host.containers().len();
            many.fetch_max(now, std::sync::atomic::Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    // One that has ended may be taken away while its successor starts.
    let many = many.into_inner();
    assert!((2..=4).contains(&many), "{many}");
}

#[test]
fn asynchronous_events_run_and_can_be_stopped() {
    let host = Host::start();
    job(&host, &json!({ "timeout": 600 }));
    let start = |id: &str, event: &str| {
        let headers = [
            ("X-Fc-Invocation-Type", "Async"),
            ("X-Fc-Stateful-Async-Invocation-Id", id),
        ];
        assert_eq!(host.invoke_with(event, &headers).status, 202);
    };
    let status = |id: &str| {
        let path = format!("{FUNCTION}/stateful-async-invocations/{id}");
        let path = path.replace("2016-08-15", "2021-04-06");
        host.call("GET", &path, &Value::Null).ok()["status"].clone()
    };
    start("good", "print x");
    until("it has succeeded", || status("good") == "Succeeded");
    start("long", "sleep 600000");
    until("it runs", || {
        status("long") == "Running" && host.containers().len() == 1
    });
    let path = "/2021-04-06/services/demo/functions/web/stateful-async-invocations/long";
    host.call("PUT", path, &Value::Null).ok();
    until("it has stopped", || status("long") == "Stopped");
    until("its container is gone", || host.containers().is_empty());
}

#[test]
fn what_only_a_server_hears_is_refused() {
    let host = Host::start();
    job(&host, &json!({}));
    host.publish("job.example");
    let answer = host.http("GET", "/", &[("Host", "job.example")], b"");
    assert_eq!(answer.refused(400), "InvalidArgument");
    assert!(answer.text().contains("is no server"), "{}", answer.text());
    for field in [
        json!({ "initializer": "x" }),
        json!({ "instanceLifecycleConfig": { "preStop": { "handler": "x" } } }),
        json!({ "customHealthCheckConfig": { "httpGetUrl": "/" } }),
    ] {
        let refused = host.call("PUT", FUNCTION, &field);
        assert_eq!(refused.refused(400), "InvalidArgument", "{field}");
        assert!(refused.text().contains("webServerMode"), "{field}");
    }
    let of_2023 = host.call("GET", "/2023-03-30/functions/demo$web", &Value::Null);
    assert_eq!(
        of_2023.ok()["customContainerConfig"]["webServerMode"],
        false
    );
    // A server again.
    let container = json!({ "webServerMode": true });
    let config = json!({ "customContainerConfig": container, "initializer": "x" });
    host.call("PUT", FUNCTION, &config).ok();
    assert_eq!(host.invoke("hello").text(), "hello");
    let of_2023 = host.call("GET", "/2023-03-30/functions/demo$web", &Value::Null);
    assert!(of_2023.ok()["customContainerConfig"]["webServerMode"].is_null());
}

#[test]
fn an_accelerated_function_that_is_no_server_learns_from_its_starts() {
    let host = Host::start();
    let container = json!({ "webServerMode": false, "accelerationType": "Default" });
    host.deploy(&json!({ "customContainerConfig": container }));
    until("it is ready", || {
        let function = host.call("GET", FUNCTION, &Value::Null).ok();
        function["customContainerConfig"]["accelerationInfo"]["status"] == "Ready"
    });
    host.thaw.run(["gc", "--all"]).unwrap();
    let answer = host.invoke_with("read /srv/data", &TAIL);
    let said = log(&answer);
    assert!(said.starts_with("2097152 bytes, "), "{said}");
    until("what it read is in the working set", || {
        let facts = host.facts();
        let set = &facts["acceleration"]["workingSet"];
        set["answered"] == true && set["blocks"].as_u64() >= Some(2 << 20)
    });
}
