//! `thaw fn`: what it prints, what it changes, and what its exit code says.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use thaw_testkit::image::{function, real};

use crate::support::{Host, until};

/// `thaw fn ARGS…`, with nothing on standard input.
fn command(host: &Host, args: &[&str]) -> Command {
    let mut command = host.thaw.command([&["fn"], args].concat());
    command.stdin(Stdio::null());
    command
}

fn run(host: &Host, args: &[&str]) -> Output {
    command(host, args).output().unwrap()
}

/// What it prints, where it has to succeed.
fn ok(host: &Host, args: &[&str]) -> String {
    let output = run(host, args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn json_of(host: &Host, args: &[&str]) -> Value {
    let printed = ok(host, &[args, &["--json"]].concat());
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

/// Exit code and standard error, where it has to fail.
fn failed(host: &Host, args: &[&str]) -> (i32, String) {
    let output = run(host, args);
    let error = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), error)
}

#[test]
fn a_function_is_invoked_listed_scaled_and_deleted() {
    let host = Host::start();
    host.deploy(&json!({}));
    assert_eq!(
        ok(&host, &["invoke", "demo/web", "--event", "hello"]),
        "hello"
    );
    let list = ok(&host, &["list"]);
    let line = list.lines().nth(1).unwrap();
    assert!(line.starts_with("demo/web  "), "{list}");
    assert!(line.contains(&host.image), "{list}");
    assert_eq!(json_of(&host, &["list"])[0]["invocations"], 1);
    let shown = ok(&host, &["show", "demo/web"]);
    assert!(shown.contains("128 MiB"), "{shown}");
    assert!(shown.contains("cold start"), "{shown}");
    assert_eq!(
        ok(&host, &["scale", "demo/web", "--min", "1", "--max", "2"]),
        "at least 1, at most 2; 1 now\n"
    );
    let (code, error) = failed(&host, &["scale", "demo/web", "--min", "3"]);
    assert!(
        code == 125 && error.contains("at least 3 and at most 2"),
        "{error}"
    );
    let free = json_of(&host, &["scale", "demo/web", "--min", "0", "--max", "none"]);
    assert_eq!((&free["min"], &free["max"]), (&json!(0), &Value::Null));
    let trigger = json!({
        "triggerName": "http", "triggerType": "http",
        "triggerConfig": { "authType": "anonymous", "methods": ["GET"] },
    });
    let triggers = "/2016-08-15/services/demo/functions/web/triggers";
    host.call("POST", triggers, &trigger).ok();
    let (code, error) = failed(&host, &["delete", "demo/web"]);
    assert!(code == 125 && error.contains("triggers (http)"), "{error}");
    assert_eq!(
        ok(&host, &["delete", "demo/web", "--force"]),
        "demo/web is deleted\n"
    );
    let (code, error) = failed(&host, &["show", "demo/web"]);
    assert!(code == 125 && error.contains("thaw fn list"), "{error}");
}

#[test]
fn a_function_without_a_service_is_named_alone() {
    let host = Host::start();
    let function = json!({
        "functionName": "alone", "runtime": "custom-container",
        "customContainerConfig": { "image": host.image, "accelerationType": "None" },
    });
    host.call("POST", "/2023-03-30/functions", &function).ok();
    assert_eq!(ok(&host, &["invoke", "alone", "--event", "x"]), "x");
    assert!(ok(&host, &["show", "alone"]).starts_with("function      alone\n"));
}

#[test]
fn events_come_from_everywhere_and_answers_go_where_they_belong() {
    let host = Host::start();
    host.deploy(&json!({}));
    let mut child = command(&host, &["invoke", "demo/web"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"by pipe").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"by pipe");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("event");
    std::fs::write(&file, [0, 159, 146, 150]).unwrap();
    let file = file.to_str().unwrap();
    let output = run(&host, &["invoke", "demo/web", "--file", file]);
    assert_eq!(output.stdout, [0, 159, 146, 150]);
    let answer = json_of(&host, &["invoke", "demo/web", "--file", file]);
    assert_eq!(answer["bodyBase64"], "AJ+Slg==");
    let printed = run(
        &host,
        &["invoke", "demo/web", "-e", "print to the log", "--tail"],
    );
    assert_eq!(printed.stdout, b"printed");
    let log = String::from_utf8(printed.stderr).unwrap();
    assert!(log.contains("to the log"), "{log}");
    let (code, error) = failed(&host, &["invoke", "demo/web", "-e", "fail"]);
    assert_eq!(code, 1);
    assert!(error.contains("UnhandledInvocationError") && error.contains("failed as told"));
    let (code, error) = failed(&host, &["invoke", "demo/nix", "-e", "x"]);
    assert!(
        code == 125 && error.contains("'demo/nix' does not exist"),
        "{error}"
    );
    let (code, error) = failed(
        &host,
        &["invoke", "demo/web", "-e", "x", "--qualifier", "7"],
    );
    assert!(
        code == 125 && error.contains("no version or alias"),
        "{error}"
    );
}

#[test]
fn logs_are_shown_and_followed() {
    let host = Host::start();
    host.deploy(&json!({}));
    let queued = ok(&host, &["invoke", "demo/web", "-e", "print one", "--async"]);
    let path = format!(
        "/2016-08-15/services/demo/functions/web/stateful-async-invocations/{}",
        queued.trim()
    );
    until("the queue has it done", || {
        host.call("GET", &path, &Value::Null).ok()["status"] == "Succeeded"
    });
    until("the log has it", || {
        ok(&host, &["logs", "demo/web"]).contains(" one\n")
    });
    assert_eq!(
        ok(&host, &["logs", "demo/web", "-n", "1"]).lines().count(),
        1
    );
    let mut follower = command(&host, &["logs", "demo/web", "-f", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    ok(&host, &["invoke", "demo/web", "-e", "print two"]);
    let lines = std::io::BufReader::new(follower.stdout.take().unwrap());
    let mut lines = std::io::BufRead::lines(lines).map(Result::unwrap);
    let line = lines.find(|line| line.contains("two")).unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["text"], "two");
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[test]
fn acceleration_is_switched_and_its_state_told() {
    let host = Host::start();
    host.deploy(&json!({}));
    let status = |host: &Host| json_of(host, &["accelerate", "demo/web", "status"]);
    assert!(ok(&host, &["accelerate", "demo/web", "status"]).starts_with("None: "));
    assert_ne!(
        json_of(&host, &["accelerate", "demo/web", "on"])["status"],
        "None"
    );
    until("it is ready", || status(&host)["status"] == "Ready");
    let shown = ok(&host, &["accelerate", "demo/web", "status"]);
    assert!(shown.starts_with("Ready: "), "{shown}");
    assert_eq!(
        json_of(&host, &["accelerate", "demo/web", "off"])["status"],
        "None"
    );
    let (code, error) = failed(&host, &["accelerate", "demo/nix", "retry"]);
    assert!(
        code == 125 && error.contains("no function 'demo/nix'"),
        "{error}"
    );
}

/// A template with one function and one HTTP trigger.
fn template(image: &str, memory: u32) -> String {
    format!(
        "ROSTemplateFormatVersion: '2015-09-01'
Transform: Aliyun::Serverless-2018-04-03
Resources:
  demo:
    Type: Aliyun::Serverless::Service
    Properties: {{Description: made by a template}}
    web:
      Type: Aliyun::Serverless::Function
      Properties:
        Runtime: custom-container
        MemorySize: {memory}
        Timeout: 30
        EnvironmentVariables: {{SECRET: hidden}}
        CustomContainerConfig: {{Image: '{image}', AccelerationType: None}}
        AsyncConfiguration: {{MaxAsyncRetryAttempts: 1}}
      Events:
        front: {{Type: HTTP, Properties: {{AuthType: ANONYMOUS, Methods: [GET]}}}}
  demo.example.test:
    Type: Aliyun::Serverless::CustomDomain
    Properties:
      Protocol: HTTP
      RouteConfig: {{routes: {{'/*': {{ServiceName: demo, FunctionName: web}}}}}}
"
    )
}

#[test]
fn a_template_is_deployed_by_a_plan() {
    let host = Host::start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("template.yml");
    let deploy = |args: &[&str]| {
        let mut command = command(&host, &[&["deploy"], args].concat());
        command.current_dir(directory.path()).output().unwrap()
    };
    let text = |output: Output| {
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        String::from_utf8(output.stdout).unwrap()
    };
    let missing = deploy(&[]);
    assert_eq!(missing.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("there is no template.yml here"));

    std::fs::write(&file, template(&host.image, 128)).unwrap();
    let plan = text(deploy(&["--dry-run"]));
    assert!(
        plan.contains("5 to create, 0 to update, 0 unchanged"),
        "{plan}"
    );
    let services = host.call("GET", "/2016-08-15/services", &Value::Null).ok();
    assert_eq!(services["services"], json!([]), "a dry run makes nothing");
    let done = text(deploy(&["--yes"]));
    let url = format!("http://{}/2016-08-15/proxy/demo/web/", host.address);
    assert_eq!(
        done.lines().last().unwrap(),
        format!("demo/web/front  {url}")
    );
    let path = url.split_once(&host.address).unwrap().1;
    assert_eq!(host.http("GET", path, &[], b"").status, 200);
    let domain = [("Host", "demo.example.test")];
    assert_eq!(host.http("GET", "/x", &domain, b"").status, 200);

    let again = text(deploy(&[]));
    assert!(
        again.contains("0 to create, 0 to update, 5 unchanged"),
        "{again}"
    );
    std::fs::write(&file, template(&host.image, 256)).unwrap();
    let changed = text(deploy(&[]));
    assert!(changed.contains("memorySize: 128 → 256"), "{changed}");
    assert!(
        changed.contains("0 to create, 1 to update, 4 unchanged"),
        "{changed}"
    );
    assert!(!changed.contains("hidden"), "{changed}");
    assert_eq!(host.facts()["memory"], 256);

    let other = std::fs::read_to_string(&file).unwrap();
    let other = other.replace(
        "HTTP, Properties: {AuthType: ANONYMOUS, Methods: [GET]}",
        "Timer, Properties: {CronExpression: '@every 1h'}",
    );
    std::fs::write(&file, other).unwrap();
    let output = deploy(&[]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("of the type http, and the template has timer"),
        "{error}"
    );
    std::fs::write(&file, "Resources: 5").unwrap();
    let output = deploy(&[]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("template.yml cannot be deployed"), "{error}");
}

#[test]
fn a_tag_that_was_moved_is_a_change() {
    let host = Host::start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("t.yaml");
    std::fs::write(&file, template(&host.image, 128)).unwrap();
    let file = file.to_str().unwrap();
    ok(&host, &["deploy", file]);
    let before = host.facts()["digest"].clone();
    let other = function::image(&real::cache_directory(), 1).unwrap();
    let other = other
        .write(&directory.path().join("layout"), "latest")
        .unwrap();
    other.push(&host.registry, "function:1").unwrap();
    let plan = json_of(&host, &["deploy", file, "--dry-run"]);
    let function = &plan["plan"][1];
    assert_eq!(function["action"], "update", "{plan}");
    assert_eq!(function["changes"][0]["from"], before);
    ok(&host, &["deploy", file]);
    assert_eq!(host.facts()["digest"], function["changes"][0]["to"]);
}
