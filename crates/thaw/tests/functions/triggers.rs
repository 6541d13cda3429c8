//! What invokes functions: HTTP, domains, timers, object events, the queue; versions and aliases.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::{Host, exchange, read_answer, until};

const FUNCTION: &str = "/2016-08-15/services/demo/functions/web";

fn trigger(host: &Host, name: &str, kind: &str, config: Value) -> Value {
    let body = json!({ "triggerName": name, "triggerType": kind, "triggerConfig": config });
    host.call("POST", &format!("{FUNCTION}/triggers"), &body)
        .ok()
}

/// What the function has printed so far.
fn logs(host: &Host) -> String {
    logs_of(host, "web")
}

fn logs_of(host: &Host, function: &str) -> String {
    let path = format!("/thaw/logs?name=demo/{function}&lines=1000");
    host.call("GET", &path, &Value::Null).text()
}

/// Has a function print the events that it gets.
fn printing() -> Value {
    json!({ "environmentVariables": { "PRINT_EVENTS": "1" } })
}

/// Events that a function has printed, each with the id of its request.
fn events(host: &Host, function: &str) -> Vec<(String, Value)> {
    let logs = logs_of(host, function);
    let mut id = String::new();
    let mut found = Vec::new();
    for line in logs.lines() {
        if let Some((_, begun)) = line.split_once("FC Invoke Start RequestId: ") {
            begun.clone_into(&mut id);
        } else if let Some(at) = line.find('{')
            && let Ok(event) = serde_json::from_str(&line[at..])
        {
            found.push((id.clone(), event));
        }
    }
    found
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
    // Not from root, who asks the host.
    let socket = UnixStream::connect(host.thaw.root().join("functions.sock")).unwrap();
    let services = exchange(socket, "GET", "/2016-08-15/services", &mine, b"").ok();
    assert_eq!(services["services"][0]["serviceName"], "demo");
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
fn versions_of_one_configuration_share_instances_as_long_as_there_is_one() {
    let host = Host::start();
    host.deploy(&json!({}));
    let versions = "/2016-08-15/services/demo/versions";
    host.call("POST", versions, &json!({})).ok();
    let instance = |qualifier: &str| {
        let path = format!("/2016-08-15/services/demo{qualifier}/functions/web/invocations");
        let stream =
            std::os::unix::net::UnixStream::connect(host.thaw.root().join("functions.sock"));
        crate::support::exchange(stream.unwrap(), "POST", &path, &[], b"pid").text()
    };
    let first = instance("");
    assert_eq!(instance(".1"), first);
    let update = json!({ "environmentVariables": { "WHICH": "second" } });
    host.call("PUT", FUNCTION, &update).ok();
    assert_ne!(instance(""), first);
    assert_eq!(instance(".1"), first, "the version leads there yet");
    host.call("DELETE", &format!("{versions}/1"), &Value::Null);
    until("nothing leads there any more", || {
        host.containers().len() == 1
    });
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

/// Of the ticks that nobody was there for, the last one is made up for, once.
#[test]
fn a_tick_that_was_missed_is_made_up_for_once() {
    let mut host = Host::start();
    host.deploy(&json!({}));
    // One tick in a minute, a few seconds from now: there is no other one in this test.
    let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
    let second = (now + 6) % 60;
    let cron = format!("{second} * * * * *");
    let config = json!({ "cronExpression": cron, "enable": true, "payload": "x" });
    trigger(&host, "tick", "timer", config);
    let tasks = format!("{FUNCTION}/stateful-async-invocations");
    let fired = |host: &Host| {
        let listed = host.call("GET", &tasks, &Value::Null).ok();
        listed["invocations"].as_array().unwrap().len()
    };
    assert_eq!(fired(&host), 0);
    host.kill();
    std::thread::sleep(Duration::from_secs(8));
    host.begin(&[]);
    until("it is made up for", || fired(&host) == 1);
    host.kill();
    host.begin(&[]);
    assert_eq!(host.invoke("x").text(), "x");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(fired(&host), 1, "once");
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

#[test]
fn stores_of_all_kinds_are_understood() {
    let host = Host::start();
    host.deploy(&printing());
    let config = json!({
        "events": ["oss:ObjectCreated:*", "oss:ObjectRemoved:DeleteObject"],
        "filter": { "key": { "prefix": "in/", "suffix": ".jpg" } },
    });
    let made = trigger(&host, "objects", "oss", config);
    let path = format!(
        "/events/demo/web/objects?token={}",
        made["triggerId"].as_str().unwrap()
    );
    let notify = |headers: &[(&str, &str)], body: &Value| {
        let answer = host.http("POST", &path, headers, body.to_string().as_bytes());
        answer.ok()["accepted"].as_u64().unwrap()
    };
    let minio = json!({ "EventName": "s3:ObjectCreated:Put", "Key": "photos/in/a.jpg", "Records": [{
        "eventVersion": "2.0", "eventSource": "minio:s3", "awsRegion": "here",
        "eventTime": "2026-01-01T00:00:00.000Z", "eventName": "s3:ObjectCreated:Put",
        "userIdentity": { "principalId": "alice" },
        "requestParameters": { "sourceIPAddress": "192.0.2.7" },
        "responseElements": { "x-amz-request-id": "17F0" },
        "s3": {
            "bucket": { "name": "photos", "ownerIdentity": { "principalId": "owner" } },
            "object": { "key": "in/a%2Bb+c.jpg", "size": 5, "eTag": "5d41" },
        },
    }] });
    assert_eq!(notify(&[("Content-Type", "application/json")], &minio), 1);
    let structured = json!({
        "specversion": "1.0", "type": "org.example.object.created", "source": "store", "id": "ce-1",
        "time": "2026-01-02T00:00:00Z", "subject": "in/b.jpg",
        "data": { "bucket": "photos", "size": 6 },
    });
    let kind = [(
        "Content-Type",
        "application/cloudevents+json; charset=utf-8",
    )];
    assert_eq!(notify(&kind, &structured), 1);
    let binary = |subject: &'static str, kind: &'static str| {
        [
            ("ce-specversion", "1.0"),
            ("ce-id", "ce-2"),
            ("ce-source", "store"),
            ("ce-type", kind),
            ("ce-time", "2026-01-03T00:00:00Z"),
            ("ce-subject", subject),
        ]
    };
    let deleted = binary("in/%E7%8C%AB.jpg", "org.example.ObjectRemoved:Delete");
    assert_eq!(
        notify(&deleted, &json!({ "bucket": "photos", "id": "the data's" })),
        1
    );
    for (subject, kind) in [
        ("out/b.jpg", "org.example.object.created"),
        ("in/b.png", "org.example.object.created"),
        ("in/b.jpg", "org.example.ObjectRemoved:DeleteMarkerCreated"),
    ] {
        assert_eq!(
            notify(&binary(subject, kind), &json!({})),
            0,
            "{subject} {kind}"
        );
    }
    until("all have arrived", || events(&host, "web").len() == 3);
    let mut all: Vec<Value> = events(&host, "web").into_iter().map(|it| it.1).collect();
    all.sort_by_key(|it| it["events"][0]["eventTime"].to_string());
    let wanted = json!({ "events": [{
        "eventName": "ObjectCreated:PutObject", "eventSource": "acs:oss",
        "eventTime": "2026-01-01T00:00:00.000Z", "eventVersion": "1.0",
        "oss": {
            "bucket": { "arn": "acs:oss:here::photos", "name": "photos", "ownerIdentity": "owner" },
            "object": { "deltaSize": 5, "eTag": "5d41", "key": "in/a+b c.jpg", "size": 5 },
            "ossSchemaVersion": "1.0", "ruleId": "objects",
        },
        "region": "here",
        "requestParameters": { "sourceIPAddress": "192.0.2.7" },
        "responseElements": { "requestId": "17F0" },
        "userIdentity": { "principalId": "alice" },
    }] });
    assert_eq!(all[0], wanted);
    let fields = |event: &Value| {
        let event = &event["events"][0];
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        [
            text(&event["eventName"]),
            text(&event["oss"]["object"]["key"]),
            text(&event["oss"]["bucket"]["name"]),
            text(&event["responseElements"]["requestId"]),
        ]
    };
    assert_eq!(
        fields(&all[1]),
        ["ObjectCreated:PutObject", "in/b.jpg", "photos", "ce-1"]
    );
    assert_eq!(
        fields(&all[2]),
        ["ObjectRemoved:DeleteObject", "in/猫.jpg", "photos", "ce-2"]
    );
    for body in ["", "x", "{}", "[]"] {
        let answer = host.http("POST", &path, &[], body.as_bytes());
        assert_eq!(answer.refused(400), "InvalidArgument", "{body:?}");
    }
}

#[test]
fn a_tick_is_one_event_whatever_becomes_of_the_host() {
    let mut host = Host::start();
    host.deploy(&printing());
    for (expression, good) in [
        ("CRON_TZ=Asia/Shanghai 0 0 4 * * *", true),
        ("CRON_TZ=Nowhere/Land 0 0 4 * * *", false),
        ("0 4 * * *", false),
        ("@every 0s", false),
    ] {
        let body = json!({ "triggerName": "other", "triggerType": "timer",
            "triggerConfig": { "cronExpression": expression } });
        let answer = host.call("POST", &format!("{FUNCTION}/triggers"), &body);
        assert_eq!(
            answer.status == 200,
            good,
            "{expression}: {}",
            answer.text()
        );
    }
    let config = json!({ "cronExpression": "@every 1s", "enable": true, "payload": "a \"b\"" });
    trigger(&host, "tick", "timer", config);
    until("it ticks", || events(&host, "web").len() >= 2);
    let mut all = events(&host, "web");
    host.kill();
    host.begin(&[]);
    let before = all.len();
    until("it goes on", || {
        all.extend(events(&host, "web"));
        all.len() >= before + 2
    });
    let mut ids = std::collections::BTreeMap::new();
    for (id, event) in all {
        assert_eq!(
            (&event["triggerName"], &event["payload"]),
            (&json!("tick"), &json!("a \"b\""))
        );
        let tick = event["triggerTime"].as_str().unwrap().to_owned();
        assert!(tick.len() == 20 && tick.ends_with('Z'), "{tick}");
        // A host that is killed may leave an event that is handed over twice: the same one.
        let first = ids.entry(tick).or_insert_with(|| id.clone());
        assert_eq!(*first, id, "one event for each tick");
    }
}

#[test]
fn destinations_are_told_what_came_of_an_event() {
    let host = Host::start();
    host.deploy(&json!({}));
    for name in ["good", "bad"] {
        let mut told = printing();
        told["functionName"] = json!(name);
        host.deploy(&told);
    }
    let to = |name: &str| json!({ "destination": format!("acs:fc:local:1:services/demo/functions/{name}") });
    let config = json!({
        "maxAsyncRetryAttempts": 0, "maxAsyncEventAgeInSeconds": 60,
        "destinationConfig": { "onSuccess": to("good"), "onFailure": to("bad") },
    });
    let config_path = format!("{FUNCTION}/async-invoke-config");
    host.call("PUT", &config_path, &config).ok();
    let mail =
        json!({ "destinationConfig": { "onSuccess": { "destination": "acs:mns:::queues/x" } } });
    let refused = host.call("PUT", &config_path, &mail);
    assert!(refused.refused(400) == "InvalidArgument" && refused.text().contains("destination"));
    for (id, event) in [("went-well", "hello"), ("did-not", "fail")] {
        let headers = [
            ("X-Fc-Invocation-Type", "Async"),
            ("X-Fc-Stateful-Async-Invocation-Id", id),
        ];
        assert_eq!(host.invoke_with(event, &headers).status, 202);
    }
    until("both were told", || {
        events(&host, "good").len() == 1 && events(&host, "bad").len() == 1
    });
    let task = |id: &str| {
        let path = format!("{FUNCTION}/stateful-async-invocations/{id}");
        host.call("GET", &path, &Value::Null).ok()
    };
    let (good, bad) = (&events(&host, "good")[0].1, &events(&host, "bad")[0].1);
    for (told, id, condition, sent, answer) in [
        (good, "went-well", "", "hello", "hello"),
        (
            bad,
            "did-not",
            "RetriesExhausted",
            "fail",
            "{\"errorMessage\":\"failed as told\"}",
        ),
    ] {
        assert_eq!(told["requestContext"]["condition"], condition);
        assert_eq!(told["requestContext"]["requestId"], task(id)["requestId"]);
        assert_eq!(told["requestContext"]["approximateInvokeCount"], 1);
        assert_eq!(
            (&told["requestPayload"], &told["responsePayload"]),
            (&json!(sent), &json!(answer))
        );
    }
    assert_eq!(good["responseContext"]["functionError"], "");
    assert_eq!(
        bad["responseContext"]["functionError"],
        "UnhandledInvocationError"
    );
    assert_eq!(task("went-well")["status"], "Succeeded");
    assert_eq!(
        task("did-not")["invocationErrorMessage"],
        "{\"errorMessage\":\"failed as told\"}"
    );
}
