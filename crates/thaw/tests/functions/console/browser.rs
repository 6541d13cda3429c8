//! A browser: Chromium without a window, steered by WebDriver.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use thaw_testkit::scratch;

use crate::support::{exchange, until};

/// The key under which WebDriver names elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// It ends when the value goes.
pub(super) struct Browser {
    driver: Child,
    address: String,
    session: String,
    said: RefCell<Vec<String>>,
    _profile: TempDir,
}

impl Browser {
    pub(super) fn start() -> Self {
        let profile = scratch::directory().unwrap();
        // It takes a port that is free by IPv4, and gives up where that is taken by IPv6.
        let mut tries = 0..5;
        let (driver, port) = loop {
            assert!(tries.next().is_some(), "chromedriver takes no port");
            let mut driver = Command::new("chromedriver")
                .arg("--port=0")
                .env("TMPDIR", profile.path())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("chromedriver: `cargo xtask setup` installs it");
            let said = BufReader::new(driver.stdout.take().unwrap());
            let port = said.lines().map_while(Result::ok).find_map(|line| {
                let (_, port) = line.split_once("successfully on port ")?;
                Some(port.trim_end_matches('.').to_owned())
            });
            match port {
                Some(port) => break (driver, port),
                None => drop(driver.wait()),
            }
        };
        let mut browser = Self {
            driver,
            address: format!("127.0.0.1:{port}"),
            session: String::new(),
            said: RefCell::default(),
            _profile: profile,
        };
        let data = format!("--user-data-dir={}/data", browser._profile.path().display());
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--lang=en-GB",
            &data,
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": args },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let made = browser.ask("POST", "/session", &wanted);
        browser.session = made["sessionId"].as_str().unwrap().to_owned();
        browser.size(1280, 900, false);
        browser
    }

    fn try_ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let stream = TcpStream::connect(&self.address).unwrap();
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let answer = exchange(stream, method, path, &[], body.as_bytes());
        (answer.status, answer.json()["value"].clone())
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, value) = self.try_ask(method, path, body);
        assert_eq!(status, 200, "{method} {path} {body}: {value}");
        value
    }

    fn of_session(&self, method: &str, path: &str, body: &Value) -> Value {
        self.ask(method, &format!("/session/{}{path}", self.session), body)
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.of_session("POST", "/goog/cdp/execute", &body)
    }

    /// Opens a page, and waits until it has its title.
    pub(super) fn open(&self, url: &str) {
        let navigate = || self.of_session("POST", "/url", &json!({ "url": url }));
        navigate();
        until(&format!("{url} is shown"), || {
            if !self.text("h1").is_empty() {
                return true;
            }
            if self.was_interrupted() {
                navigate();
            }
            false
        });
    }

    /// Whether the browser has broken something off because an interface came or went: containers of
    /// other tests do that.
    fn was_interrupted(&self) -> bool {
        self.listen();
        let mut said = self.said.borrow_mut();
        let before = said.len();
        said.retain(|line| !line.contains("ERR_NETWORK_CHANGED"));
        said.len() < before
    }

    fn listen(&self) {
        let entries = self.of_session("POST", "/se/log", &json!({ "type": "browser" }));
        let entries = entries.as_array().unwrap().iter();
        let bad = entries.filter(|entry| entry["level"] != "INFO" && entry["level"] != "DEBUG");
        let lines = bad.map(|entry| entry["message"].as_str().unwrap().to_owned());
        self.said.borrow_mut().extend(lines);
    }

    /// Of the window, in CSS pixels.
    pub(super) fn size(&self, width: u32, height: u32, phone: bool) {
        let parameters =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone });
        self.devtools("Emulation.setDeviceMetricsOverride", &parameters);
    }

    /// What the system's settings say.
    pub(super) fn prefer(&self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.devtools(
            "Emulation.setEmulatedMedia",
            &json!({ "features": [feature] }),
        );
    }

    /// What an expression of JavaScript is.
    pub(super) fn value(&self, expression: &str) -> Value {
        let body = json!({ "script": format!("return ({expression})"), "args": [] });
        self.of_session("POST", "/execute/sync", &body)
    }

    /// The element that is there, or comes.
    fn find(&self, selector: &str) -> String {
        let wanted = json!({ "using": "css selector", "value": selector });
        let path = format!("/session/{}/element", self.session);
        let mut found = Value::Null;
        until(&format!("there is {selector}"), || {
            let (status, value) = self.try_ask("POST", &path, &wanted);
            found = value;
            status == 200
        });
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    pub(super) fn click(&self, selector: &str) {
        let path = format!(
            "/session/{}/element/{}/click",
            self.session,
            self.find(selector)
        );
        until(&format!("{selector} can be clicked"), || {
            self.try_ask("POST", &path, &json!({})).0 == 200
        });
    }

    /// Types into a field what is to be in it.
    pub(super) fn fill(&self, selector: &str, text: &str) {
        let element = self.find(selector);
        self.of_session("POST", &format!("/element/{element}/clear"), &json!({}));
        self.of_session(
            "POST",
            &format!("/element/{element}/value"),
            &json!({ "text": text }),
        );
    }

    /// Presses keys, wherever the focus is.
    pub(super) fn press(&self, keys: &str) {
        let downs = keys.chars().flat_map(|key| {
            ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() }))
        });
        let keyboard =
            json!({ "type": "key", "id": "keyboard", "actions": downs.collect::<Vec<_>>() });
        self.of_session("POST", "/actions", &json!({ "actions": [keyboard] }));
    }

    /// What is to be read there; hidden elements have no text.
    pub(super) fn text(&self, selector: &str) -> String {
        let quoted = json!(selector);
        let text = self.value(&format!(
            "document.querySelector({quoted})?.innerText ?? ''"
        ));
        text.as_str().unwrap().to_owned()
    }

    /// Waits until something is to be read there.
    pub(super) fn see(&self, selector: &str, text: &str) {
        let mut now = String::new();
        let begin = std::time::Instant::now();
        while !now.contains(text) {
            let late = begin.elapsed().as_secs() > 120;
            if late {
                self.picture("failed");
            }
            assert!(
                !late,
                "{selector} never says {text:?}: {now:?}\n{:?}",
                self.complaints()
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
            now = self.text(selector);
        }
    }

    /// Errors that the browser has written to its console since it was asked last.
    pub(super) fn complaints(&self) -> Vec<String> {
        self.was_interrupted();
        self.said.take()
    }

    /// Keeps a picture of all of the page below `target/screenshots`.
    pub(super) fn picture(&self, name: &str) {
        let size = self.devtools("Page.getLayoutMetrics", &json!({}))["cssContentSize"].clone();
        let clip =
            json!({ "x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1 });
        let wanted = json!({ "captureBeyondViewport": true, "clip": clip });
        let picture = self.devtools("Page.captureScreenshot", &wanted);
        let directory: PathBuf = scratch::target_directory().join("screenshots");
        fs::create_dir_all(&directory).unwrap();
        let bytes = STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        fs::write(directory.join(format!("{name}.png")), bytes).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            self.try_ask(
                "DELETE",
                &format!("/session/{}", self.session),
                &Value::Null,
            );
        }
        self.driver.kill().ok();
        self.driver.wait().ok();
    }
}
