//! Events of object stores: a webhook that takes the notifications of S3-compatible stores (as MinIO
//! sends them) and CloudEvents 1.0, and hands each to the function as Function Compute's OSS event.
//!
//! `POST /events/SERVICE/FUNCTION/TRIGGER` (`-` for a function without a service), with the trigger's
//! id as bearer token or as `token` in the query. Answered when the events are on the disk.

use bytes::Bytes;
use hyper::header::{self, HeaderMap};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::catalog::function_key;
use crate::error::Refusal;
use crate::host::Host;
use crate::model::{FunctionName, Trigger, TriggerKind};
use crate::query::Query;
use crate::queue::Queue;

/// Bytes of a notification.
pub(crate) const MAX_NOTIFICATION: usize = 1 << 20;
/// Events of one notification.
const MAX_EVENTS: usize = 1000;

/// Something that happened to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ObjectEvent {
    /// `ObjectCreated:PutObject` and the like.
    name: String,
    time: String,
    bucket: String,
    key: String,
    size: u64,
    etag: String,
    region: String,
    source: String,
    request_id: String,
}

/// A trigger that somebody may notify.
#[derive(Debug)]
pub(crate) struct Found {
    function: FunctionName,
    trigger: Trigger,
}

/// The trigger that a path names, for somebody who knows its id.
///
/// # Errors
/// [`Refusal`]: no such trigger, or a wrong token.
pub(crate) fn find(
    host: &Host,
    segments: &[&str],
    query: &Query,
    headers: &HeaderMap,
) -> Result<Found, Refusal> {
    let [service, function, name] = segments else {
        let message = "the path has to be /events/SERVICE/FUNCTION/TRIGGER";
        return Err(Refusal::invalid(message));
    };
    let service = if *service == "-" { "" } else { service };
    let function = crate::api::full_name(service, function);
    let key = format!("{}/{name}", function_key(&function));
    let trigger: Option<Trigger> = host.catalog.get(&key)?;
    // Whoever guesses names learns nothing from the answer.
    let refused = || Refusal::denied("no such trigger, or its id is not given as bearer token");
    let trigger = trigger.ok_or_else(refused)?;
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let bearer = bearer.map(|value| value.strip_prefix("Bearer ").unwrap_or(value));
    let token = bearer.or_else(|| query.get("token")).unwrap_or_default();
    let same = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, trigger.id.as_bytes());
    let ours = ring::hmac::sign(&same, trigger.id.as_bytes());
    if ring::hmac::verify(&same, token.as_bytes(), ours.as_ref()).is_err() {
        return Err(refused());
    }
    Ok(Found { function, trigger })
}

/// Takes a notification for a trigger: an event each for what it names and the trigger wants; how
/// many.
///
/// # Errors
/// [`Refusal`]: a trigger of another kind, a notification that is none, and those of the catalog.
pub(crate) fn take(
    host: &Host,
    found: &Found,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<usize, Refusal> {
    let Found { function, trigger } = found;
    let TriggerKind::Object {
        events,
        prefix,
        suffix,
    } = &trigger.kind
    else {
        return Err(Refusal::invalid(format!(
            "trigger '{}' takes no object events",
            trigger.name
        )));
    };
    let body: Value = serde_json::from_slice(body)
        .map_err(|error| Refusal::invalid(format!("the notification is no JSON: {error}")))?;
    let wanted = read(&body, headers)?.into_iter().filter(|event| {
        event.key.starts_with(prefix.as_str())
            && event.key.ends_with(suffix.as_str())
            && events.iter().any(|pattern| fits(pattern, &event.name))
    });
    let wanted: Vec<ObjectEvent> = wanted.collect();
    put(host, trigger, function, &wanted)?;
    Ok(wanted.len())
}

fn put(
    host: &Host,
    trigger: &Trigger,
    function: &FunctionName,
    events: &[ObjectEvent],
) -> Result<(), Refusal> {
    if events.is_empty() {
        return Ok(());
    }
    let tasks = host.catalog.change(|open| {
        let tasks = events.iter().map(|event| {
            let body = Bytes::from(to_oss(event, &trigger.name).to_string());
            let id = crate::unique::id();
            Queue::put(open, function, &trigger.qualifier, &body, &id)
        });
        tasks.collect::<Result<Vec<_>, _>>()
    })?;
    tasks.iter().for_each(|task| host.queue.begin(task));
    Ok(())
}

/// Whether `oss:ObjectCreated:*` and the like mean an event.
fn fits(pattern: &str, name: &str) -> bool {
    let pattern = pattern.strip_prefix("oss:").unwrap_or(pattern);
    let pattern = pattern.strip_prefix("s3:").unwrap_or(pattern);
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

/// The events of a notification.
fn read(body: &Value, headers: &HeaderMap) -> Result<Vec<ObjectEvent>, Refusal> {
    if let Some(records) = body.get("Records").and_then(Value::as_array) {
        if records.len() > MAX_EVENTS {
            let message = format!("a notification has at most {MAX_EVENTS} events");
            return Err(Refusal::invalid(message));
        }
        return Ok(records.iter().filter_map(of_record).collect());
    }
    // Structured: attributes in the body; binary: in headers.
    let attribute = |name: &str| {
        let header = headers.get(format!("ce-{name}"));
        let header = header.and_then(|value| value.to_str().ok());
        let text = body.get(name).and_then(Value::as_str).or(header);
        text.unwrap_or_default().to_owned()
    };
    if attribute("specversion").starts_with('1') {
        let data = body.get("data").unwrap_or(body);
        return Ok(vec![of_cloud_event(&attribute, data)]);
    }
    Err(Refusal::invalid(
        "this is neither a notification of an S3-compatible store (Records) nor a CloudEvent 1.0",
    ))
}

fn text(value: &Value, path: &str) -> String {
    let found = value.pointer(path).and_then(Value::as_str);
    found.unwrap_or_default().to_owned()
}

/// `s3:ObjectCreated:Put` → `ObjectCreated:PutObject`.
fn oss_name(name: &str) -> String {
    let name = name.strip_prefix("s3:").unwrap_or(name);
    match name {
        "ObjectCreated:Put" => "ObjectCreated:PutObject".to_owned(),
        "ObjectCreated:Post" => "ObjectCreated:PostObject".to_owned(),
        "ObjectCreated:Copy" => "ObjectCreated:CopyObject".to_owned(),
        "ObjectRemoved:Delete" => "ObjectRemoved:DeleteObject".to_owned(),
        name => name.to_owned(),
    }
}

fn of_record(record: &Value) -> Option<ObjectEvent> {
    let object = record.pointer("/s3/object")?;
    let key = text(object, "/key").replace('+', " ");
    let key = percent_encoding::percent_decode_str(&key).decode_utf8_lossy();
    Some(ObjectEvent {
        name: oss_name(&text(record, "/eventName")),
        time: text(record, "/eventTime"),
        bucket: text(record, "/s3/bucket/name"),
        key: key.into_owned(),
        size: object.get("size").and_then(Value::as_u64).unwrap_or(0),
        etag: text(object, "/eTag"),
        region: text(record, "/awsRegion"),
        source: text(record, "/requestParameters/sourceIPAddress"),
        request_id: text(record, "/responseElements/x-amz-request-id"),
    })
}

fn of_cloud_event(attribute: &dyn Fn(&str) -> String, data: &Value) -> ObjectEvent {
    // `…ObjectCreated:Put`, `com.example.storage.object.created`: what stands last says it.
    let kind = attribute("type");
    let lower = kind.to_ascii_lowercase();
    let name = match (
        kind.rfind("Object"),
        lower.contains("delet") || lower.contains("remov"),
    ) {
        (Some(at), _) if kind[at..].contains(':') => oss_name(&kind[at..]),
        (_, true) => "ObjectRemoved:DeleteObject".to_owned(),
        _ => "ObjectCreated:PutObject".to_owned(),
    };
    let subject = attribute("subject");
    let key = [text(data, "/key"), text(data, "/name"), subject.clone()];
    let key = key
        .into_iter()
        .find(|key| !key.is_empty())
        .unwrap_or_default();
    let bucket = [
        text(data, "/bucket"),
        text(data, "/bucket/name"),
        attribute("source"),
    ];
    let bucket = bucket
        .into_iter()
        .find(|it| !it.is_empty())
        .unwrap_or_default();
    ObjectEvent {
        name,
        time: attribute("time"),
        bucket,
        key,
        size: data.get("size").and_then(Value::as_u64).unwrap_or(0),
        etag: text(data, "/etag"),
        region: String::new(),
        source: String::new(),
        request_id: attribute("id"),
    }
}

/// As functions expect it.
fn to_oss(event: &ObjectEvent, rule: &str) -> Value {
    let time = match event.time.as_str() {
        "" => Timestamp::now().to_string(),
        time => time.to_owned(),
    };
    json!({ "events": [{
        "eventName": event.name,
        "eventSource": "acs:oss",
        "eventTime": time,
        "eventVersion": "1.0",
        "oss": {
            "bucket": {
                "arn": format!("acs:oss:{}::{}", event.region, event.bucket),
                "name": event.bucket,
                "ownerIdentity": "",
            },
            "object": {
                "deltaSize": event.size,
                "eTag": event.etag,
                "key": event.key,
                "size": event.size,
            },
            "ossSchemaVersion": "1.0",
            "ruleId": rule,
        },
        "region": event.region,
        "requestParameters": { "sourceIPAddress": event.source },
        "responseElements": { "requestId": event.request_id },
        "userIdentity": { "principalId": "" },
    }]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_s_notification_becomes_events() {
        let record = |name: &str, key: &str| {
            json!({
                "eventName": name, "eventTime": "2026-01-01T00:00:00Z", "awsRegion": "x",
                "s3": { "bucket": { "name": "photos" }, "object": { "key": key, "size": 5, "eTag": "e" } },
            })
        };
        let body = json!({ "Records": [
            record("s3:ObjectCreated:Put", "in/a+b%2F1.jpg"),
            record("s3:ObjectRemoved:Delete", "in/c"),
        ]});
        let events = read(&body, &HeaderMap::new()).unwrap();
        assert_eq!(events[0].key, "in/a b/1.jpg");
        assert!(fits("oss:ObjectCreated:*", &events[0].name));
        assert!(fits("oss:ObjectCreated:PutObject", &events[0].name));
        assert!(!fits("oss:ObjectCreated:*", &events[1].name));
        let shown = to_oss(&events[0], "t");
        assert_eq!(shown["events"][0]["oss"]["object"]["key"], "in/a b/1.jpg");
        assert_eq!(shown["events"][0]["oss"]["bucket"]["name"], "photos");
    }

    #[test]
    fn cloud_events_are_read_in_both_forms() {
        let body = json!({
            "specversion": "1.0", "type": "com.example.object.created", "id": "7",
            "data": { "bucket": "b", "key": "k", "size": 1 },
        });
        let event = &read(&body, &HeaderMap::new()).unwrap()[0];
        assert_eq!(
            (event.name.as_str(), event.key.as_str()),
            ("ObjectCreated:PutObject", "k")
        );
        let mut headers = HeaderMap::new();
        headers.insert("ce-specversion", "1.0".parse().unwrap());
        headers.insert(
            "ce-type",
            "org.example.ObjectRemoved:Delete".parse().unwrap(),
        );
        headers.insert("ce-subject", "k2".parse().unwrap());
        let event = &read(&json!({ "bucket": "b" }), &headers).unwrap()[0];
        assert_eq!(
            (event.name.as_str(), event.key.as_str()),
            ("ObjectRemoved:DeleteObject", "k2")
        );
        assert!(read(&json!({ "x": 1 }), &HeaderMap::new()).is_err());
    }
}
