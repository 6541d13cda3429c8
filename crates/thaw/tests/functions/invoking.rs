//! Events, HTTP requests, and how both fail.

use serde_json::{Value, json};

use crate::support::{Host, until};

#[test]
fn a_function_is_made_invoked_and_scaled_to_zero() {
    let mut host = Host::with(&["--keep", "1s"]);
    let made = host.deploy(&json!({}));
    assert_eq!(made["customContainerConfig"]["accelerationType"], "None");
    assert!(
        host.containers().is_empty(),
        "nothing runs before it is invoked"
    );
    let answer = host.invoke("hello");
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert_eq!(answer.header("x-fc-error-type"), "");
    let checksum = made["codeChecksum"].as_str().unwrap();
    assert_eq!(answer.header("x-fc-code-checksum"), checksum);
    assert!(
        answer
            .header("x-fc-invocation-duration")
            .parse::<u64>()
            .is_ok()
    );
    assert!(
        answer
            .header("x-fc-max-memory-usage")
            .parse::<f64>()
            .unwrap()
            > 0.0
    );
    assert_eq!(host.containers().len(), 1);
    let first = host.invoke("pid").text();
    assert_eq!(host.invoke("pid").text(), first, "the same instance");
    until("the idle instance ends", || host.containers().is_empty());
    assert_ne!(host.invoke("pid").text(), first);
    host.end();
    assert!(
        host.containers().is_empty(),
        "the host takes its instances with it"
    );
}

#[test]
fn what_fails_is_told_apart() {
    let host = Host::start();
    host.deploy(&json!({ "timeout": 1 }));
    let failed = |event: &str| {
        let answer = host.invoke(event);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-fc-error-type"), "UnhandledInvocationError");
        answer.json()["errorMessage"].as_str().unwrap().to_owned()
    };
    assert_eq!(failed("fail"), "failed as told");
    assert_eq!(failed("fail-by-header"), "told");
    assert!(failed("sleep 5000").contains("timed out after 1 s"));
    let ended = failed("exit 5");
    assert!(
        ended.contains("exit code 5") && ended.contains("exiting as told"),
        "{ended}"
    );
    let hungry = failed("eat 512");
    assert!(
        hungry.contains("ran out of memory") && hungry.contains("128 MiB"),
        "{hungry}"
    );
    assert_eq!(host.invoke("x").text(), "x", "it goes on");
    let services = "/2016-08-15/services";
    let invoke = |path: &str| {
        host.call(
            "POST",
            &format!("{services}/{path}/invocations"),
            &Value::Null,
        )
    };
    assert_eq!(invoke("nix/functions/web").refused(404), "ServiceNotFound");
    assert_eq!(
        invoke("demo/functions/nix").refused(404),
        "FunctionNotFound"
    );
    assert_eq!(
        invoke("demo.7/functions/web").refused(404),
        "VersionNotFound"
    );
}

#[test]
fn what_cannot_start_says_why_and_is_not_tried_without_end() {
    let host = Host::start();
    host.deploy(&json!({ "environmentVariables": { "CRASH": "1" } }));
    let answer = host.invoke("x");
    assert_eq!(answer.refused(412), "CAExited");
    assert!(answer.text().contains("exit code 3"), "{}", answer.text());
    assert!(
        answer.text().contains("crashing as told"),
        "{}",
        answer.text()
    );
    let mut last = answer;
    until("starts wait", || {
        last = host.invoke("x");
        last.text().contains("; tried again in")
    });
    assert_eq!(last.refused(412), "CAExited");
    let update = json!({ "environmentVariables": { "CRASH": "0" } });
    host.call("PUT", "/2016-08-15/services/demo/functions/web", &update)
        .ok();
    assert_eq!(
        host.invoke("x").text(),
        "x",
        "what was mended is tried at once"
    );
}
