//! The sentence that it is all about: a function's image is accelerated while the function serves, and
//! nothing is to be done for that.

use serde_json::{Value, json};

use crate::support::{Host, until};

fn status(host: &Host) -> String {
    let path = "/2016-08-15/services/demo/functions/web";
    let function = host.call("GET", path, &Value::Null).ok();
    let info = &function["customContainerConfig"]["accelerationInfo"];
    info["status"].as_str().unwrap_or("None").to_owned()
}

#[test]
fn an_image_is_accelerated_behind_a_function_that_serves() {
    let host = Host::with(&["--keep", "1s"]);
    let default = json!({ "customContainerConfig": { "accelerationType": "Default" } });
    let made = host.deploy(&default);
    assert_eq!(
        made["customContainerConfig"]["accelerationInfo"]["status"],
        "Preparing"
    );
    assert_eq!(host.invoke("at once").text(), "at once");
    until("it is ready", || {
        assert_eq!(
            host.invoke("meanwhile").text(),
            "meanwhile",
            "it serves all the time"
        );
        status(&host) == "Ready"
    });
    let facts = host.facts();
    let set = &facts["acceleration"]["workingSet"];
    let (blocks, packed) = (
        set["blocks"].as_u64().unwrap(),
        set["packed"].as_u64().unwrap(),
    );
    assert!(packed > 0 && blocks > 0, "{facts}");
    assert!(
        blocks < 2 << 20,
        "what the function does not read is not in it: {facts}"
    );
    until("all instances have ended", || host.containers().is_empty());
    assert_eq!(host.invoke("after").text(), "after");
    let facts = host.facts();
    let starts = facts["coldStarts"].as_array().unwrap();
    assert_eq!(starts[0]["accelerated"], false, "{facts}");
    assert_eq!(starts.last().unwrap()["accelerated"], true, "{facts}");
    // The one that was recorded, over what the first one had fetched, has served somebody, too.
    let recorded = starts.iter().filter(|it| it["why"] == "all of it is here");
    let recorded: Vec<&Value> = recorded.collect();
    assert_eq!(recorded.len(), 1, "{facts}");
    assert_eq!(recorded[0]["accelerated"], false, "{facts}");
    // Another node finds it in the registry, and reads little of the image.
    let other = thaw_testkit::thaw::Thaw::new(env!("CARGO_BIN_EXE_thaw")).unwrap();
    let inspected = other.run(["inspect", "--json", &host.image]).unwrap();
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert!(inspected["acceleration"].is_object(), "{inspected}");
}

/// A start with nothing cached, that reads all of a file of two megabytes for its answer.
fn start_that_reads_much(host: &Host) {
    until("all instances have ended", || host.containers().is_empty());
    host.thaw.run(["gc", "--all"]).unwrap();
    let answer = host.invoke("read /srv/data").text();
    assert!(answer.starts_with("2097152 bytes, "), "{answer}");
}

fn working_set(host: &Host) -> (u64, u64, bool) {
    let set = &host.facts()["acceleration"]["workingSet"];
    let number = |name: &str| set[name].as_u64().unwrap();
    let answered = set["answered"].as_bool().unwrap();
    (number("blocks"), number("missed"), answered)
}

#[test]
fn the_first_answer_completes_a_working_set_that_was_recorded_without_one() {
    let host = Host::with(&["--keep", "1s"]);
    host.deploy(&json!({ "customContainerConfig": { "accelerationType": "Default" } }));
    until("it is ready", || status(&host) == "Ready");
    let (before, _, answered) = working_set(&host);
    assert!(
        before < 2 << 20 && !answered,
        "nobody has asked it: {before}"
    );
    start_that_reads_much(&host);
    until("what it read is in the working set", || {
        let (blocks, missed, answered) = working_set(&host);
        blocks >= before + (2 << 20) && missed == 0 && answered
    });
    start_that_reads_much(&host);
    let facts = host.facts();
    assert_eq!(facts["coldStarts"][1]["accelerated"], true, "{facts}");
    assert_eq!(working_set(&host).1, 0, "it was all there in time");
    assert_eq!(facts["coldStarts"][1]["local"], false, "{facts}");
    until("all instances have ended", || host.containers().is_empty());
    host.invoke("with all of it here");
    let facts = host.facts();
    assert_eq!(facts["coldStarts"][2]["local"], true, "{facts}");
    // The registry has it: a node that has seen nothing yet.
    let other = thaw_testkit::thaw::Thaw::new(env!("CARGO_BIN_EXE_thaw")).unwrap();
    let inspected = other.run(["inspect", "--json", &host.image]).unwrap();
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    let mut sets = inspected["working_sets"].as_array().unwrap().iter();
    let set = sets.find(|set| set["profile"] == "fn.demo.web").unwrap();
    assert!(set["blocks"].as_u64().unwrap() >= 2 << 20, "{inspected}");
}

#[test]
fn a_working_set_that_three_starts_missed_much_of_is_published_anew() {
    let host = Host::with(&["--keep", "1s"]);
    host.deploy(&json!({ "customContainerConfig": { "accelerationType": "Default" } }));
    until("it is ready", || {
        host.invoke("meanwhile");
        status(&host) == "Ready"
    });
    let (before, _, answered) = working_set(&host);
    assert!(answered, "it was recorded up to an answer");
    for missed in 1..3 {
        start_that_reads_much(&host);
        until("it is counted", || working_set(&host).1 == missed);
        assert_eq!(working_set(&host).0, before, "once is not often");
    }
    start_that_reads_much(&host);
    until("what they missed is in the working set", || {
        let (blocks, missed, _) = working_set(&host);
        blocks >= before + (2 << 20) && missed == 0
    });
}

#[test]
fn a_second_host_uses_what_the_registry_has() {
    let first = Host::start();
    let default = json!({ "customContainerConfig": { "accelerationType": "Default" } });
    first.deploy(&default);
    until("it is ready", || status(&first) == "Ready");
    let before = first.registry.requests().len();
    let second = first.beside(&[]);
    second.deploy(&default);
    assert_eq!(second.invoke("at once").text(), "at once");
    until("it is ready", || status(&second) == "Ready");
    let layers = first.layout.manifest().unwrap()["layers"].clone();
    let data = layers[1]["digest"].as_str().unwrap();
    let requests = second.registry.requests();
    let moved: u64 = requests[before..]
        .iter()
        .filter(|it| it.uri.contains(data))
        .map(|it| it.written)
        .sum();
    let size = layers[1]["size"].as_u64().unwrap();
    let facts = second.facts();
    assert!(moved < size / 2, "{moved} of {size} bytes: {facts}");

    // Where nobody asks, a start is recorded all the same.
    let third = first.beside(&[]);
    third.deploy(&default);
    until("it is ready", || status(&third) == "Ready");
    let facts = third.facts()["acceleration"].clone();
    assert!(facts["notRecorded"].is_null(), "{facts}");
    assert!(
        facts["workingSet"]["blocks"].as_u64().unwrap() > 0,
        "{facts}"
    );
}

#[test]
fn off_again_starts_from_the_original() {
    let host = Host::with(&["--keep", "1s"]);
    host.deploy(&json!({ "customContainerConfig": { "accelerationType": "Default" } }));
    // The same image, whose function wants none of it.
    let mut plain = json!({ "customContainerConfig": { "accelerationType": "None" } });
    plain["functionName"] = json!("plain");
    host.deploy(&plain);
    until("it is ready", || status(&host) == "Ready");
    let start = |name: &str| {
        until("all instances have ended", || host.containers().is_empty());
        host.thaw.run(["gc", "--all"]).unwrap();
        let path = format!("/2016-08-15/services/demo/functions/{name}/invocations");
        assert_eq!(host.call("POST", &path, &json!("x")).status, 200);
        let path = format!("/thaw/functions?name=demo/{name}");
        let facts = host.call("GET", &path, &Value::Null).ok();
        let starts = facts["coldStarts"].as_array().unwrap().clone();
        let last = starts.last().unwrap().clone();
        (last["accelerated"].clone(), last["how"].clone())
    };
    assert_eq!(start("web"), (json!(true), json!("lazy")));
    assert_eq!(start("plain"), (json!(false), json!("full")));
    let switch = "/thaw/acceleration?name=demo/web&to=";
    host.call("POST", &format!("{switch}off"), &Value::Null)
        .ok();
    assert_eq!(start("web"), (json!(false), json!("full")));
    host.call("POST", &format!("{switch}on"), &Value::Null).ok();
    assert_eq!(start("web"), (json!(true), json!("lazy")));
}

#[test]
fn acceleration_that_fails_says_why_and_is_tried_again() {
    let mut host = Host::start();
    // The blob of the second layer is gone: nothing can be started or accelerated.
    let layers = host.layout.manifest().unwrap()["layers"].clone();
    let digest: thaw_image::Digest = layers[1]["digest"].as_str().unwrap().parse().unwrap();
    let blob = host.registry.blob(&digest);
    let away = blob.with_extension("away");
    std::fs::rename(&blob, &away).unwrap();
    host.deploy(&json!({ "customContainerConfig": { "accelerationType": "Default" } }));
    until("it has failed", || status(&host) == "Failed");
    let failed = host.facts()["acceleration"]["failed"].clone();
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.contains("404") || reason.contains("not"), "{failed}");
    std::fs::rename(&away, &blob).unwrap();
    assert_eq!(host.invoke("the original").text(), "the original");
    let retry = "/thaw/acceleration?name=demo/web&to=retry";
    host.call("POST", retry, &Value::Null).ok();
    until("it is ready", || status(&host) == "Ready");
    host.call(
        "POST",
        "/thaw/acceleration?name=demo/web&to=off",
        &Value::Null,
    )
    .ok();
    assert_eq!(status(&host), "None");
    host.call(
        "POST",
        "/thaw/acceleration?name=demo/web&to=on",
        &Value::Null,
    )
    .ok();
    assert_eq!(status(&host), "Ready", "it is remembered");
    host.end();
}

#[test]
fn functions_of_one_image_share_one_acceleration_and_one_download() {
    let host = Host::start();
    let default = json!({ "customContainerConfig": { "accelerationType": "Default" } });
    host.deploy(&default);
    for name in ["b", "c"] {
        let mut more = default.clone();
        more["functionName"] = json!(name);
        host.deploy(&more);
    }
    assert_eq!(host.invoke("x").text(), "x");
    for name in ["web", "b", "c"] {
        until("it is ready", || {
            let path = format!("/2016-08-15/services/demo/functions/{name}");
            let function = host.call("GET", &path, &Value::Null).ok();
            function["customContainerConfig"]["accelerationInfo"]["status"] == "Ready"
        });
    }
    let layers = host.layout.manifest().unwrap()["layers"].clone();
    for layer in layers.as_array().unwrap() {
        let digest = layer["digest"].as_str().unwrap();
        let size = layer["size"].as_u64().unwrap();
        let requests = host.registry.requests().into_iter();
        let moved: u64 = requests
            .filter(|it| it.uri.contains(digest))
            .map(|it| it.written)
            .sum();
        assert!(
            moved <= size + size / 10,
            "{digest}: {moved} of {size} bytes"
        );
    }
}

#[test]
fn another_image_serves_when_it_is_ready() {
    let host = Host::start();
    let default = json!({ "customContainerConfig": { "accelerationType": "Default" } });
    host.deploy(&default);
    until("it is ready", || status(&host) == "Ready");
    let next =
        thaw_testkit::image::function::image(&thaw_testkit::image::real::cache_directory(), 3);
    let directory = thaw_testkit::scratch::directory().unwrap();
    let next = next
        .unwrap()
        .write(&directory.path().join("next"), "latest")
        .unwrap();
    let next = next.push(&host.registry, "function:2").unwrap();
    let update =
        json!({ "customContainerConfig": { "image": next, "accelerationType": "Default" } });
    host.call("PUT", "/2016-08-15/services/demo/functions/web", &update)
        .ok();
    let size = || host.invoke("read /srv/data").text();
    let mut sizes = vec![size()];
    until("the new one serves", || {
        sizes.push(size());
        sizes.last().unwrap().starts_with("3145728 bytes")
    });
    assert!(
        sizes[0].starts_with("2097152 bytes"),
        "the old one serves meanwhile: {sizes:?}"
    );
    assert_eq!(status(&host), "Ready");
}
