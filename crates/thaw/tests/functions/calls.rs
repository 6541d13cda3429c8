//! Every call of the API in each of its versions: it works, or it is refused as
//! `docs/fc-compat.md` says.

use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use thaw_testkit::{clients, scratch};

use crate::support::{Answer, Host, exchange, until};

const DOCUMENT: &str = include_str!("../../../../docs/fc-compat.md");

/// A call of root's, with headers.
pub(crate) fn call_with(
    host: &Host,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: &Value,
) -> Answer {
    let stream = UnixStream::connect(host.thaw.root().join("functions.sock")).unwrap();
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    exchange(stream, method, path, headers, body.as_bytes())
}

/// Makes the calls, in order. Of one that is refused the code is the last column.
fn go_through(host: &Host, version: &str, calls: &[(&str, &str, Value, &str)]) {
    for (method, path, body, code) in calls {
        let path = format!("/{version}{path}");
        let answer = host.call(method, &path, body);
        let said = format!("{method} {path}: {} {}", answer.status, answer.text());
        if code.is_empty() {
            assert!(answer.status < 300, "{said}");
            let empty = *method == "DELETE" || answer.status == 204;
            assert_eq!(answer.body.is_empty(), empty, "{said}");
        } else {
            assert!((400..500).contains(&answer.status), "{said}");
            let error = answer.json();
            assert_eq!(error["Code"], *code, "{said}");
            for field in ["ErrorCode", "ErrorMessage", "Message", "RequestId"] {
                assert!(error[field].is_string(), "{said}");
            }
        }
        if *code == "PathNotSupported" {
            documented(&path);
        }
    }
}

/// That a path is not here is to be read in the documentation.
fn documented(path: &str) {
    let missing = DOCUMENT
        .lines()
        .find(|line| line.contains("| missing |"))
        .unwrap();
    let path = path.split('?').next().unwrap();
    let words = path.split('/').filter(|word| !word.is_empty());
    let named = |word: &str| missing.contains(&format!("/{word}`"));
    assert!(
        words.clone().any(named),
        "{path} has no row in fc-compat.md"
    );
}

fn function(host: &Host, name: &str) -> Value {
    json!({
        "functionName": name, "runtime": "custom-container", "handler": "none",
        "customContainerConfig": { "image": host.image, "accelerationType": "None" },
    })
}

fn http() -> Value {
    json!({ "authType": "anonymous", "methods": ["GET"] })
}

/// Those of 2016 and 2021, from nothing to nothing.
fn with_services(host: &Host, version: &str) {
    const F: &str = "/services/s/functions/f";
    let f = |rest: &'static str| -> &'static str { Box::leak(format!("{F}{rest}").into()) };
    let none = Value::Null;
    let trigger = json!({ "triggerName": "t", "triggerType": "http", "triggerConfig": http() });
    let domain = json!({ "domainName": "d.example", "protocol": "HTTP", "routeConfig": { "routes": [
        { "path": "/*", "serviceName": "s", "functionName": "f" },
    ] } });
    let arn = "acs:fc:local:1:services/s/functions/f";
    go_through(
        host,
        version,
        &[
            ("GET", "/services/s", none.clone(), "ServiceNotFound"),
            ("POST", "/services", json!({ "serviceName": "s" }), ""),
            (
                "POST",
                "/services",
                json!({ "serviceName": "s" }),
                "ServiceAlreadyExists",
            ),
            ("GET", "/services", none.clone(), ""),
            ("GET", "/services/s", none.clone(), ""),
            ("PUT", "/services/s", json!({ "description": "d" }), ""),
            ("GET", F, none.clone(), "FunctionNotFound"),
            ("POST", "/services/s/functions", function(host, "f"), ""),
            (
                "POST",
                "/services/s/functions",
                function(host, "f"),
                "FunctionAlreadyExists",
            ),
            ("GET", "/services/s/functions", none.clone(), ""),
            ("GET", F, none.clone(), ""),
            ("PUT", F, json!({ "timeout": 30 }), ""),
            ("GET", f("/code"), none.clone(), "InvalidArgument"),
            ("POST", f("/invocations"), json!("event"), ""),
            ("GET", f("/instances"), none.clone(), ""),
            ("POST", "/services/s/versions", json!({}), ""),
            ("GET", "/services/s/versions", none.clone(), ""),
            (
                "POST",
                "/services/s/aliases",
                json!({ "aliasName": "a", "versionId": "1" }),
                "",
            ),
            ("GET", "/services/s/aliases", none.clone(), ""),
            ("GET", "/services/s/aliases/a", none.clone(), ""),
            (
                "PUT",
                "/services/s/aliases/a",
                json!({ "versionId": "LATEST" }),
                "",
            ),
            (
                "GET",
                "/services/s/aliases/nix",
                none.clone(),
                "AliasNotFound",
            ),
            ("GET", "/services/s.a/functions/f", none.clone(), ""),
            ("GET", f("?qualifier=1"), none.clone(), ""),
            ("GET", f("?qualifier=9"), none.clone(), "VersionNotFound"),
            ("GET", f("/triggers/t"), none.clone(), "TriggerNotFound"),
            ("POST", f("/triggers"), trigger, ""),
            ("GET", f("/triggers"), none.clone(), ""),
            ("GET", f("/triggers/t"), none.clone(), ""),
            (
                "PUT",
                f("/triggers/t"),
                json!({ "triggerConfig": http() }),
                "",
            ),
            (
                "GET",
                "/custom-domains/d.example",
                none.clone(),
                "DomainNameNotFound",
            ),
            ("POST", "/custom-domains", domain, ""),
            ("GET", "/custom-domains", none.clone(), ""),
            ("GET", "/custom-domains/d.example", none.clone(), ""),
            (
                "PUT",
                "/custom-domains/d.example",
                json!({ "protocol": "HTTP" }),
                "",
            ),
            ("DELETE", "/custom-domains/d.example", none.clone(), ""),
            (
                "GET",
                f("/async-invoke-config"),
                none.clone(),
                "AsyncConfigNotExists",
            ),
            (
                "PUT",
                f("/async-invoke-config"),
                json!({ "statefulInvocation": true }),
                "",
            ),
            ("GET", f("/async-invoke-config"), none.clone(), ""),
            ("GET", f("/async-invoke-configs"), none.clone(), ""),
            (
                "GET",
                "/stateful-async-invocation-functions",
                none.clone(),
                "",
            ),
            ("DELETE", f("/async-invoke-config"), none.clone(), ""),
            ("GET", f("/stateful-async-invocations"), none.clone(), ""),
            (
                "GET",
                f("/stateful-async-invocations/x"),
                none.clone(),
                "StatefulAsyncInvocationNotFound",
            ),
            (
                "PUT",
                f("/stateful-async-invocations/x"),
                none.clone(),
                "StatefulAsyncInvocationNotFound",
            ),
            (
                "PUT",
                f("/on-demand-config"),
                json!({ "maximumInstanceCount": 3 }),
                "",
            ),
            ("GET", f("/on-demand-config"), none.clone(), ""),
            ("GET", "/on-demand-configs", none.clone(), ""),
            ("DELETE", f("/on-demand-config"), none.clone(), ""),
            ("PUT", f("/provision-config"), json!({ "target": 0 }), ""),
            ("GET", f("/provision-config"), none.clone(), ""),
            ("GET", "/provision-configs", none.clone(), ""),
            (
                "POST",
                "/tag",
                json!({ "resourceArn": arn, "tags": { "k": "v" } }),
                "",
            ),
            (
                "GET",
                "/tag?resourceArn=services/s/functions/f",
                none.clone(),
                "",
            ),
            ("GET", "/tags", none.clone(), ""),
            (
                "PUT",
                "/tag",
                json!({ "resourceArn": arn, "tagKeys": ["k"] }),
                "",
            ),
            (
                "PUT",
                "/tag",
                json!({ "resourceArn": arn, "all": true }),
                "",
            ),
            ("GET", "/account-settings", none.clone(), ""),
            ("GET", "/layers", none.clone(), "PathNotSupported"),
            (
                "GET",
                "/reserved-capacities",
                none.clone(),
                "PathNotSupported",
            ),
            (
                "POST",
                "/services/s/bindings",
                json!({}),
                "PathNotSupported",
            ),
            (
                "GET",
                f("/instances/i/exec"),
                none.clone(),
                "PathNotSupported",
            ),
            ("GET", f("/event-sources"), none.clone(), "PathNotSupported"),
            ("DELETE", F, none.clone(), "FunctionNotEmpty"),
            ("DELETE", f("/triggers/t"), none.clone(), ""),
            ("DELETE", F, none.clone(), ""),
            ("DELETE", "/services/s", none.clone(), "ServiceNotEmpty"),
            ("DELETE", "/services/s/aliases/a", none.clone(), ""),
            ("DELETE", "/services/s/versions/1", none.clone(), ""),
            ("DELETE", "/services/s", none.clone(), ""),
        ],
    );
}

/// Those of 2023.
fn without_services(host: &Host) {
    const F: &str = "/functions/f";
    let f = |rest: &'static str| -> &'static str { Box::leak(format!("{F}{rest}").into()) };
    let none = Value::Null;
    let config = http().to_string();
    let trigger = json!({ "triggerName": "t", "triggerType": "http", "triggerConfig": config });
    let domain = json!({ "domainName": "d.example", "protocol": "HTTP", "routeConfig": { "routes": [
        { "path": "/*", "functionName": "f" },
    ] } });
    let tag = json!({ "ResourceType": "function", "ResourceId": ["acs:fc:local:1:functions/f"],
        "Tag": [{ "Key": "k", "Value": "v" }] });
    go_through(
        host,
        "2023-03-30",
        &[
            ("POST", "/functions", function(host, "f"), ""),
            ("GET", "/functions", none.clone(), ""),
            ("GET", F, none.clone(), ""),
            ("PUT", F, json!({ "timeout": 30 }), ""),
            ("GET", f("/code"), none.clone(), "InvalidArgument"),
            ("POST", f("/invocations"), json!("event"), ""),
            (
                "POST",
                f("/invoke/disable"),
                json!({ "reason": "holiday" }),
                "",
            ),
            ("POST", f("/invocations"), json!("event"), "AccessDenied"),
            ("POST", f("/invoke/enable"), none.clone(), ""),
            ("POST", f("/invocations"), json!("event"), ""),
            ("GET", f("/instances"), none.clone(), ""),
            ("POST", f("/versions"), json!({}), ""),
            ("GET", f("/versions"), none.clone(), ""),
            (
                "POST",
                f("/aliases"),
                json!({ "aliasName": "a", "versionId": "1" }),
                "",
            ),
            ("GET", f("/aliases"), none.clone(), ""),
            ("GET", f("/aliases/a"), none.clone(), ""),
            ("PUT", f("/aliases/a"), json!({ "description": "d" }), ""),
            ("GET", f("?qualifier=a"), none.clone(), ""),
            ("POST", f("/triggers"), trigger, ""),
            ("GET", f("/triggers"), none.clone(), ""),
            ("GET", f("/triggers/t"), none.clone(), ""),
            (
                "PUT",
                f("/triggers/t"),
                json!({ "triggerConfig": config }),
                "",
            ),
            ("POST", "/custom-domains", domain, ""),
            ("GET", "/custom-domains", none.clone(), ""),
            ("GET", "/custom-domains/d.example", none.clone(), ""),
            (
                "PUT",
                "/custom-domains/d.example",
                json!({ "protocol": "HTTP" }),
                "",
            ),
            ("DELETE", "/custom-domains/d.example", none.clone(), ""),
            (
                "PUT",
                f("/async-invoke-config"),
                json!({ "asyncTask": true }),
                "",
            ),
            ("GET", f("/async-invoke-config"), none.clone(), ""),
            ("GET", "/async-invoke-configs", none.clone(), ""),
            ("DELETE", f("/async-invoke-config"), none.clone(), ""),
            ("GET", f("/async-tasks"), none.clone(), ""),
            (
                "GET",
                f("/async-tasks/x"),
                none.clone(),
                "StatefulAsyncInvocationNotFound",
            ),
            (
                "PUT",
                f("/async-tasks/x/stop"),
                none.clone(),
                "StatefulAsyncInvocationNotFound",
            ),
            (
                "PUT",
                f("/concurrency"),
                json!({ "reservedConcurrency": 3 }),
                "",
            ),
            ("GET", f("/concurrency"), none.clone(), ""),
            ("GET", "/concurrency-configs", none.clone(), ""),
            ("DELETE", f("/concurrency"), none.clone(), ""),
            (
                "PUT",
                f("/provision-config"),
                json!({ "defaultTarget": 0 }),
                "",
            ),
            ("GET", f("/provision-config"), none.clone(), ""),
            ("GET", "/provision-configs", none.clone(), ""),
            ("DELETE", f("/provision-config"), none.clone(), ""),
            (
                "PUT",
                f("/scaling-config"),
                json!({ "minInstances": 0 }),
                "",
            ),
            ("GET", f("/scaling-config"), none.clone(), ""),
            ("GET", "/scaling-configs", none.clone(), ""),
            ("DELETE", f("/scaling-config"), none.clone(), ""),
            ("POST", "/tags-v2", tag, ""),
            (
                "GET",
                "/tags-v2?ResourceType=function&ResourceId=%5B%22functions/f%22%5D",
                none.clone(),
                "",
            ),
            (
                "DELETE",
                "/tags-v2?ResourceId=%5B%22functions/f%22%5D&TagKey=%5B%22k%22%5D",
                none.clone(),
                "",
            ),
            ("GET", "/layers", none.clone(), "PathNotSupported"),
            ("GET", "/regions", none.clone(), "PathNotSupported"),
            ("POST", f("/sessions"), json!({}), "PathNotSupported"),
            ("POST", f("/snapshots"), json!({}), "PathNotSupported"),
            ("GET", f("/vpc-bindings"), none.clone(), "PathNotSupported"),
            ("DELETE", F, none.clone(), "FunctionNotEmpty"),
            ("DELETE", f("/triggers/t"), none.clone(), ""),
            ("DELETE", f("/aliases/a"), none.clone(), ""),
            ("DELETE", f("/versions/1"), none.clone(), ""),
            ("DELETE", F, none.clone(), ""),
        ],
    );
}

#[test]
fn every_call_works_or_is_refused_as_it_is_documented() {
    let host = Host::start();
    with_services(&host, "2016-08-15");
    with_services(&host, "2021-04-06");
    without_services(&host);
}

/// Methods and paths in the source of a client, with `x` for what is named.
fn calls_of(source: &str) -> Vec<(String, String)> {
    let quoted = |text: &str| {
        let (_, text) = text.split_once('\'').unwrap();
        text.split_once('\'').unwrap().0.to_owned()
    };
    let parts = source.split("pathname").skip(1);
    let with_method = parts.filter(|part| part.contains("method"));
    let calls = with_method.map(|part| {
        let path = quoted(part);
        let path = path
            .split('{')
            .map(|it| it.split_once('}').map_or(it, |(_, rest)| rest));
        let path = path.collect::<Vec<_>>().join("x");
        (quoted(part.split_once("method").unwrap().1), path)
    });
    calls.filter(|(_, path)| path.starts_with("/20")).collect()
}

#[test]
fn what_clients_can_ask_is_there_or_documented_as_missing() {
    let host = Host::start();
    let modules = clients::python(&scratch::target_directory().join("clients")).unwrap();
    for (module, most) in [
        ("alibabacloud_fc_open20210406", 60),
        ("alibabacloud_fc20230330", 70),
    ] {
        let source = std::fs::read_to_string(modules.join(module).join("client.py")).unwrap();
        let calls = calls_of(&source);
        assert!(calls.len() >= most, "{module}: {}", calls.len());
        for (method, path) in calls {
            let answer = host.call(&method, &path, &Value::Null);
            assert!(answer.status < 500, "{method} {path}: {}", answer.text());
            if answer.text().contains("PathNotSupported") {
                documented(&path);
            }
        }
    }
}

const FUNCTION: &str = "/2016-08-15/services/demo/functions/web";

#[test]
fn instances_tags_and_lists_say_what_there_is() {
    let host = Host::start();
    host.deploy(&json!({}));
    host.deploy(&json!({ "functionName": "other" }));
    let get = |path: &str| host.call("GET", path, &Value::Null).ok();
    assert_eq!(
        get(&format!("{FUNCTION}/instances"))["instances"],
        json!([])
    );
    host.invoke("x");
    let listed = get(&format!("{FUNCTION}/instances"));
    assert_eq!(listed["instances"].as_array().unwrap().len(), 1);
    assert_eq!(listed["instances"][0]["instanceId"], host.states()[0]["id"]);
    assert_eq!(listed["instances"][0]["versionId"], "LATEST");

    let put = |path: &str, body: Value| host.call("PUT", path, &body).ok();
    put(
        &format!("{FUNCTION}/on-demand-config"),
        json!({ "maximumInstanceCount": 7 }),
    );
    let bounds = json!([{ "resource": "1#demo#LATEST#web", "maximumInstanceCount": 7,
        "functionArn": "acs:fc:local:1:functions/demo$web" }]);
    assert_eq!(get("/2016-08-15/on-demand-configs")["configs"], bounds);
    assert_eq!(
        get("/2016-08-15/on-demand-configs?serviceName=nix")["configs"],
        json!([])
    );
    let flat = get("/2023-03-30/concurrency-configs?functionName=demo$web");
    assert_eq!(flat["configs"][0]["reservedConcurrency"], 7);
    put(
        &format!("{FUNCTION}/provision-config"),
        json!({ "target": 1 }),
    );
    let kept = &get("/2021-04-06/provision-configs")["provisionConfigs"];
    assert_eq!(
        (kept.as_array().unwrap().len(), &kept[0]["target"]),
        (1, &json!(1))
    );
    put(
        &format!("{FUNCTION}/async-invoke-config"),
        json!({ "statefulInvocation": true }),
    );
    assert_eq!(
        get(&format!("{FUNCTION}/async-invoke-configs"))["configs"][0]["function"],
        "web"
    );
    let other = "/2016-08-15/services/demo/functions/other/async-invoke-configs";
    assert_eq!(get(other)["configs"], json!([]));
    let stateful = get("/2021-04-06/stateful-async-invocation-functions");
    assert_eq!(stateful["data"][0]["functionName"], "web");

    let arn = "acs:fc:local:1:services/demo/functions/web";
    let tag = |tags: Value| {
        let body = json!({ "resourceArn": arn, "tags": tags });
        host.call("POST", "/2016-08-15/tag", &body)
    };
    tag(json!({ "team": "a", "stage": "test" })).ok();
    let shown = || get(&format!("/2016-08-15/tag?resourceArn={arn}"))["tags"].clone();
    assert_eq!(shown(), json!({ "team": "a", "stage": "test" }));
    let flat = get("/2023-03-30/functions/demo$web")["tags"].clone();
    let wanted = json!([{ "Key": "stage", "Value": "test" }, { "Key": "team", "Value": "a" }]);
    assert_eq!(flat, wanted);
    let filter =
        "/2023-03-30/tags-v2?Tag=%5B%7B%22Key%22:%22team%22,%22Value%22:%22a%22%7D%5D&Limit=1";
    let found = get(filter);
    assert_eq!(found["TagResources"][0]["TagKey"], "stage");
    assert!(found["NextToken"].is_string(), "{found}");
    let many: serde_json::Map<_, _> = (0..21).map(|i| (format!("k{i}"), json!("v"))).collect();
    assert_eq!(tag(Value::Object(many)).refused(400), "InvalidArgument");
    let body = json!({ "resourceArn": arn, "tagKeys": ["stage"] });
    host.call("DELETE", "/2016-08-15/tag", &body);
    assert_eq!(shown(), json!({ "team": "a" }));
    host.call("DELETE", FUNCTION, &Value::Null);
    host.deploy(&json!({}));
    assert_eq!(shown(), json!({}), "they go with the function");
}

#[test]
fn a_function_that_is_disabled_is_not_invoked_by_anybody() {
    let host = Host::start();
    host.deploy(&json!({}));
    let trigger = json!({ "triggerName": "t", "triggerType": "http", "triggerConfig": http() });
    host.call("POST", &format!("{FUNCTION}/triggers"), &trigger)
        .ok();
    let path = "/2016-08-15/proxy/demo/web/";
    assert_eq!(host.http("GET", path, &[], b"").status, 200);
    let flat = "/2023-03-30/functions/demo$web";
    let switch = |to: &str| {
        let body = json!({ "reason": "on holiday" });
        host.call("POST", &format!("{flat}/invoke/{to}"), &body)
            .ok()
    };
    switch("disable");
    let refused = host.invoke("x");
    assert_eq!(refused.refused(403), "AccessDenied");
    assert!(refused.text().contains("on holiday"), "{}", refused.text());
    assert_eq!(
        host.http("GET", path, &[], b"").refused(403),
        "AccessDenied"
    );
    let shown = host.call("GET", flat, &Value::Null).ok();
    assert_eq!(shown["invocationRestriction"]["reason"], "on holiday");
    switch("enable");
    assert_eq!(host.invoke("x").text(), "x");
}

#[test]
fn an_invocation_that_waits_or_runs_is_stopped() {
    let mut host = Host::start();
    host.deploy(&json!({}));
    let queued = |event: &str, id: &str| {
        let headers = [
            ("X-Fc-Invocation-Type", "Async"),
            ("X-Fc-Stateful-Async-Invocation-Id", id),
        ];
        assert_eq!(host.invoke_with(event, &headers).status, 202);
    };
    let tasks = format!("{FUNCTION}/stateful-async-invocations");
    let status = |host: &Host, id: &str| {
        let task = host.call("GET", &format!("{tasks}/{id}"), &Value::Null);
        task.ok()["status"].as_str().unwrap().to_owned()
    };
    queued("sleep 25000", "runs");
    until("it runs", || status(&host, "runs") == "Running");
    until("an instance has it", || {
        let printed = host.call("GET", "/thaw/logs?name=demo/web", &Value::Null);
        printed.text().contains("FC Invoke Start")
    });
    let before = host.containers();
    let stop = format!("{tasks}/runs");
    assert_eq!(host.call("PUT", &stop, &Value::Null).status, 204);
    until("it is stopped", || status(&host, "runs") == "Stopped");
    until("its instance is given up", || {
        !host.containers().iter().any(|name| before.contains(name))
    });
    assert_eq!(host.invoke("another").text(), "another");
    // Between two tries it waits.
    queued("fail", "waits");
    until("it waits", || status(&host, "waits") == "Retrying");
    let flat = "/2023-03-30/functions/demo$web/async-tasks/waits/stop";
    assert_eq!(host.call("PUT", flat, &Value::Null).status, 204);
    assert_eq!(status(&host, "waits"), "Stopped");
    host.kill();
    host.begin(&[]);
    assert_eq!(
        (status(&host, "runs"), status(&host, "waits")),
        ("Stopped".into(), "Stopped".into())
    );
}
