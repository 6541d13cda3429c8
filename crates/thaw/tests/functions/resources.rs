//! What holds for every resource of the API: `ETag`, pages of lists, names, and fields that do nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::calls::call_with;
use crate::support::{Answer, Host, until};

const SERVICE: &str = "/2016-08-15/services/demo";
const FUNCTION: &str = "/2016-08-15/services/demo/functions/web";

fn http() -> Value {
    json!({ "triggerName": "t", "triggerType": "http",
        "triggerConfig": { "authType": "anonymous", "methods": ["GET"] } })
}

fn domain() -> Value {
    json!({ "domainName": "d.example", "protocol": "HTTP", "routeConfig": { "routes": [
        { "path": "/*", "serviceName": "demo", "functionName": "web" },
    ] } })
}

#[test]
fn a_resource_is_changed_and_deleted_only_as_the_caller_knows_it() {
    let host = Host::start();
    host.deploy(&json!({}));
    host.call("POST", &format!("{FUNCTION}/triggers"), &http())
        .ok();
    host.call("POST", "/2016-08-15/custom-domains", &domain())
        .ok();
    host.call("POST", &format!("{SERVICE}/versions"), &json!({}))
        .ok();
    let alias = json!({ "aliasName": "a", "versionId": "1" });
    host.call("POST", &format!("{SERVICE}/aliases"), &alias)
        .ok();
    let change = json!({ "description": "changed" });
    let resources = [
        (format!("{FUNCTION}/triggers/t"), change.clone()),
        (
            "/2016-08-15/custom-domains/d.example".to_owned(),
            json!({ "protocol": "HTTP,HTTPS" }),
        ),
        (format!("{SERVICE}/aliases/a"), change.clone()),
        (FUNCTION.to_owned(), change.clone()),
        (SERVICE.to_owned(), change),
    ];
    for (path, change) in &resources {
        let get = |headers: &[(&str, &str)], path: &str| {
            let answer = call_with(&host, ("GET", path), headers, &Value::Null);
            answer.header("etag").to_owned()
        };
        let first = get(&[], path);
        assert!(!first.is_empty(), "{path}");
        let elsewhere = path.replace("2016-08-15", "2021-04-06");
        let named = [("Host", "other.example")];
        assert_eq!(
            get(&named, &elsewhere),
            first,
            "{path}: wherever it is asked for"
        );
        let put = |tag: &str| call_with(&host, ("PUT", path), &[("If-Match", tag)], change);
        let kept = |answer: &Answer| {
            assert_eq!(answer.refused(412), "PreconditionFailed", "{path}");
        };
        kept(&put("another"));
        assert_eq!(get(&[], path), first, "{path}: nothing has changed");
        let answer = put(&format!("\"other\", \"{first}\""));
        let second = answer.header("etag").to_owned();
        assert_eq!(
            (answer.status, second == first),
            (200, false),
            "{path}: {}",
            answer.text()
        );
        assert_eq!(get(&[], path), second, "{path}");
        kept(&put(&first));
        put("*").ok();
    }
    host.call("DELETE", &format!("{SERVICE}/versions/1"), &Value::Null)
        .refused(409);
    for (path, _) in &resources {
        if path == SERVICE {
            host.call("DELETE", &format!("{SERVICE}/versions/1"), &Value::Null);
        }
        let delete =
            |tag: &str| call_with(&host, ("DELETE", path), &[("If-Match", tag)], &Value::Null);
        let tag = host
            .call("GET", path, &Value::Null)
            .header("etag")
            .to_owned();
        assert_eq!(
            delete("another").refused(412),
            "PreconditionFailed",
            "{path}"
        );
        assert_eq!(
            host.call("GET", path, &Value::Null).status,
            200,
            "{path} is there"
        );
        assert_eq!(delete(&tag).status, 204, "{path}");
        assert_eq!(
            host.call("GET", path, &Value::Null).status,
            404,
            "{path} is gone"
        );
    }
}

/// Names of the items under `field`, and the token.
fn page(host: &Host, path: &str, field: &str, name: &str) -> (Vec<String>, String) {
    let listed = host.call("GET", path, &Value::Null).ok();
    let items = listed[field].as_array().unwrap().iter();
    let names = items.map(|it| it[name].as_str().unwrap().to_owned());
    (
        names.collect(),
        listed["nextToken"].as_str().unwrap_or_default().to_owned(),
    )
}

#[test]
fn lists_come_in_pages_that_stay_in_order() {
    let host = Host::start();
    let services = "/2016-08-15/services";
    for name in ["pb", "pa", "q", "pd", "pc"] {
        host.call("POST", services, &json!({ "serviceName": name }))
            .ok();
    }
    let list = |query: &str| {
        page(
            &host,
            &format!("{services}?{query}"),
            "services",
            "serviceName",
        )
    };
    let names = |names: &[&str], token: &str| {
        (
            names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>(),
            token.to_owned(),
        )
    };
    for limit in ["0", "101", "-1", "x", "1.5"] {
        let answer = host.call("GET", &format!("{services}?limit={limit}"), &Value::Null);
        assert_eq!(answer.refused(400), "InvalidArgument", "{limit}");
        assert!(
            answer.text().contains("limit has to be"),
            "{}",
            answer.text()
        );
    }
    assert_eq!(list("limit=100"), names(&["pa", "pb", "pc", "pd", "q"], ""));
    assert_eq!(list("limit=2&prefix=p"), names(&["pa", "pb"], "pc"));
    assert_eq!(
        list("prefix=p&limit=4"),
        names(&["pa", "pb", "pc", "pd"], "")
    );
    assert_eq!(list("prefix=pb&startKey=pa"), names(&["pb"], ""));
    assert_eq!(list("prefix=nix"), names(&[], ""));
    assert_eq!(
        list("startKey=pc"),
        names(&["pc", "pd", "q"], ""),
        "it is one of them"
    );
    assert_eq!(list("startKey=z"), names(&[], ""));
    host.call("DELETE", &format!("{services}/pc"), &Value::Null);
    assert_eq!(
        list("limit=2&prefix=p&nextToken=pc"),
        names(&["pd"], ""),
        "it goes on behind"
    );

    host.deploy(&json!({}));
    let versions = format!("{SERVICE}/versions");
    for _ in 0..3 {
        host.call("POST", &versions, &json!({})).ok();
    }
    let list = |query: &str| {
        page(
            &host,
            &format!("{versions}?{query}"),
            "versions",
            "versionId",
        )
    };
    assert_eq!(list("limit=2"), names(&["3", "2"], "1"));
    assert_eq!(list("direction=FORWARD&limit=2"), names(&["1", "2"], "3"));
    host.call("DELETE", &format!("{versions}/2"), &Value::Null);
    assert_eq!(list("nextToken=2"), names(&["1"], ""));
    assert_eq!(list("direction=FORWARD&startKey=2"), names(&["3"], ""));
    for wrong in ["limit=0", "limit=101", "nextToken=x"] {
        let answer = host.call("GET", &format!("{versions}?{wrong}"), &Value::Null);
        assert_eq!(answer.refused(400), "InvalidArgument", "{wrong}");
    }
}

#[test]
fn invocations_are_listed_by_page_state_and_name() {
    let host = Host::start();
    host.deploy(&json!({}));
    let none = json!({ "maxAsyncRetryAttempts": 0 });
    host.call("PUT", &format!("{FUNCTION}/async-invoke-config"), &none)
        .ok();
    let tasks = format!("{FUNCTION}/stateful-async-invocations");
    let list = |query: &str| {
        page(
            &host,
            &format!("{tasks}?{query}"),
            "invocations",
            "invocationId",
        )
    };
    for (id, event) in [("a1", "x"), ("a2", "fail"), ("b1", "x"), ("b2", "x")] {
        let headers = [
            ("X-Fc-Invocation-Type", "Async"),
            ("X-Fc-Stateful-Async-Invocation-Id", id),
        ];
        assert_eq!(host.invoke_with(event, &headers).status, 202);
    }
    until("all are over", || {
        list("status=Succeeded").0.len() == 3 && list("status=Failed").0 == ["a2"]
    });
    assert_eq!(list("").0, ["b2", "b1", "a2", "a1"], "the newest first");
    let (first, token) = list("limit=3");
    assert_eq!(first, ["b2", "b1", "a2"]);
    assert_eq!(
        list(&format!("limit=3&nextToken={token}")),
        (vec!["a1".to_owned()], String::new())
    );
    let (first, token) = list("limit=2&sortOrderByTime=asc&status=Succeeded");
    assert_eq!(first, ["a1", "b1"]);
    let rest = list(&format!(
        "sortOrderByTime=asc&status=Succeeded&nextToken={token}"
    ));
    assert_eq!(rest.0, ["b2"]);
    assert_eq!(list("invocationIdPrefix=a").0, ["a2", "a1"]);
    assert_eq!(list("qualifier=7").0, [""; 0]);
    assert_eq!(list("startedTimeBegin=99999999999999").0, [""; 0]);
    for wrong in ["limit=0", "nextToken=x", "startedTimeEnd=soon"] {
        let answer = host.call("GET", &format!("{tasks}?{wrong}"), &Value::Null);
        assert_eq!(answer.refused(400), "InvalidArgument", "{wrong}");
    }
}

/// Everything below a directory but sockets' comings and goings: names only.
fn tree(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(tree(&path));
        }
        found.insert(path.display().to_string());
    }
    found
}

#[test]
fn names_that_play_tricks_are_refused() {
    let host = Host::start();
    host.deploy(&json!({}));
    host.call("POST", &format!("{SERVICE}/versions"), &json!({}))
        .ok();
    let root = host.thaw.root().to_owned();
    let before = tree(root.parent().unwrap());
    let long = "a".repeat(300);
    let tricks = [
        "",
        ".",
        "..",
        "../x",
        "../../etc/x",
        "a/b",
        "/x",
        "a\\b",
        "a\u{0}b",
        "%2e%2e",
        "%2f",
        "a b",
        "a.b",
        "-a",
        "9a",
        "a$b",
        "é",
        "猫",
        "\u{202e}x",
        "a\nb",
        "'",
        "<b>",
        &long,
    ];
    let flat = "/2023-03-30/functions";
    for name in tricks {
        let function = json!({
            "functionName": name, "runtime": "custom-container",
            "customContainerConfig": { "image": host.image, "accelerationType": "None" },
        });
        let mut trigger = http();
        trigger["triggerName"] = json!(name);
        let alias = json!({ "aliasName": name, "versionId": "1" });
        for (path, body, field) in [
            (
                "/2016-08-15/services",
                json!({ "serviceName": name }),
                "serviceName",
            ),
            (
                &format!("{SERVICE}/functions"),
                function.clone(),
                "functionName",
            ),
            (flat, function, "functionName"),
            (&format!("{FUNCTION}/triggers"), trigger, "triggerName"),
            (&format!("{SERVICE}/aliases"), alias, "aliasName"),
        ] {
            let answer = host.call("POST", path, &body);
            assert_eq!(answer.refused(400), "InvalidArgument", "{path} {name:?}");
            let message = answer.json()["ErrorMessage"].as_str().unwrap().to_owned();
            assert!(message.starts_with(field), "{path} {name:?}: {message}");
        }
    }
    for name in [
        "..",
        "a..b",
        "a/b",
        "a\u{0}",
        "é.example",
        "-a.example",
        "a b",
        &long,
        &"a.".repeat(200),
        // The host's own.
        "localhost",
        "a.LocalHost",
        "127.0.0.1",
        "0x7f.1",
        "[::1]",
        "box",
    ] {
        let mut domain = domain();
        domain["domainName"] = json!(name);
        let answer = host.call("POST", "/2016-08-15/custom-domains", &domain);
        assert_eq!(answer.refused(400), "InvalidArgument", "{name:?}");
    }
    for name in [
        "..",
        ".",
        "%2e%2e",
        "..%2f..%2fetc",
        "a%2fb",
        "%2fetc",
        "%00",
        "a%00b",
        "%ff",
        "..%5c",
        &long,
    ] {
        for path in [
            format!("/2016-08-15/services/{name}"),
            format!("{SERVICE}/functions/{name}"),
            format!("{FUNCTION}/triggers/{name}"),
            format!("{SERVICE}/aliases/{name}"),
            format!("{SERVICE}/versions/{name}"),
            format!("{flat}/{name}"),
            format!("/2016-08-15/custom-domains/{name}"),
            format!("/thaw/keys/{name}"),
        ] {
            for method in ["GET", "PUT", "DELETE"] {
                let answer = host.call(method, &path, &json!({}));
                // Without the segment it may be a list, which is read.
                let list = method == "GET" && answer.status == 200;
                let harmless =
                    (400..500).contains(&answer.status) || path.starts_with("/thaw/keys");
                assert!(
                    harmless || list,
                    "{method} {path}: {} {}",
                    answer.status,
                    answer.text()
                );
            }
        }
        let answer = host.http("POST", &format!("/events/demo/web/{name}"), &[], b"{}");
        assert!(
            (400..500).contains(&answer.status),
            "{name}: {}",
            answer.text()
        );
        let logs = host.call("GET", &format!("/thaw/logs?name=demo/{name}"), &Value::Null);
        assert!((400..500).contains(&logs.status), "{name}: {}", logs.text());
    }
    assert_eq!(deployed(&host, "../x", "web"), Some(125));
    assert_eq!(deployed(&host, "demo", "../../x"), Some(125));
    assert_eq!(
        tree(root.parent().unwrap()),
        before,
        "nothing was made anywhere"
    );
    let services = host.call("GET", "/2016-08-15/services", &Value::Null).ok();
    assert_eq!(services["services"].as_array().unwrap().len(), 1);
    assert_eq!(host.invoke("still there").text(), "still there");
}

/// The exit code of a deployment of these names.
fn deployed(host: &Host, service: &str, function: &str) -> Option<i32> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("template.yml");
    let template = json!({
        "ROSTemplateFormatVersion": "2015-09-01", "Transform": "Aliyun::Serverless-2018-04-03",
        "Resources": { service: {
            "Type": "Aliyun::Serverless::Service",
            function: {
                "Type": "Aliyun::Serverless::Function",
                "Properties": { "Runtime": "custom-container",
                    "CustomContainerConfig": { "Image": host.image, "AccelerationType": "None" } },
            },
        } },
    });
    std::fs::write(&file, template.to_string()).unwrap();
    let mut command = host.thaw.command(["fn", "deploy", file.to_str().unwrap()]);
    command.stdin(Stdio::null()).output().unwrap().status.code()
}

/// What an answer warns of.
fn warnings(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let all = answer.header("x-thaw-warning").split(", ");
    all.filter(|it| !it.is_empty()).map(str::to_owned).collect()
}

#[test]
fn fields_that_do_nothing_are_warned_of() {
    let host = Host::start();
    host.deploy(&json!({}));
    let kept = |name: &str| vec![format!("{name} is kept and does nothing here")];
    let ignored = |name: &str| vec![format!("{name} is ignored here")];
    let warned = |method: &str, path: &str, body: Value, wanted: Vec<String>| {
        let answer = host.call(method, path, &body);
        assert_eq!(warnings(&answer), wanted, "{method} {path} {body}");
    };
    let log = json!({ "project": "p", "logstore": "l" });
    for (field, value) in [
        ("role", json!("acs:ram::1:role/any")),
        ("logConfig", log.clone()),
        ("vpcConfig", json!({ "securityGroupId": "sg" })),
        ("nasConfig", json!({ "userId": 1000, "mountPoints": [] })),
        ("ossMountConfig", json!({ "note": "x", "mountPoints": [] })),
        ("tracingConfig", json!({ "type": "Jaeger" })),
        ("customDNS", json!({ "nameServers": ["192.0.2.1"] })),
        ("instanceType", json!("e1")),
        ("instanceSoftConcurrency", json!(5)),
        ("disableOndemand", json!(true)),
        ("resourceGroupId", json!("rg")),
        ("idleTimeout", json!(60)),
    ] {
        for path in [
            FUNCTION,
            "/2021-04-06/services/demo/functions/web",
            "/2023-03-30/functions/demo$web",
        ] {
            warned("PUT", path, json!({ field: value }), kept(field));
        }
        let shown = host.call("GET", FUNCTION, &Value::Null).ok();
        assert_eq!(shown[field], value, "it is given back");
    }
    let empty = json!({ "role": "", "logConfig": { "project": "" }, "layers": [], "nasConfig": null,
        "vpcConfig": { "vpcId": "", "vSwitchIds": [] }, "functionName": "web", "codeSize": 0 });
    warned("PUT", FUNCTION, empty, vec![]);
    warned(
        "PUT",
        FUNCTION,
        json!({ "memmorySize": 256 }),
        ignored("memmorySize"),
    );
    warned(
        "PUT",
        FUNCTION,
        json!({ "code": { "zipFile": "x" } }),
        ignored("code"),
    );
    warned(
        "PUT",
        FUNCTION,
        json!({ "MemorySize": 256, "CAPort": 9000 }),
        vec![],
    );
    let container = |more: (&str, Value)| {
        let mut config = json!({ "image": host.image, "accelerationType": "None" });
        config[more.0] = more.1;
        json!({ "customContainerConfig": config })
    };
    let instance = container(("instanceID", json!("cri")));
    warned(
        "PUT",
        FUNCTION,
        instance,
        kept("customContainerConfig.instanceID"),
    );
    let port = container(("caPort", json!(1)));
    warned(
        "PUT",
        FUNCTION,
        port,
        ignored("customContainerConfig.caPort"),
    );
    let odd = json!({ "a\u{7f}\nX-Evil: é": 1 });
    let answer = host.call("PUT", FUNCTION, &odd);
    assert_eq!(answer.header("x-evil"), "");
    assert_eq!(warnings(&answer).len(), 1, "{answer:?}");

    warned(
        "PUT",
        SERVICE,
        json!({ "logConfig": log }),
        kept("logConfig"),
    );
    warned(
        "PUT",
        SERVICE,
        json!({ "description": "d", "internetAccess": true }),
        vec![],
    );
    let mut trigger = http();
    trigger["triggerConfig"]["disableURLInternet"] = json!(true);
    trigger["triggerConfig"]["methode"] = json!("GET");
    let wanted = [kept("disableURLInternet"), ignored("methode")].concat();
    warned("POST", &format!("{FUNCTION}/triggers"), trigger, wanted);
    let mut secure = domain();
    secure["protocol"] = json!("HTTPS");
    secure["certConfig"] = json!({ "certName": "c" });
    let wanted = [kept("certConfig"), kept("protocol")].concat();
    warned("POST", "/2016-08-15/custom-domains", secure, wanted);
    let scaling = json!({ "target": 0, "scheduledActions": [{ "name": "x" }] });
    warned(
        "PUT",
        &format!("{FUNCTION}/provision-config"),
        scaling,
        ignored("scheduledActions"),
    );
    host.call("POST", &format!("{SERVICE}/versions"), &json!({}))
        .ok();
    let alias =
        json!({ "aliasName": "a", "versionId": "1", "resolvePolicy": "Random", "colour": "x" });
    warned(
        "POST",
        &format!("{SERVICE}/aliases"),
        alias,
        ignored("colour"),
    );
}

#[test]
fn fields_that_would_be_missed_are_refused_by_name() {
    let host = Host::start();
    host.deploy(&json!({}));
    host.call("POST", &format!("{SERVICE}/versions"), &json!({}))
        .ok();
    let refused = |method: &str, path: &str, body: Value, field: &str| {
        let answer = host.call(method, path, &body);
        assert_eq!(answer.refused(400), "InvalidArgument", "{path} {body}");
        let message = answer.json()["ErrorMessage"].as_str().unwrap().to_owned();
        assert!(message.contains(field), "{path} {body}: {message}");
    };
    let mounts = json!({ "mountPoints": [{ "mountDir": "/mnt" }] });
    let vpc = json!({ "vpcId": "vpc-1", "vSwitchIds": ["v"] });
    for (field, value) in [
        ("vpcConfig", vpc.clone()),
        ("nasConfig", mounts.clone()),
        ("ossMountConfig", mounts.clone()),
        ("polarFsConfig", mounts.clone()),
        ("juiceFsConfig", mounts),
        ("layers", json!(["acs:fc:::layers/x"])),
        ("gpuMemorySize", json!(1024)),
        ("gpuConfig", json!({ "gpuType": "x" })),
        ("runtime", json!("python3")),
        ("instanceIsolationMode", json!("REQUEST_EXCLUSIVE")),
        ("sessionAffinity", json!("HEADER_FIELD")),
        ("microSandboxConfig", json!({ "x": 1 })),
        ("timeout", json!(0)),
        ("timeout", json!(86_401)),
        ("memorySize", json!(127)),
        ("memorySize", json!("much")),
        ("diskSize", json!(1)),
        ("cpu", json!(0)),
        ("instanceConcurrency", json!(201)),
        ("internetAccess", json!("maybe")),
        ("description", json!(5)),
        ("environmentVariables", json!({ "FC_X": "1" })),
        ("environmentVariables", json!(["x"])),
        (
            "instanceLifecycleConfig",
            json!({ "preStop": { "command": ["x"] } }),
        ),
        ("customContainerConfig", json!("image")),
    ] {
        for path in [FUNCTION, "/2023-03-30/functions/demo$web"] {
            refused("PUT", path, json!({ field: value }), field);
        }
    }
    for (field, value) in [
        ("command", json!("no list")),
        ("accelerationType", json!("Fast")),
        (
            "registryConfig",
            json!({ "authConfig": { "userName": "u" } }),
        ),
    ] {
        refused(
            "PUT",
            FUNCTION,
            json!({ "customContainerConfig": { field: value } }),
            field,
        );
    }
    refused("PUT", FUNCTION, json!({ "caPort": 70_000 }), "caPort");
    refused("PUT", SERVICE, json!({ "vpcConfig": vpc }), "vpcConfig");
    for (kind, config, field) in [
        ("log", json!({}), "triggerType"),
        ("http", json!({ "authType": "jwt" }), "authType"),
        ("timer", json!({ "cronExpression": "x" }), "cronExpression"),
        ("timer", json!({}), "cronExpression"),
        ("oss", json!({ "events": [] }), "events"),
        ("http", json!("{"), "triggerConfig"),
    ] {
        let body = json!({ "triggerName": "t", "triggerType": kind, "triggerConfig": config });
        refused("POST", &format!("{FUNCTION}/triggers"), body, field);
    }
    for (field, value) in [
        ("authConfig", json!({ "authType": "jwt", "authInfo": "{}" })),
        ("corsConfig", json!({ "allowOrigins": ["*"] })),
        (
            "routeConfig",
            json!({ "routes": [{ "path": "x", "serviceName": "s", "functionName": "f" }] }),
        ),
        ("rewriteConfig", Value::Null),
    ] {
        let mut body = domain();
        if field == "rewriteConfig" {
            body["routeConfig"]["routes"][0][field] = json!({ "equalRules": [{ "match": "/" }] });
        } else {
            body[field] = value;
        }
        let named = if field == "routeConfig" {
            "path"
        } else {
            field
        };
        refused("POST", "/2016-08-15/custom-domains", body, named);
    }
    let alias = |more: Value| {
        let mut body = json!({ "aliasName": "a", "versionId": "1" });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let aliases = format!("{SERVICE}/aliases");
    let routes = json!({ "resolvePolicy": "Content", "routePolicy": { "condition": "AND" } });
    refused("POST", &aliases, alias(routes), "routePolicy");
    for weights in [
        json!({ "1": 2.0 }),
        json!({ "1": 0.1, "2": 0.1 }),
        json!({ "1": "half" }),
    ] {
        let body = alias(json!({ "additionalVersionWeight": weights }));
        refused("POST", &aliases, body, "additionalVersionWeight");
    }
}
