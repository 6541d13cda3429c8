//! Whatever is a notification of an object store is its events: as many as it may have, and read again the same when they are written
//! as a store's own records.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use thaw_function::fuzz::Sent;

const MAX_EVENTS: usize = 1000;

/// Lines of `Name: value` up to an empty one, and what is behind that.
fn split(data: &[u8]) -> Sent<'_> {
    let (mut headers, mut body) = (Vec::new(), data);
    while let Some(end) = body.iter().position(|byte| *byte == b'\n') {
        let line = &body[..end];
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            body = if line.is_empty() {
                &body[end + 1..]
            } else {
                body
            };
            break;
        };
        headers.push((&line[..colon], line[colon + 1..].trim_ascii()));
        body = &body[end + 1..];
    }
    Sent {
        method: "POST",
        path: "/",
        query: "",
        headers,
        body,
    }
}

/// An event of a function as the record of a store that has it.
fn record(event: &Value) -> Value {
    let event = &event["events"][0];
    let object = &event["oss"]["object"];
    assert_eq!(object["size"], object["deltaSize"]);
    let key = object["key"].as_str().expect("a text");
    json!({
        "awsRegion": event["region"],
        "eventName": event["eventName"],
        "eventTime": event["eventTime"],
        "requestParameters": event["requestParameters"],
        "responseElements": { "x-amz-request-id": event["responseElements"]["requestId"] },
        "userIdentity": event["userIdentity"],
        "s3": {
            "bucket": {
                "name": event["oss"]["bucket"]["name"],
                "ownerIdentity": { "principalId": event["oss"]["bucket"]["ownerIdentity"] },
            },
            "object": {
                "key": utf8_percent_encode(key, NON_ALPHANUMERIC).to_string(),
                "size": object["size"],
                "eTag": object["eTag"],
            },
        },
    })
}

pub(crate) fn run(data: &[u8]) {
    let Some(events) = split(data).events() else {
        return;
    };
    assert!(events.len() <= MAX_EVENTS);
    for event in &events {
        // One without a time happens when it is read.
        let time = &event["events"][0]["eventTime"];
        assert!(time.as_str().is_some_and(|time| !time.is_empty()));
    }
    let records: Vec<Value> = events.iter().map(record).collect();
    let body = json!({ "Records": records }).to_string();
    let again = Sent {
        method: "POST",
        path: "/",
        query: "",
        headers: Vec::new(),
        body: body.as_bytes(),
    };
    assert_eq!(again.events(), Some(events));
}
