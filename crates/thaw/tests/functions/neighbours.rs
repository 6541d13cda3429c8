//! What clients do badly harms nobody else: not the requests beside theirs, not the instance, not the
//! host; and a host that ends lets everybody finish.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Host, read_answer, until};

const FUNCTION: &str = "/2016-08-15/services/demo/functions/web";
const PATH: &str = "/2016-08-15/proxy/demo/web/";

/// A function with an HTTP trigger that takes ten requests at once.
fn shared(host: &Host, auth: &str, timeout: u32) {
    host.deploy(&json!({ "instanceConcurrency": 10, "timeout": timeout }));
    let methods = json!({ "authType": auth, "methods": ["GET", "POST"] });
    let trigger = json!({ "triggerName": "http", "triggerType": "http", "triggerConfig": methods });
    host.call("POST", &format!("{FUNCTION}/triggers"), &trigger)
        .ok();
}

/// A connection over which this was sent.
fn begun(host: &Host, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(&host.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // The host may have said no before all of it has come.
    stream.write_all(bytes).ok();
    stream
}

fn head(rest: &str) -> Vec<u8> {
    format!("POST {PATH} HTTP/1.1\r\nHost: x\r\n{rest}\r\n").into_bytes()
}

#[test]
fn a_bad_body_harms_no_neighbour() {
    let host = Host::start();
    shared(&host, "anonymous", 3);
    let instance = host.invoke("pid").text();
    thread::scope(|scope| {
        let neighbour = scope.spawn(|| host.invoke("sleep 2500"));
        thread::sleep(Duration::from_millis(300));
        let chunks = [
            head("Transfer-Encoding: chunked\r\n"),
            b"3\r\nabc\r\nzz\r\n".to_vec(),
        ];
        let answer = read_answer(&mut std::io::BufReader::new(begun(&host, &chunks.concat())));
        assert_eq!(answer.refused(400), "InvalidArgument");

        let endless = format!("Content-Length: {}\r\n", 33 << 20);
        let large = [head(&endless), vec![7; 33 << 20]].concat();
        let answer = read_answer(&mut std::io::BufReader::new(begun(&host, &large)));
        assert_eq!(answer.refused(400), "EntityTooLarge");

        let half = begun(
            &host,
            &[head("Content-Length: 10\r\n"), b"half".to_vec()].concat(),
        );
        drop(half);
        assert_eq!(neighbour.join().unwrap().text(), "slept 2500");
    });
    // One that comes too slowly ends with the function's time.
    let slow = begun(
        &host,
        &[head("Content-Length: 10\r\n"), b"slow".to_vec()].concat(),
    );
    let answer = read_answer(&mut std::io::BufReader::new(slow));
    assert!(answer.text().contains("in time"), "{}", answer.text());
    assert_eq!(answer.refused(400), "InvalidArgument");
    assert_eq!(host.invoke("pid").text(), instance, "it is the same one");
}

#[test]
fn who_does_not_read_frees_the_instance_at_the_timeout() {
    let host = Host::start();
    shared(&host, "anonymous", 2);
    let domain = json!({ "domainName": "web.test", "protocol": "HTTP", "routeConfig": { "routes": [
        { "path": "/*", "serviceName": "demo", "functionName": "web" } ] } });
    host.call("POST", "/2016-08-15/custom-domains", &domain)
        .ok();
    let instance = host.invoke("pid").text();
    // More than the sockets on the way hold; the function answers with what it was sent.
    let body = vec![b'x'; 24 << 20];
    let head = format!(
        "POST /invoke HTTP/1.1\r\nHost: web.test\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut silent = begun(&host, &[head.as_bytes(), &body].concat());
    let busy = || host.facts()["instances"]["busy"].clone();
    let begin = Instant::now();
    until("it is busy with the answer", || busy() == 1);
    until("it is free again", || busy() == 0);
    assert!(begin.elapsed() < Duration::from_secs(15));
    assert_eq!(host.invoke("pid").text(), instance, "it is the same one");
    let mut got = Vec::new();
    silent.read_to_end(&mut got).ok();
    assert!(got.len() < body.len(), "the answer is cut off");
}

#[test]
fn who_has_no_key_does_not_get_to_send_a_body() {
    let host = Host::start();
    shared(&host, "function", 3);
    let claim = format!(
        "Authorization: ACS3-HMAC-SHA256 Credential=nobody,SignedHeaders=host,Signature={}\r\n\
         x-acs-date: 2026-11-23T08:00:00Z\r\nContent-Length: 1000000\r\n",
        "0".repeat(64)
    );
    for head in [
        head(&claim),
        b"POST /events/demo/web/none HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".to_vec(),
    ] {
        // Nothing of the body comes, and nobody waits for it.
        let begin = Instant::now();
        let answer = read_answer(&mut std::io::BufReader::new(begun(&host, &head)));
        assert_eq!(answer.status, 403, "{}", answer.text());
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn a_host_that_ends_lets_requests_finish_and_starts_nothing() {
    let mut host = Host::start();
    shared(&host, "anonymous", 30);
    let timer = json!({ "triggerName": "t", "triggerType": "timer",
        "triggerConfig": { "cronExpression": "@every 1s", "enable": true, "payload": "" } });
    host.call("POST", &format!("{FUNCTION}/triggers"), &timer)
        .ok();
    let least = json!({ "target": 2 });
    let path = "/2021-04-06/services/demo/functions/web/provision-config?qualifier=LATEST";
    host.call("PUT", path, &least).ok();
    until("two are kept", || host.containers().len() == 2);
    let root = host.thaw.root().join("functions.sock");
    let running = thread::spawn(move || {
        let stream = std::os::unix::net::UnixStream::connect(root).unwrap();
        let path = format!("{FUNCTION}/invocations");
        crate::support::exchange(stream, "POST", &path, &[], b"sleep 2500")
    });
    thread::sleep(Duration::from_millis(500));
    host.end();
    let answer = running.join().unwrap();
    assert_eq!(answer.text(), "slept 2500", "{answer:?}");
    assert_eq!(host.containers(), [""; 0], "nothing was begun meanwhile");
}

#[test]
fn an_event_that_is_too_old_is_not_run() {
    let host = Host::start();
    host.deploy(&json!({ "instanceConcurrency": 50 }));
    let config = json!({ "maxAsyncEventAgeInSeconds": 1, "maxAsyncRetryAttempts": 0 });
    host.call("PUT", &format!("{FUNCTION}/async-invoke-config"), &config)
        .ok();
    let event = |text: &str, id: &str| {
        let headers = [
            ("X-Fc-Invocation-Type", "Async"),
            ("X-Fc-Stateful-Async-Invocation-Id", id),
        ];
        assert_eq!(host.invoke_with(text, &headers).status, 202);
    };
    // As many as a function may have at once, and one that has to wait for longer than it may.
    for number in 0..16 {
        event("sleep 2500", &format!("long{number}"));
    }
    event("print much-too-late", "late");
    let status = |id: &str| {
        let path = format!("{FUNCTION}/stateful-async-invocations/{id}");
        host.call("GET", &path, &Value::Null).ok()["status"].clone()
    };
    until("it is over", || status("late") == "Expired");
    until("the others are", || status("long15") == "Succeeded");
    let printed = host.call("GET", "/thaw/logs?name=demo/web", &Value::Null);
    assert!(!printed.text().contains("much-too-late"));
}
