//! The demo's second act: a function of the same image, accelerated behind its back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use thaw_testkit::scratch;

use crate::host::Host;
use crate::world::World;

/// Where the function is reached.
const DOMAIN: &str = "web.example";
const FUNCTION: &str = "/2016-08-15/services/demo/functions/web";

/// A template as people have them: that the image is accelerated is the one line about it.
fn template(image: &str) -> String {
    format!(
        "ROSTemplateFormatVersion: '2015-09-01'
Transform: 'Aliyun::Serverless-2018-04-03'
Resources:
  demo:
    Type: 'Aliyun::Serverless::Service'
    Properties:
      Description: the demo's functions
    web:
      Type: 'Aliyun::Serverless::Function'
      Properties:
        Runtime: custom-container
        MemorySize: 4096
        Timeout: 60
        CAPort: 8080
        CustomContainerConfig:
          Image: {image}
          AccelerationType: Default
      Events:
        http:
          Type: HTTP
          Properties:
            AuthType: ANONYMOUS
            Methods: ['GET']
"
    )
}

/// One cold invocation.
struct Cold {
    took: Duration,
    moved: u64,
    how: String,
}

/// Runs it and prints what happened.
pub(super) fn run(world: &World, image: &str) -> Result<()> {
    println!("\n== a function: AccelerationType: Default, and nothing else to do");
    let host = Host::start(super::store()?, image, &["--keep", "2s"])?;
    let directory = scratch::directory()?;
    let file = directory.path().join("template.yml");
    std::fs::write(&file, template(image))?;
    let file = file.to_str().context("a path that is no UTF-8")?;
    print!("{}", host.thaw.run(["fn", "deploy", "--yes", file])?);
    let route = json!({ "domainName": DOMAIN, "protocol": "HTTP", "routeConfig": { "routes": [
        { "path": "/*", "serviceName": "demo", "functionName": "web", "methods": ["GET"] } ] } });
    host.call("POST", "/2016-08-15/custom-domains", &route)?;

    let original = invoke(world, &host)?;
    let mut meanwhile = 0;
    let ready = host.until("the image is accelerated", || {
        let answer = host.ask("GET", "/", &[("Host", DOMAIN)], b"")?;
        ensure!(
            answer.status < 400,
            "{} while it is prepared",
            answer.status
        );
        meanwhile += 1;
        let function = host.call("GET", FUNCTION, &Value::Null)?;
        let info = &function["customContainerConfig"]["accelerationInfo"];
        ensure!(
            info["status"] != "Failed",
            "the acceleration failed: {function}"
        );
        Ok(info["status"] == "Ready")
    })?;
    println!(
        "accelerated in the background: Ready {:.1} s later; {meanwhile} requests answered meanwhile",
        ready.as_secs_f64()
    );
    let facts = host.thaw.run(["fn", "show", "demo/web", "--json"])?;
    let facts: Value = serde_json::from_str(&facts)?;
    let unrecorded = &facts["acceleration"]["notRecorded"];
    ensure!(unrecorded.is_null(), "no start was recorded: {unrecorded}");
    host.until("it is scaled to zero", || Ok(host.containers()? == 0))?;
    println!("scaled to zero; the image is evicted from this machine (thaw gc --all)");
    host.thaw.run(["gc", "--all"])?;
    std::fs::write("/proc/sys/vm/drop_caches", "3")?;
    let accelerated = invoke(world, &host)?;

    println!(
        "\n{:<16}{:>12}{:>14}",
        "cold start", "answered in", "bytes moved"
    );
    for (name, cold) in [("original", &original), ("accelerated", &accelerated)] {
        let (time, moved) = (cold.took.as_secs_f64() * 1e3, cold.moved as f64 / 1e6);
        println!("{name:<16}{time:>9.0} ms{moved:>11.1} MB   {}", cold.how);
    }
    let ratio = accelerated.took.as_secs_f64() / original.took.as_secs_f64();
    println!("ratio: {ratio:.2} of the time");
    Ok(())
}

/// The first invocation on a machine that has nothing of the image.
fn invoke(world: &World, host: &Host) -> Result<Cold> {
    world.registry.warm()?;
    let before = world.link.received();
    let begin = Instant::now();
    let answer = host.ask("GET", "/", &[("Host", DOMAIN)], b"")?;
    let took = begin.elapsed();
    let text = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status < 400, "{} {text}", answer.status);
    let moved = world.link.received() - before;
    let facts = host.thaw.run(["fn", "show", "demo/web", "--json"])?;
    let facts: Value = serde_json::from_str(&facts)?;
    let last = facts["coldStarts"].as_array().and_then(|all| all.last());
    let last = last.with_context(|| format!("no cold start in {facts}"))?;
    let text = |name: &str| last[name].as_str().unwrap_or_default().to_owned();
    Ok(Cold {
        took,
        moved,
        how: format!("{}: {}", text("how"), text("why")),
    })
}
