//! A host, a function's image in a registry, and an HTTP client of the standard library.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use thaw_testkit::image::{Layout, function, real};
use thaw_testkit::registry::Registry;
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

/// For how long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The JSON of an answer that has to be a success.
    pub(crate) fn ok(&self) -> Value {
        assert!(self.status < 300, "{} {}", self.status, self.text());
        if self.body.is_empty() {
            Value::Null
        } else {
            self.json()
        }
    }

    /// The code of an answer that has to be this failure.
    pub(crate) fn refused(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()["ErrorCode"].as_str().unwrap().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map(String::as_str)
            .unwrap_or_default()
    }
}

/// Sends a request over a fresh connection, and reads all of the answer.
pub(crate) fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"))
    {
        head += "Host: localhost\r\n";
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    read_answer(&mut BufReader::new(stream))
}

pub(crate) fn read_answer(reader: &mut impl BufRead) -> Answer {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line
        .split(' ')
        .nth(1)
        .unwrap_or_else(|| panic!("{line:?}"))
        .parse()
        .unwrap();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        let value = value.trim();
        headers
            .entry(name.to_ascii_lowercase())
            .and_modify(|before: &mut String| *before = format!("{before}, {value}"))
            .or_insert_with(|| value.to_owned());
    }
    let mut body = Vec::new();
    if headers
        .get("transfer-encoding")
        .is_some_and(|it| it == "chunked")
    {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let size = u64::from_str_radix(line.trim(), 16).unwrap();
            reader.by_ref().take(size).read_to_end(&mut body).unwrap();
            reader.read_line(&mut line).unwrap();
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = headers.get("content-length") {
        reader
            .take(length.parse().unwrap())
            .read_to_end(&mut body)
            .unwrap();
    }
    Answer {
        status,
        headers,
        body,
    }
}

/// A host with a store of its own, and a registry with a function's image. It ends when the value goes.
pub(crate) struct Host {
    pub(crate) registry: Arc<Registry>,
    pub(crate) layout: Layout,
    pub(crate) image: String,
    pub(crate) thaw: Thaw,
    process: Option<Child>,
    pub(crate) address: String,
    directory: Arc<TempDir>,
}

impl Host {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(flags: &[&str]) -> Self {
        let mut host = Self::idle();
        host.begin(flags);
        host
    }

    /// One that does not run yet.
    pub(crate) fn idle() -> Self {
        let registry = Registry::start().unwrap();
        let directory = scratch::directory().unwrap();
        let image = function::image(&real::cache_directory(), 2).unwrap();
        let layout = image
            .write(&directory.path().join("layout"), "latest")
            .unwrap();
        let image = layout.push(&registry, "function:1").unwrap();
        Self {
            registry: Arc::new(registry),
            layout,
            image,
            thaw: Thaw::new(env!("CARGO_BIN_EXE_thaw")).unwrap(),
            process: None,
            address: String::new(),
            directory: Arc::new(directory),
        }
    }

    /// Another host, with a store of its own, for the same registry and image.
    pub(crate) fn beside(&self, flags: &[&str]) -> Self {
        let mut host = Self {
            registry: Arc::clone(&self.registry),
            layout: self.layout.clone(),
            image: self.image.clone(),
            thaw: Thaw::new(env!("CARGO_BIN_EXE_thaw")).unwrap(),
            process: None,
            address: String::new(),
            directory: Arc::clone(&self.directory),
        };
        host.begin(flags);
        host
    }

    /// Starts the host's process.
    pub(crate) fn begin(&mut self, flags: &[&str]) {
        let mut args = vec!["serve", "--listen", "127.0.0.1:0"];
        args.extend(flags);
        let mut command = self.thaw.command(args);
        command.stdin(Stdio::null());
        self.begin_as(command);
    }

    /// Starts the host's process by a command of one's own.
    pub(crate) fn begin_as(&mut self, mut command: Command) {
        let path = self.thaw.root().with_extension("serve.log");
        let log = File::create(&path).unwrap();
        command.stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn().unwrap());
        let begin = Instant::now();
        self.address = loop {
            let log = std::fs::read_to_string(&path).unwrap();
            let found = log.split_once("functions at http://");
            if let Some((address, _)) = found.and_then(|(_, rest)| rest.split_once('\n')) {
                break address.to_owned();
            }
            assert!(begin.elapsed() < PATIENCE, "the host does not begin: {log}");
            std::thread::sleep(Duration::from_millis(10));
        };
    }

    /// The id of the host's process.
    pub(crate) fn process(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// Kills the host's process.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Stops the host, or has it go on.
    pub(crate) fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().unwrap();
        kill_process(Pid::from_child(process), signal).unwrap();
    }

    /// Tells the host to end, and waits until it has.
    pub(crate) fn end(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
        let status = process.wait().unwrap();
        assert!(status.success() || std::thread::panicking(), "{status}");
    }

    /// A call of root's, at the Unix socket.
    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        let stream = UnixStream::connect(self.thaw.root().join("functions.sock")).unwrap();
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        exchange(stream, method, path, &[], body.as_bytes())
    }

    /// A request of anybody's.
    pub(crate) fn http(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let stream = TcpStream::connect(&self.address).unwrap();
        exchange(stream, method, path, headers, body)
    }

    /// Makes service `demo` with function `web`, with these fields over the plain ones.
    pub(crate) fn deploy(&self, more: &Value) -> Value {
        let services = "/2016-08-15/services";
        let made = self.call("POST", services, &json!({ "serviceName": "demo" }));
        assert!(made.status == 200 || made.status == 409, "{}", made.text());
        let mut function = json!({
            "functionName": "web",
            "runtime": "custom-container",
            "handler": "none",
            "timeout": 30,
            "customContainerConfig": { "image": self.image, "accelerationType": "None" },
        });
        for (name, value) in more.as_object().unwrap() {
            if name == "customContainerConfig" {
                let config = function[name].as_object_mut().unwrap();
                config.extend(value.as_object().unwrap().clone());
            } else {
                function[name] = value.clone();
            }
        }
        self.call("POST", "/2016-08-15/services/demo/functions", &function)
            .ok()
    }

    /// Invokes `demo/web` with an event.
    pub(crate) fn invoke(&self, event: &str) -> Answer {
        self.invoke_with(event, &[])
    }

    pub(crate) fn invoke_with(&self, event: &str, headers: &[(&str, &str)]) -> Answer {
        let stream = UnixStream::connect(self.thaw.root().join("functions.sock")).unwrap();
        let path = "/2016-08-15/services/demo/functions/web/invocations";
        exchange(stream, "POST", path, headers, event.as_bytes())
    }

    /// Gives `demo/web` an HTTP trigger for everybody, and a domain, at which it sees paths as they are.
    pub(crate) fn publish(&self, domain: &str) {
        let trigger = json!({ "triggerName": "http", "triggerType": "http",
            "triggerConfig": { "authType": "anonymous", "methods": ["GET", "POST"] } });
        let triggers = "/2016-08-15/services/demo/functions/web/triggers";
        self.call("POST", triggers, &trigger).ok();
        let route = json!({ "path": "/*", "serviceName": "demo", "functionName": "web" });
        let domain = json!({ "domainName": domain, "protocol": "HTTP",
            "routeConfig": { "routes": [route] } });
        self.call("POST", "/2016-08-15/custom-domains", &domain)
            .ok();
    }

    /// Sends an event to a function of service `demo`, and waits for nothing.
    pub(crate) fn asks(&self, function: &str, event: &str) -> UnixStream {
        let mut stream = UnixStream::connect(self.thaw.root().join("functions.sock")).unwrap();
        let path = format!("/2016-08-15/services/demo/functions/{function}/invocations");
        let length = event.len();
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all((head + event).as_bytes()).unwrap();
        stream
    }

    /// What the host knows of `demo/web`.
    pub(crate) fn facts(&self) -> Value {
        self.call("GET", "/thaw/functions?name=demo/web", &Value::Null)
            .ok()
    }

    /// What is written down of the containers of the store.
    pub(crate) fn states(&self) -> Vec<Value> {
        let dir = self.thaw.root().join("containers");
        let all = std::fs::read_dir(dir).unwrap().flatten();
        let read = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("state.json")).ok();
        all.filter_map(read)
            .map(|text| serde_json::from_slice(&text).unwrap())
            .collect()
    }

    /// Containers of the store that live.
    pub(crate) fn containers(&self) -> Vec<String> {
        let listed = self.thaw.run(["ps", "--json"]).unwrap();
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let all = listed.as_array().unwrap().iter();
        all.map(|it| it["name"].as_str().unwrap().to_owned())
            .collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let path = self.thaw.root().with_extension("serve.log");
            let log = std::fs::read_to_string(path).unwrap_or_default();
            eprintln!("the host's log:\n{log}");
        }
        self.end();
        // The bridge is the machine's, and goes with the last who needs it.
        if let Err(error) = self.thaw.run(["gc", "--all"]) {
            assert!(std::thread::panicking(), "{error:#}");
        }
        std::fs::remove_file(self.thaw.root().with_extension("serve.log")).ok();
    }
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !so() {
        assert!(begin.elapsed() < PATIENCE, "it never came that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
