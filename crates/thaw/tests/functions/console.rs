//! The console: who gets in, what a browser is told, and the page itself in one.

mod browser;
mod page;
mod states;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Answer, Host};

const SESSION: &str = "/console/api/session";
const SERVICES: &str = "/console/api/2016-08-15/services";

/// An access key: id and secret.
fn key(host: &Host) -> (String, String) {
    let made = host.call("POST", "/thaw/keys", &Value::Null).ok();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("AccessKeyId"), text("AccessKeySecret"))
}

fn sign_in(host: &Host, key: &(String, String), headers: &[(&str, &str)]) -> Answer {
    let body = json!({ "accessKeyId": key.0, "accessKeySecret": key.1 }).to_string();
    host.http("POST", SESSION, headers, body.as_bytes())
}

/// Somebody who is signed in.
struct Visitor<'a> {
    host: &'a Host,
    origin: String,
    cookie: String,
    token: String,
}

impl<'a> Visitor<'a> {
    fn new(host: &'a Host) -> Self {
        Self::with(host, &key(host))
    }

    fn with(host: &'a Host, key: &(String, String)) -> Self {
        let origin = format!("http://{}", host.address);
        let answer = sign_in(host, key, &[("Host", &host.address), ("Origin", &origin)]);
        answer.ok();
        let (cookie, _) = answer.header("set-cookie").split_once(';').unwrap();
        let cookie = cookie.to_owned();
        let facts = host.http("GET", SESSION, &[("Cookie", &cookie)], b"").ok();
        assert_eq!(facts["key"], key.0);
        Self {
            host,
            origin,
            cookie,
            token: facts["token"].as_str().unwrap().to_owned(),
        }
    }

    fn get(&self, path: &str) -> Answer {
        self.host
            .http("GET", path, &[("Cookie", &self.cookie)], b"")
    }

    /// A change, as the page sends it.
    fn change(&self, method: &str, path: &str, body: &Value) -> Answer {
        let headers = [
            ("Origin", self.origin.as_str()),
            ("X-Csrf-Token", &self.token),
        ];
        self.change_with(method, path, &headers, body)
    }

    fn change_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Answer {
        let mut all = vec![
            ("Host", self.host.address.as_str()),
            ("Cookie", &self.cookie),
        ];
        all.extend(headers);
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.host.http(method, path, &all, body.as_bytes())
    }

    fn follow(&self, path: &str) -> Following {
        let mut stream = TcpStream::connect(&self.host.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nCookie: {}\r\n\r\n",
            self.cookie
        );
        stream.write_all(head.as_bytes()).unwrap();
        Following {
            stream,
            seen: String::new(),
        }
    }
}

/// An answer that goes on.
struct Following {
    stream: TcpStream,
    seen: String,
}

impl Following {
    fn more(&mut self) -> bool {
        let mut part = [0; 4096];
        let count = self.stream.read(&mut part).unwrap();
        self.seen += &String::from_utf8_lossy(&part[..count]);
        count > 0
    }

    /// Reads until it says this.
    fn until(&mut self, text: &str) {
        while !self.seen.contains(text) {
            assert!(self.more(), "it ended before {text:?}: {}", self.seen);
        }
    }

    /// Reads to its end.
    fn end(&mut self) {
        while !self.seen.ends_with("\r\n0\r\n\r\n") && self.more() {}
    }
}

#[test]
fn who_signs_in_gets_in_until_they_sign_out() {
    let host = Host::start();
    for path in ["/", "/console"] {
        let answer = host.http("GET", path, &[], b"");
        assert_eq!(
            (answer.status, answer.header("location")),
            (303, "/console/")
        );
    }
    let page = host.http("GET", "/console/", &[], b"");
    assert_eq!(
        (page.status, page.header("location")),
        (303, "/console/sign-in")
    );
    assert!(
        host.http("GET", "/console/sign-in", &[], b"")
            .text()
            .contains("sign-in.js")
    );
    for path in [
        "session",
        "functions",
        "events",
        "logs?name=x",
        "2016-08-15/services",
    ] {
        let answer = host.http("GET", &format!("/console/api/{path}"), &[], b"");
        assert_eq!(answer.refused(401), "SignInRequired", "{path}");
    }
    let key = key(&host);
    let origin = ("Sec-Fetch-Site", "same-origin");
    let wrong = (key.0.clone(), format!("{}x", key.1));
    assert_eq!(
        sign_in(&host, &wrong, &[origin]).refused(401),
        "SignInFailed"
    );
    let unknown = ("THAWnobody".to_owned(), "THAWnobody".to_owned());
    let answer = sign_in(&host, &unknown, &[origin]);
    assert_eq!(
        (answer.refused(401).as_str(), answer.header("set-cookie")),
        ("SignInFailed", "")
    );
    assert_eq!(sign_in(&host, &key, &[]).refused(403), "CrossSite");
    let foreign = [("Origin", "http://elsewhere.example")];
    assert_eq!(sign_in(&host, &key, &foreign).refused(403), "CrossSite");

    let visitor = Visitor::with(&host, &key);
    assert_eq!(visitor.get("/console/").status, 200);
    assert_eq!(
        visitor.get("/console/sign-in").header("location"),
        "/console/"
    );
    assert!(visitor.get("/console/api/functions").ok()["functions"].is_array());
    let out = visitor.change("DELETE", SESSION, &Value::Null);
    assert!(out.header("set-cookie").contains("Max-Age=0"), "{out:?}");
    assert_eq!(
        visitor.get("/console/api/functions").refused(401),
        "SignInRequired"
    );

    let again = Visitor::with(&host, &key);
    host.call("DELETE", &format!("/thaw/keys/{}", key.0), &Value::Null)
        .ok();
    assert_eq!(
        again.get("/console/api/functions").refused(401),
        "SignInRequired"
    );
}

#[test]
fn the_cookie_is_for_the_console_alone() {
    let host = Host::start();
    let key = key(&host);
    let cookie = |scheme: &str, more: (&str, &str)| {
        let origin = format!("{scheme}://{}", host.address);
        let headers = [("Host", host.address.as_str()), ("Origin", &origin), more];
        let answer = sign_in(&host, &key, &headers);
        answer.ok();
        answer.header("set-cookie").to_owned()
    };
    let line = cookie("http", ("X-Forwarded-Proto", "https"));
    for part in ["; HttpOnly", "; SameSite=Strict", "; Path=/console;"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(
        !line.contains("Secure"),
        "a header that anybody sends: {line}"
    );
    assert!(cookie("https", ("X-Other", "x")).contains("; Secure"));
    let value = line.split_once('=').unwrap().1.split_once(';').unwrap().0;
    assert_eq!(value.len(), 64, "32 random bytes");
    // It is no signature: the API itself does not take it.
    let answer = host.http("GET", "/2016-08-15/services", &[("Cookie", &line)], b"");
    assert_eq!(answer.status, 400);
}

#[test]
fn changes_come_from_the_page_and_with_its_token() {
    let host = Host::start();
    let visitor = Visitor::new(&host);
    let (origin, token) = (visitor.origin.as_str(), visitor.token.as_str());
    let service = json!({ "serviceName": "demo" });
    let refused = |headers: &[(&str, &str)]| {
        visitor
            .change_with("POST", SERVICES, headers, &service)
            .refused(403)
    };
    assert_eq!(refused(&[("Origin", origin)]), "TokenMissing");
    let other = "0".repeat(64);
    assert_eq!(
        refused(&[("Origin", origin), ("X-Csrf-Token", &other)]),
        "TokenMissing"
    );
    assert_eq!(refused(&[("X-Csrf-Token", token)]), "CrossSite");
    for (name, value) in [
        ("Origin", "http://elsewhere.example"),
        ("Origin", "null"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
    ] {
        assert_eq!(
            refused(&[(name, value), ("X-Csrf-Token", token)]),
            "CrossSite",
            "{value}"
        );
    }
    let other = Visitor::new(&host);
    assert_eq!(
        refused(&[("Origin", origin), ("X-Csrf-Token", &other.token)]),
        "TokenMissing"
    );
    let headers = [
        ("Cookie", visitor.cookie.as_str()),
        ("Sec-Fetch-Site", "cross-site"),
    ];
    let read = host.http("GET", "/console/api/functions", &headers, b"");
    assert_eq!(read.refused(403), "CrossSite");
    let listed = visitor.get(SERVICES).ok();
    assert_eq!(listed["services"], json!([]), "nothing was changed");
    let headers = [("Sec-Fetch-Site", "same-origin"), ("X-Csrf-Token", token)];
    visitor
        .change_with("POST", SERVICES, &headers, &service)
        .ok();
    assert_eq!(
        visitor.get(SERVICES).ok()["services"][0]["serviceName"],
        "demo"
    );
}

#[test]
fn browsers_are_told_to_run_nothing_else() {
    let host = Host::start();
    for (path, status, kind) in [
        ("/console/sign-in", 200, "text/html; charset=utf-8"),
        ("/console/app.js", 200, "text/javascript; charset=utf-8"),
        ("/console/style.css", 200, "text/css; charset=utf-8"),
        ("/console/icon.svg", 200, "image/svg+xml; charset=utf-8"),
        ("/console/api/functions", 401, "application/json"),
        ("/console/nothing", 404, "application/json"),
    ] {
        let answer = host.http("GET", path, &[], b"");
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (status, kind),
            "{path}"
        );
        let policy = answer.header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'self'; "),
            "{path}: {policy}"
        );
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"));
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("referrer-policy"), "same-origin");
    }
    let first = host.http("GET", "/console/app.js", &[], b"");
    let tag = first.header("etag");
    let again = host.http("GET", "/console/app.js", &[("If-None-Match", tag)], b"");
    assert_eq!((again.status, again.body.len()), (304, 0));
}

#[test]
fn paths_that_are_none_lead_nowhere() {
    let host = Host::start();
    let visitor = Visitor::new(&host);
    for path in [
        "/console/../thaw/keys",
        "/console/..",
        "/console/%2e%2e/thaw/keys",
        "/console/%2e%2e%2fthaw%2fkeys",
        "/console/./",
        "/console//",
        "/console/app.js/",
        "/console/%61pp.js",
        "/console/page/app.js",
        "/console/api",
        "/console/api/",
        "/console/api/..",
        "/console/api/%2e%2e/thaw/keys",
        "/console/api/functions/%2e%2e",
        "/console/api/keys",
        "/console/api/thaw/keys",
        "/console/api/%00",
        "/console/api/%ff",
        "/console/api/2099-01-01/services",
    ] {
        assert_eq!(visitor.get(path).refused(404), "PathNotFound", "{path}");
    }
    let answer = visitor.change("POST", "/console/", &Value::Null);
    assert_eq!(answer.refused(405), "MethodNotAllowed");
    let answer = visitor.change("POST", "/console/api/keys", &Value::Null);
    assert_eq!(answer.refused(404), "PathNotFound");
    assert_eq!(
        host.http("POST", "/", &[], b"").refused(404),
        "PathNotFound"
    );
}

#[test]
fn the_list_comes_by_itself_as_long_as_somebody_is_signed_in() {
    let host = Host::start();
    let visitor = Visitor::new(&host);
    let (mut first, mut second) = (
        visitor.follow("/console/api/events"),
        visitor.follow("/console/api/events"),
    );
    for following in [&mut first, &mut second] {
        following.until("event: functions\ndata: {\"functions\":[]}\n\n");
        assert!(following.seen.contains("content-type: text/event-stream"));
    }
    host.deploy(&json!({}));
    for following in [&mut first, &mut second] {
        following.until("\"name\":\"demo/web\"");
        assert_eq!(
            following.seen.matches("event: functions").count(),
            2,
            "news only"
        );
    }
    visitor.change("DELETE", SESSION, &Value::Null).ok();
    first.end();
    second.end();
}

#[test]
fn a_page_that_follows_does_not_keep_the_host_from_ending() {
    let mut host = Host::start();
    let log = host.thaw.root().with_extension("serve.log");
    let mut following = Visitor::new(&host).follow("/console/api/events");
    following.until("event: functions");
    host.end();
    following.end();
    let log = std::fs::read_to_string(log).unwrap();
    assert!(!log.contains("cut off"), "{log}");
}

#[test]
fn pages_that_follow_are_bounded() {
    let host = Host::start();
    host.deploy(&json!({}));
    let visitor = Visitor::new(&host);
    let paths = [
        "/console/api/events",
        "/console/api/logs?name=demo/web&follow=true",
    ];
    let begin = |path: &&str| {
        let mut following = visitor.follow(path);
        following.until("HTTP/1.1 200");
        following
    };
    let all: Vec<Following> = paths.iter().cycle().take(32).map(begin).collect();
    for path in paths {
        assert_eq!(visitor.get(path).refused(429), "ResourceExhausted");
    }
    drop(all);
    crate::support::until("there is room again for all", || {
        let open = paths.iter().cycle().take(32).map(|path| {
            let mut following = visitor.follow(path);
            following.more();
            following
        });
        let open: Vec<Following> = open.collect();
        open.iter().all(|it| it.seen.starts_with("HTTP/1.1 200"))
    });
}

#[test]
fn logs_flow_and_instances_are_shown() {
    let host = Host::start();
    host.deploy(&json!({}));
    let visitor = Visitor::new(&host);
    let mut logs = visitor.follow("/console/api/logs?name=demo/web&follow=true");
    let invoke = |event: &str| {
        let path = format!("{SERVICES}/demo/functions/web/invocations");
        let headers = [
            ("Origin", visitor.origin.as_str()),
            ("X-Csrf-Token", &visitor.token),
            ("X-Fc-Log-Type", "Tail"),
        ];
        visitor.change_with("POST", &path, &headers, &json!(event))
    };
    let answer = invoke("hello");
    assert_eq!((answer.status, answer.text().as_str()), (200, "\"hello\""));
    assert!(answer.headers.contains_key("x-fc-log-result"));
    logs.until("listening at");
    let facts = visitor.get("/console/api/function?name=demo/web").ok();
    assert_eq!(
        (&facts["invocations"], &facts["live"][0]["answered"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(facts["live"][0]["how"], "full");
    assert_eq!(facts["coldStarts"].as_array().unwrap().len(), 1);
    assert_eq!(facts["acceleratedInvocations"], 0);
    let set = visitor.get("/console/api/working-set?name=demo/web").ok();
    assert_eq!(set["files"], json!([]));
    let missing = visitor.get("/console/api/function?name=demo/nix");
    assert_eq!(missing.refused(404), "FunctionNotFound");
}

#[test]
fn what_is_wrong_names_its_field() {
    let host = Host::start();
    let visitor = Visitor::new(&host);
    visitor
        .change("POST", SERVICES, &json!({ "serviceName": "demo" }))
        .ok();
    let functions = format!("{SERVICES}/demo/functions");
    let container = json!({ "image": host.image, "accelerationType": "None" });
    let good = json!({ "functionName": "web", "customContainerConfig": container });
    let wrong = |method: &str, path: &str, field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        let answer = visitor.change(method, path, &body);
        assert_eq!(answer.refused(400), "InvalidArgument");
        answer.json()["ErrorMessage"].as_str().unwrap().to_owned()
    };
    let create = |field: &str, value: Value| wrong("POST", &functions, field, value);
    assert!(create("functionName", json!("9")).starts_with("functionName "));
    assert!(create("memorySize", json!(1)).starts_with("memorySize "));
    let image = create("customContainerConfig", json!({}));
    assert!(image.starts_with("customContainerConfig.image "), "{image}");
    visitor.change("POST", &functions, &good).ok();
    let one = format!("{functions}/web");
    assert!(wrong("PUT", &one, "timeout", json!("soon")).starts_with("timeout "));
    let acceleration = json!({ "image": host.image, "accelerationType": "Fast" });
    let message = wrong("PUT", &one, "customContainerConfig", acceleration);
    assert!(
        message.starts_with("customContainerConfig.accelerationType "),
        "{message}"
    );
}

#[test]
fn without_sign_in_changes_need_the_token_all_the_same() {
    let host = Host::with(&["--no-auth"]);
    assert_eq!(host.http("GET", "/console/", &[], b"").status, 200);
    let sign_in = host.http("GET", "/console/sign-in", &[], b"");
    assert_eq!(sign_in.header("location"), "/console/");
    let facts = host.http("GET", SESSION, &[], b"").ok();
    assert_eq!(facts["key"], Value::Null);
    let body = br#"{"serviceName":"demo"}"#;
    let origin = ("Origin", "http://localhost");
    let bare = host.http("POST", SERVICES, &[origin], body);
    assert_eq!(bare.refused(403), "TokenMissing");
    let token = ("X-Csrf-Token", facts["token"].as_str().unwrap());
    host.http("POST", SERVICES, &[origin, token], body).ok();
    let named = host.http("GET", SESSION, &[("Host", "elsewhere.example")], b"");
    assert_eq!(named.refused(403), "HostNotAllowed");
    let address = host.http("GET", SESSION, &[("Host", "127.0.0.1:7000")], b"");
    assert_eq!(address.status, 200);
}

#[test]
fn what_a_function_shows_is_not_of_the_console() {
    let host = Host::start();
    host.deploy(&json!({}));
    let trigger = json!({
        "triggerName": "http",
        "triggerType": "http",
        "triggerConfig": { "authType": "anonymous", "methods": ["GET"] },
    });
    host.call(
        "POST",
        "/2016-08-15/services/demo/functions/web/triggers",
        &trigger,
    )
    .ok();
    let shown = host.http("GET", "/2016-08-15/proxy/demo/web/", &[], b"");
    assert_eq!(shown.status, 200);
    let policy = shown.header("content-security-policy");
    assert!(
        policy.starts_with("sandbox ") && !policy.contains("allow-same-origin"),
        "{policy}"
    );
}
