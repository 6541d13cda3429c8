//! What invokes functions: HTTP, domains, timers, object events, the queue; versions and aliases.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::{Host, read_answer, until};

const FUNCTION: &str = "/2016-08-15/services/demo/functions/web";

fn trigger(host: &Host, name: &str, kind: &str, config: Value) -> Value {
    let body = json!({ "triggerName": name, "triggerType": kind, "triggerConfig": config });
    host.call("POST", &format!("{FUNCTION}/triggers"), &body)
        .ok()
}

/// What the function has printed so far.
fn logs(host: &Host) -> String {
    host.call("GET", "/thaw/logs?name=demo/web", &Value::Null)
        .text()
}

#[test]
fn http_requests_reach_the_function_as_they_came() {
    let host = Host::start();
    host.deploy(&json!({}));
    let path = "/2016-08-15/proxy/demo/web/a%20b/c?x=1&y";
    assert_eq!(
        host.http("GET", path, &[], b"").refused(404),
        "TriggerNotFound"
    );
    let methods = json!({ "authType": "anonymous", "methods": ["GET", "POST"] });
    let made = trigger(&host, "http", "http", methods);
    assert!(
        made["urlInternet"]
            .as_str()
            .unwrap()
            .ends_with("/2016-08-15/proxy/demo/web/")
    );
    let answer = host.http("GET", path, &[("X-Mine", "1"), ("X-Fc-Forged", "1")], b"");
    let text = answer.text();
    assert!(text.starts_with(&format!("GET {path}\n")), "{text}");
    for wanted in [
        "x-mine: 1",
        "x-fc-base-path: /2016-08-15/proxy/demo/web/",
        "x-fc-control-path: /http-invoke",
    ] {
        assert!(text.lines().any(|line| line == wanted), "{wanted}: {text}");
    }
    assert!(!text.contains("forged"), "{text}");
    let answer = host.http("POST", path, &[], b"a body");
    assert!(answer.text().ends_with("\na body"), "{}", answer.text());
    assert_eq!(
        host.http("PUT", path, &[], b"").refused(403),
        "MethodNotAllowed"
    );
    let whole = host.http("GET", "/2016-08-15/proxy/demo/web/fail", &[], b"");
    assert_eq!(
        whole.status, 200,
        "the function sees the whole path, not /fail"
    );
    let gone = host.http("POST", "/2016-08-15/proxy/demo/web/../../../exit", &[], b"");
    assert!(gone.status < 500, "{gone:?}");
}

#[test]
fn a_domain_leads_to_functions() {
    let host = Host::start();
    host.deploy(&json!({}));
    trigger(
        &host,
        "http",
        "http",
        json!({ "authType": "anonymous", "methods": [] }),
    );
    let domain = json!({
        "domainName": "shop.example", "protocol": "HTTP",
        "routeConfig": { "routes": [
            { "path": "/*", "serviceName": "demo", "functionName": "web", "methods": ["GET"] },
        ] },
    });
    host.call("POST", "/2016-08-15/custom-domains", &domain)
        .ok();
    let mine = [("Host", "Shop.Example:80")];
    let answer = host.http("GET", "/fail", &mine, b"");
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (500, "failed as told")
    );
    assert!(
        host.http("GET", "/x?y", &mine, b"")
            .text()
            .starts_with("GET /x?y\n")
    );
    assert_eq!(
        host.http("POST", "/x", &mine, b"").refused(403),
        "MethodNotAllowed"
    );
    let gone = host.http("GET", "/exit", &mine, b"");
    assert_eq!(gone.status, 502, "{}", gone.text());
    assert!(gone.text().contains("exit code 7"), "{}", gone.text());
}

#[test]
fn another_protocol_is_spoken_through_the_host() {
    let host = Host::start();
    host.deploy(&json!({}));
    trigger(
        &host,
        "http",
        "http",
        json!({ "authType": "anonymous", "methods": ["GET"] }),
    );
    let mut stream = TcpStream::connect(&host.address).unwrap();
    let head = "GET /2016-08-15/proxy/demo/web/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let answer = read_answer(&mut reader);
    assert_eq!((answer.status, answer.header("upgrade")), (101, "echo"));
    for line in ["one\n", "two\n"] {
        stream.write_all(line.as_bytes()).unwrap();
        let mut back = String::new();
        reader.read_line(&mut back).unwrap();
        assert_eq!(back, line);
    }
}

#[test]
fn versions_stay_and_aliases_lead_to_them() {
    let host = Host::start();
    host.deploy(&json!({ "environmentVariables": { "WHICH": "first" } }));
    let service = "/2016-08-15/services/demo";
    let version = host
        .call(
            "POST",
            &format!("{service}/versions"),
            &json!({ "description": "one" }),
        )
        .ok();
    assert_eq!(version["versionId"], "1");
    let update = json!({ "environmentVariables": { "WHICH": "second" } });
    host.call("PUT", FUNCTION, &update).ok();
    let alias = json!({ "aliasName": "prod", "versionId": "1" });
    host.call("POST", &format!("{service}/aliases"), &alias)
        .ok();
    let which = |qualifier: &str| {
        let path = format!("/2016-08-15/services/demo{qualifier}/functions/web/invocations");
        let stream =
            std::os::unix::net::UnixStream::connect(host.thaw.root().join("functions.sock"));
        let answer = crate::support::exchange(stream.unwrap(), "POST", &path, &[], b"env");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let text = answer.text();
        let line = text.lines().find_map(|line| line.strip_prefix("WHICH="));
        line.unwrap().to_owned()
    };
    assert_eq!(
        (which(""), which(".LATEST")),
        ("second".to_owned(), "second".to_owned())
    );
    assert_eq!(
        (which(".1"), which(".prod")),
        ("first".to_owned(), "first".to_owned())
    );
    let refused = host.call("DELETE", &format!("{service}/versions/1"), &Value::Null);
    assert_eq!(refused.refused(409), "VersionInUse");
    host.call(
        "PUT",
        &format!("{service}/aliases/prod"),
        &json!({ "versionId": "LATEST" }),
    )
    .ok();
    assert_eq!(which(".prod"), "second");
    host.call("DELETE", &format!("{service}/versions/1"), &Value::Null);
}

#[test]
fn a_timer_fires() {
    let host = Host::start();
    host.deploy(&json!({}));
    let config =
        json!({ "cronExpression": "@every 1s", "enable": true, "payload": "print ticked" });
    trigger(&host, "tick", "timer", config);
    until("it has fired twice", || {
        logs(&host).matches("FC Invoke Start").count() >= 2
    });
    let tasks = host
        .call(
            "GET",
            &format!("{FUNCTION}/stateful-async-invocations"),
            &Value::Null,
        )
        .ok();
    assert!(tasks["invocations"].as_array().unwrap().len() >= 2);
    host.call("DELETE", &format!("{FUNCTION}/triggers/tick"), &Value::Null);
    let bad = json!({ "triggerName": "bad", "triggerType": "timer",
        "triggerConfig": { "cronExpression": "* * *", "enable": true } });
    let refused = host.call("POST", &format!("{FUNCTION}/triggers"), &bad);
    assert!(
        refused.text().contains("cronExpression"),
        "{}",
        refused.text()
    );
}

#[test]
fn object_events_reach_the_function_that_wants_them() {
    let host = Host::start();
    host.deploy(&json!({}));
    let config = json!({
        "events": ["oss:ObjectCreated:*"], "filter": { "key": { "prefix": "in/", "suffix": ".jpg" } },
    });
    let made = trigger(&host, "objects", "oss", config);
    let record = |key: &str| {
        json!({
            "eventName": "s3:ObjectCreated:Put", "eventTime": "2026-01-01T00:00:00Z",
            "s3": { "bucket": { "name": "photos" }, "object": { "key": key, "size": 5, "eTag": "e" } },
        })
    };
    let body = json!({ "Records": [record("in/a.jpg"), record("out/b.jpg"), record("in/c.png")] });
    let body = body.to_string().into_bytes();
    let path = "/events/demo/web/objects";
    assert_eq!(
        host.http("POST", path, &[], &body).refused(403),
        "AccessDenied"
    );
    let token = format!("Bearer {}", made["triggerId"].as_str().unwrap());
    let answer = host.http("POST", path, &[("Authorization", &token)], &body);
    assert_eq!(answer.ok()["accepted"], 1);
    until("the function has it", || {
        logs(&host).contains("FC Invoke End")
    });
}

#[test]
fn a_failed_event_is_tried_again_and_then_told() {
    let host = Host::start();
    host.deploy(&json!({}));
    host.deploy(&json!({ "functionName": "told" }));
    let config = json!({
        "maxAsyncRetryAttempts": 1, "statefulInvocation": true,
        "destinationConfig": { "onFailure": {
            "destination": "acs:fc:local:1:services/demo/functions/told" } },
    });
    host.call("PUT", &format!("{FUNCTION}/async-invoke-config"), &config)
        .ok();
    let headers = [
        ("X-Fc-Invocation-Type", "Async"),
        ("X-Fc-Stateful-Async-Invocation-Id", "mine"),
    ];
    let answer = host.invoke_with("fail", &headers);
    assert_eq!((answer.status, answer.text().as_str()), (202, ""));
    assert_eq!(
        answer.header("content-type"),
        "",
        "clients would read the empty body as JSON"
    );
    assert_eq!(
        host.invoke_with("fail", &headers).status,
        409,
        "an id is taken once"
    );
    let path = format!("{FUNCTION}/stateful-async-invocations/mine");
    let task = || host.call("GET", &path, &Value::Null).ok();
    until("it has failed", || task()["status"] == "Failed");
    assert_eq!(task()["alreadyRetriedTimes"], 2);
    let told = "/2016-08-15/services/demo/functions/told/stateful-async-invocations";
    until("the other function was told", || {
        let listed = host.call("GET", told, &Value::Null).ok();
        listed["invocations"][0]["status"] == "Succeeded"
    });
}
