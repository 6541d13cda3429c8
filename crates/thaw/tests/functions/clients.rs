//! Clients as they are published, unmodified, over TCP and with signatures. What each of them does and
//! expects stands in a script of its own, beside this file.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use thaw_testkit::{clients, scratch};

use crate::support::Host;

/// Where clients are kept.
fn cache() -> PathBuf {
    scratch::target_directory().join("clients")
}

/// A host, and what a client needs to know of it.
struct Place {
    host: Host,
    key: Value,
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let host = Host::with(&["--account", "1234", "--region", "far"]);
        let key = host.thaw.run(["key", "create", "--json"]).unwrap();
        Self {
            host,
            key: serde_json::from_str(&key).unwrap(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn key(&self, field: &str) -> &str {
        self.key[field].as_str().unwrap()
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.host.address)
    }

    /// `program ARGS…` in a directory of its own, without the user's settings.
    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.directory.path())
            .env("ENDPOINT", self.endpoint())
            .env("ACCOUNT", self.key("AccountId"))
            .env("KEY", self.key("AccessKeyId"))
            .env("SECRET", self.key("AccessKeySecret"))
            .env("IMAGE", &self.host.image)
            .stdin(Stdio::null());
        command
    }

    /// Runs a script of `name` to its end, which has to be a good one.
    fn script(&self, program: &str, name: &str, text: &str, modules: (&str, PathBuf)) {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        let mut command = self.command(Path::new(program), &[name]);
        said(command.env(modules.0, modules.1));
    }
}

/// What a command printed, which has to succeed.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{out}\n{error}");
    out
}

fn python(name: &str, text: &str) {
    let modules = clients::python(&cache()).unwrap();
    let place = Place::new();
    place.script("python3", name, text, ("PYTHONPATH", modules));
}

#[test]
fn the_python_sdk_of_2016() {
    python("client.py", include_str!("clients/fc2.py"));
}

#[test]
fn the_sdk_of_2021() {
    python("client.py", include_str!("clients/open2021.py"));
}

#[test]
fn the_sdk_of_2023() {
    python("client.py", include_str!("clients/fc2023.py"));
}

#[test]
fn the_node_sdk() {
    let modules = clients::node(&cache()).unwrap().join("node_modules");
    let text = include_str!("clients/fc2.js");
    Place::new().script("node", "client.js", text, ("NODE_PATH", modules));
}

#[test]
fn a_request_is_taken_once_and_a_deleted_key_no_more() {
    let modules = || ("PYTHONPATH", clients::python(&cache()).unwrap());
    let place = Place::new();
    place.script(
        "python3",
        "once.py",
        include_str!("clients/once.py"),
        modules(),
    );
    let id = place.key("AccessKeyId");
    let listed = place.host.thaw.run(["key", "list", "--json"]).unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["AccessKeyId"], id);
    assert!(
        !listed.to_string().contains(place.key("AccessKeySecret")),
        "it is shown once"
    );
    let other = place.host.thaw.run(["key", "create", "--json"]).unwrap();
    place.host.thaw.run(["key", "delete", id]).unwrap();
    let left = place.host.thaw.run(["key", "list"]).unwrap();
    assert!(!left.contains(id), "{left}");
    place.script(
        "python3",
        "gone.py",
        include_str!("clients/gone.py"),
        modules(),
    );
    let other: Value = serde_json::from_str(&other).unwrap();
    let place = Place {
        key: other,
        ..place
    };
    place.script(
        "python3",
        "once.py",
        include_str!("clients/once.py"),
        modules(),
    );
}

impl Place {
    /// `fun ARGS…`, told by file and environment where the host is.
    fn fun(&self, fun: &Path, args: &[&str]) -> Command {
        let home = self.directory.path().join(".fcli");
        std::fs::create_dir_all(&home).unwrap();
        let (key, secret) = (self.key("AccessKeyId"), self.key("AccessKeySecret"));
        let (account, endpoint) = (self.key("AccountId"), self.endpoint());
        let config = format!(
            "endpoint: '{endpoint}'\napi_version: '2016-08-15'\naccess_key_id: {key}\n\
             access_key_secret: {secret}\naccount_id: '{account}'\nregion: local\n\
             enable_custom_endpoint: true\nreport: false\ntimeout: 60\nretries: 1\n"
        );
        std::fs::write(home.join("config.yaml"), config).unwrap();
        let mut command = self.command(fun, args);
        command
            .env("FC_ENDPOINT", endpoint)
            .env("ACCOUNT_ID", account)
            .env("REGION", "local")
            .env("ACCESS_KEY_ID", key)
            .env("ACCESS_KEY_SECRET", secret)
            .env("FUN_DISABLE_VERSION_CHECK", "1");
        command
    }

    fn get(&self, path: &str) -> Value {
        let path = format!("/2016-08-15/{path}");
        self.host.call("GET", &path, &Value::Null).ok()
    }
}

#[test]
fn funcraft_deploys_a_template_twice_and_invokes() {
    let fun = clients::node(&cache()).unwrap();
    let fun = fun.join("node_modules/.bin/fun");
    let place = Place::new();
    let template = include_str!("clients/fun.yml").replace("@IMAGE@", &place.host.image);
    let path = place.directory.path().join("template.yml");
    std::fs::write(&path, &template).unwrap();
    let printed = said(&mut place.fun(&fun, &["deploy", "-y"]));
    assert!(printed.contains("deploy success"), "{printed}");

    assert_eq!(place.get("services/shop")["description"], "deployed by fun");
    let front = place.get("services/shop/functions/front");
    assert_eq!(front["memorySize"], 128);
    assert_eq!(front["environmentVariables"]["WHO"], "fun");
    assert_eq!(
        front["instanceLifecycleConfig"]["preStop"]["handler"],
        "/pre-stop"
    );
    let container = &front["customContainerConfig"];
    assert_eq!(container["command"], "[\"/function\"]");
    assert_eq!(container["accelerationType"], "None");
    let triggers = place.get("services/shop/functions/front/triggers");
    let triggers = triggers["triggers"].as_array().unwrap();
    assert_eq!(triggers.len(), 2);
    assert_eq!(triggers[0]["triggerConfig"]["cronExpression"], "@every 1h");
    let queue = place.get("services/shop/functions/job/async-invoke-config");
    assert_eq!(queue["maxAsyncRetryAttempts"], 1);
    let answer = place
        .host
        .http("GET", "/2016-08-15/proxy/shop/front/x", &[], b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let domain = [("Host", "shop.example.test")];
    assert_eq!(place.host.http("GET", "/x", &domain, b"").status, 200);

    std::fs::write(
        &path,
        template.replace("MemorySize: 128", "MemorySize: 256"),
    )
    .unwrap();
    said(&mut place.fun(&fun, &["deploy", "-y"]));
    let again = place.get("services/shop/functions/front");
    assert_eq!(again["memorySize"], 256);
    assert_eq!(again["functionId"], front["functionId"], "an update");
    let printed = said(&mut place.fun(&fun, &["invoke", "shop/job", "-e", "hello fun"]));
    assert!(printed.contains("hello fun"), "{printed}");
    let mut wrong = place.fun(&fun, &["deploy", "-y"]);
    let refused = wrong.env("ACCESS_KEY_SECRET", "wrong").output().unwrap();
    assert!(!refused.status.success());
}
