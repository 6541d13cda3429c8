//! Answers that flow, answers that do not come, and bodies that are too long.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::support::{Host, read_answer};

const FUNCTION: &str = "/2016-08-15/services/demo/functions/web";
const WEB: [(&str, &str); 1] = [("Host", "web.test")];

#[test]
fn the_first_part_of_an_answer_arrives_before_the_second_is_there() {
    let host = Host::start();
    host.deploy(&json!({ "instanceConcurrency": 10 }));
    host.publish("web.test");
    let mut stream = TcpStream::connect(&host.address).unwrap();
    let head = "GET /stream HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let first = lines.find(|line| line == "first" || line == "second");
    assert_eq!(first.as_deref(), Some("first"));
    // Only now does the function make the second one.
    assert_eq!(host.http("GET", "/go-on", &WEB, b"").text(), "going on");
    let second = lines.find(|line| line == "first" || line == "second");
    assert_eq!(second.as_deref(), Some("second"));
}

#[test]
fn an_http_request_has_the_function_s_time() {
    let host = Host::start();
    host.deploy(&json!({ "timeout": 1, "environmentVariables": { "HANG": "/hang" } }));
    host.publish("web.test");
    let instance = host.invoke("pid").text();
    let answer = host.http("GET", "/hang", &WEB, b"");
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert_eq!(answer.header("x-fc-error-type"), "UnhandledInvocationError");
    assert!(answer.text().contains("timed out after 1 s"), "{answer:?}");
    assert_ne!(host.invoke("pid").text(), instance, "it is not used again");
}

#[test]
fn an_initializer_has_its_time() {
    let host = Host::start();
    host.deploy(&json!({
        "initializer": "x", "initializationTimeout": 1,
        "environmentVariables": { "HANG": "/initialize" },
    }));
    let answer = host.invoke("x");
    assert_eq!(
        (answer.status, answer.header("x-fc-error-type")),
        (200, "InitializationError")
    );
    let text = answer.text();
    assert!(text.contains("no answer within 1 s"), "{text}");
}

/// An invocation whose caller goes on sending, whatever is said meanwhile.
fn invoke(host: &Host, kind: &str, body: &[u8]) -> crate::support::Answer {
    let socket = host.thaw.root().join("functions.sock");
    let mut stream = UnixStream::connect(socket).unwrap();
    let length = body.len();
    let head = format!(
        "POST {FUNCTION}/invocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         X-Fc-Invocation-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).ok();
    read_answer(&mut BufReader::new(stream))
}

#[test]
fn bodies_have_the_lengths_that_are_promised() {
    let host = Host::start();
    host.deploy(&json!({ "memorySize": 1024 }));
    let long = vec![b'x'; (32 << 20) + 1];
    let answer = invoke(&host, "Sync", &long[1..]);
    assert_eq!((answer.status, answer.body.len()), (200, 32 << 20));
    let answer = invoke(&host, "Sync", &long);
    assert_eq!(answer.refused(400), "EntityTooLarge");
    let queued = &long[..128 << 10];
    assert_eq!(invoke(&host, "Async", queued).status, 202);
    let answer = invoke(&host, "Async", &long[..=128 << 10]);
    assert_eq!(answer.refused(400), "InvalidArgument");
    let tasks = format!("{FUNCTION}/stateful-async-invocations");
    let listed = host.call("GET", &tasks, &Value::Null).ok();
    let all = listed["invocations"].as_array().unwrap();
    assert_eq!(all.len(), 1, "{listed}");
}
