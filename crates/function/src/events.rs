//! Events of object stores: a webhook that takes the notifications of S3-compatible stores (as MinIO
//! sends them) and CloudEvents 1.0, and hands each to the function as Function Compute's OSS event.
//!
//! `POST /events/SERVICE/FUNCTION/TRIGGER` (`-` for a function without a service), with the trigger's
//! id as bearer token or as `token` in the query. Answered when the events are on the disk.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
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
    /// Whose the bucket is, and who has done it.
    owner: String,
    user: String,
    /// The address that it was done from.
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
    let wanted = read(body, headers)?.into_iter().filter(|event| {
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

/// The events of a notification as functions expect them.
///
/// # Errors
/// [`Refusal`]: a notification that is none.
pub(crate) fn translated(body: &[u8], headers: &HeaderMap) -> Result<Vec<Value>, Refusal> {
    let events = read(body, headers)?;
    Ok(events.iter().map(|event| to_oss(event, "rule")).collect())
}

/// The events of a notification. Which kind it is, its head says: attributes of a CloudEvent in headers
/// (binary mode), or a content type of its own; else what is in the body.
fn read(body: &[u8], headers: &HeaderMap) -> Result<Vec<ObjectEvent>, Refusal> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if header("ce-specversion").is_some() {
        let attribute = |name: &str| {
            let value = header(&format!("ce-{name}")).unwrap_or_default();
            percent_encoding::percent_decode_str(value)
                .decode_utf8_lossy()
                .into_owned()
        };
        // The data may be anything; what the attributes say is enough.
        let data = serde_json::from_slice(body).unwrap_or(Value::Null);
        return of_cloud_event(&attribute, &data).map(|event| vec![event]);
    }
    let body: Value = serde_json::from_slice(body)
        .map_err(|error| Refusal::invalid(format!("the notification is no JSON: {error}")))?;
    if let Some(records) = body.get("Records").and_then(Value::as_array) {
        bounded(records)?;
        return Ok(records.iter().filter_map(of_record).collect());
    }
    match &body {
        Value::Array(batch) if !batch.is_empty() => {
            bounded(batch)?;
            batch.iter().map(structured).collect()
        }
        body => structured(body).map(|event| vec![event]),
    }
}

fn bounded(events: &[Value]) -> Result<(), Refusal> {
    if events.len() <= MAX_EVENTS {
        return Ok(());
    }
    let message = format!("a notification has at most {MAX_EVENTS} events");
    Err(Refusal::invalid(message))
}

/// A CloudEvent that is all in the body.
fn structured(body: &Value) -> Result<ObjectEvent, Refusal> {
    let attribute = |name: &str| {
        let text = body.get(name).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let encoded = body.get("data_base64").and_then(Value::as_str);
    let decoded = encoded.and_then(|text| BASE64.decode(text).ok());
    let decoded = decoded.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let data: Option<Value> = body.get("data").cloned().or(decoded);
    of_cloud_event(&attribute, &data.unwrap_or(Value::Null))
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
        owner: text(record, "/s3/bucket/ownerIdentity/principalId"),
        user: text(record, "/userIdentity/principalId"),
        source: text(record, "/requestParameters/sourceIPAddress"),
        request_id: text(record, "/responseElements/x-amz-request-id"),
    })
}

/// The first text that is one.
fn first<const N: usize>(texts: [String; N]) -> String {
    let mut texts = texts.into_iter();
    texts.find(|text| !text.is_empty()).unwrap_or_default()
}

fn of_cloud_event(
    attribute: &dyn Fn(&str) -> String,
    data: &Value,
) -> Result<ObjectEvent, Refusal> {
    if !attribute("specversion").starts_with("1.") {
        return Err(Refusal::invalid(
            "this is neither a notification of an S3-compatible store (Records) nor a CloudEvent 1.0",
        ));
    }
    // Some carry the store's own record.
    let record = data.pointer("/Records/0").unwrap_or(data);
    if let Some(event) = of_record(record).filter(|event| !event.name.is_empty()) {
        return Ok(event);
    }
    let size = data.get("size");
    let size = size.and_then(|size| size.as_u64().or_else(|| size.as_str()?.parse().ok()));
    Ok(ObjectEvent {
        name: name_of(&attribute("type")),
        time: attribute("time"),
        bucket: first([
            text(data, "/bucket"),
            text(data, "/bucket/name"),
            attribute("source"),
        ]),
        key: first([
            text(data, "/key"),
            text(data, "/name"),
            attribute("subject"),
        ]),
        size: size.unwrap_or(0),
        etag: first([text(data, "/etag"), text(data, "/eTag")]),
        region: text(data, "/region"),
        owner: String::new(),
        user: String::new(),
        source: String::new(),
        request_id: attribute("id"),
    })
}

/// Of a CloudEvent's type, what stands last says it: `…ObjectCreated:Put`,
/// `com.example.storage.object.created`.
fn name_of(kind: &str) -> String {
    let own = kind.rfind("Object").map(|at| &kind[at..]);
    if let Some(own) = own.filter(|own| own.contains(':')) {
        return oss_name(own);
    }
    let lower = kind.to_ascii_lowercase();
    match lower.contains("delet") || lower.contains("remov") {
        true => "ObjectRemoved:DeleteObject".to_owned(),
        false => "ObjectCreated:PutObject".to_owned(),
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
                "ownerIdentity": event.owner,
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
        "userIdentity": { "principalId": event.user },
    }]})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = all.iter().map(|(name, value)| {
            let name = hyper::header::HeaderName::from_static(name);
            (name, value.parse().unwrap())
        });
        pairs.collect()
    }

    fn events(body: &Value, all: &[(&'static str, &str)]) -> Vec<ObjectEvent> {
        read(body.to_string().as_bytes(), &headers(all)).unwrap()
    }

    /// As MinIO sends it to a webhook.
    fn minio(name: &str, key: &str) -> Value {
        json!({
            "eventVersion": "2.0", "eventSource": "minio:s3", "awsRegion": "cn-east",
            "eventTime": "2026-01-01T00:00:00.000Z", "eventName": name,
            "userIdentity": { "principalId": "alice" },
            "requestParameters": {
                "principalId": "alice", "region": "cn-east", "sourceIPAddress": "192.0.2.7",
            },
            "responseElements": { "x-amz-request-id": "17F0", "x-amz-id-2": "dd90" },
            "s3": {
                "s3SchemaVersion": "1.0", "configurationId": "Config",
                "bucket": {
                    "name": "photos", "arn": "arn:aws:s3:::photos",
                    "ownerIdentity": { "principalId": "owner" },
                },
                "object": {
                    "key": key, "size": 5, "eTag": "5d41", "contentType": "image/jpeg",
                    "userMetadata": {}, "sequencer": "17F0",
                },
            },
            "source": { "host": "192.0.2.7", "port": "", "userAgent": "MinIO" },
        })
    }

    #[test]
    fn a_store_s_notification_becomes_events() {
        let body = json!({ "EventName": "s3:ObjectCreated:Put", "Key": "photos/in/a", "Records": [
            minio("s3:ObjectCreated:Put", "in/a+b%2F1.jpg"),
            minio("s3:ObjectRemoved:Delete", "in/c"),
        ]});
        let events = events(&body, &[]);
        assert!(fits("oss:ObjectCreated:*", &events[0].name));
        assert!(fits("oss:ObjectCreated:PutObject", &events[0].name));
        assert!(!fits("oss:ObjectCreated:*", &events[1].name));
        assert_eq!(events[1].name, "ObjectRemoved:DeleteObject");
        let wanted = json!({ "events": [{
            "eventName": "ObjectCreated:PutObject",
            "eventSource": "acs:oss",
            "eventTime": "2026-01-01T00:00:00.000Z",
            "eventVersion": "1.0",
            "oss": {
                "bucket": {
                    "arn": "acs:oss:cn-east::photos", "name": "photos", "ownerIdentity": "owner",
                },
                "object": { "deltaSize": 5, "eTag": "5d41", "key": "in/a b/1.jpg", "size": 5 },
                "ossSchemaVersion": "1.0",
                "ruleId": "t",
            },
            "region": "cn-east",
            "requestParameters": { "sourceIPAddress": "192.0.2.7" },
            "responseElements": { "requestId": "17F0" },
            "userIdentity": { "principalId": "alice" },
        }]});
        assert_eq!(to_oss(&events[0], "t"), wanted);
    }

    #[test]
    fn a_cloud_event_is_read_where_its_attributes_are() {
        let body = json!({
            "specversion": "1.0", "type": "com.example.object.created", "id": "7", "source": "s",
            "time": "2026-01-01T00:00:00Z",
            "data": { "bucket": "b", "name": "k", "size": "12", "etag": "e" },
        });
        let event = &events(&body, &[("content-type", "application/cloudevents+json")])[0];
        let wanted = ObjectEvent {
            name: "ObjectCreated:PutObject".to_owned(),
            time: "2026-01-01T00:00:00Z".to_owned(),
            bucket: "b".to_owned(),
            key: "k".to_owned(),
            size: 12,
            etag: "e".to_owned(),
            region: String::new(),
            owner: String::new(),
            user: String::new(),
            source: String::new(),
            request_id: "7".to_owned(),
        };
        assert_eq!(*event, wanted);
        let batch = events(&json!([body, body]), &[]);
        assert_eq!(batch.len(), 2);
        let encoded = BASE64.encode(r#"{"bucket":"b64","key":"k"}"#);
        let body = json!({ "specversion": "1.0", "type": "x", "data_base64": encoded });
        assert_eq!(events(&body, &[])[0].bucket, "b64");

        // In binary mode the body is the data, whatever is in it.
        let binary = [
            ("ce-specversion", "1.0"),
            ("ce-type", "org.example.ObjectRemoved:Delete"),
            ("ce-subject", "in/%E7%8C%AB.jpg"),
            ("ce-source", "store"),
            ("ce-id", "9"),
        ];
        let data = json!({ "id": "not the event's", "type": "image", "specversion": "0.1" });
        let event = &events(&data, &binary)[0];
        assert_eq!(
            (
                event.name.as_str(),
                event.key.as_str(),
                event.request_id.as_str()
            ),
            ("ObjectRemoved:DeleteObject", "in/猫.jpg", "9")
        );
        let event = &read(b"no JSON", &headers(&binary)).unwrap()[0];
        assert_eq!(event.bucket, "store");
        let record = minio("s3:ObjectCreated:Copy", "k");
        let event = &events(&record, &binary)[0];
        assert_eq!(
            (event.name.as_str(), event.key.as_str()),
            ("ObjectCreated:CopyObject", "k")
        );
    }

    #[test]
    fn what_is_neither_is_refused() {
        let many = json!({ "Records": vec![json!({}); MAX_EVENTS + 1] });
        for body in [
            json!({ "x": 1 }),
            json!([]),
            json!({ "specversion": "0.3" }),
            many,
        ] {
            assert!(
                read(body.to_string().as_bytes(), &HeaderMap::new()).is_err(),
                "{body}"
            );
        }
        assert!(read(b"", &HeaderMap::new()).is_err());
        assert!(read(b"x", &headers(&[("ce-specversion", "0.3")])).is_err());
    }
}
