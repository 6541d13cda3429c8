//! What the function host costs, on a small static program as the function.
//!
//! | figure | how |
//! |---|---|
//! | warm | time of an HTTP request over a kept connection, through the host and to the same program without it, in turns; the difference of the medians |
//! | throughput | `wrk`, 16 connections on one thread for 5 s, through the host and without it; the function takes 100 at once |
//! | unfreeze | a request to an instance that is frozen, less a warm one |
//! | cold start | an invocation that starts an instance, and `thaw run` of the same image until it answers, in turns, the image here |
//! | memory | proportional set size of all processes of the host, with 50 functions that were invoked and scaled to zero |
//! | registered | from the host's start to its address, with 1,000 functions |
//! | burst | bytes that 20 invocations at once move, and those that one moves, nothing of the accelerated image here |

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use thaw_testkit::http::read_kept;
use thaw_testkit::image::{function, real};
use thaw_testkit::process::{self, Killed};
use thaw_testkit::registry::Registry;
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

use crate::host::Host;
use crate::report::median;
use crate::thaw::binary;

const REQUESTS: usize = 2000;
const COLD_STARTS: usize = 9;
const PROXY: &str = "/2016-08-15/proxy/demo/web/";

/// What was found.
#[derive(Debug, Default, Serialize)]
struct Functions {
    warm_ms: f64,
    direct_ms: f64,
    requests_per_second: f64,
    direct_per_second: f64,
    unfreeze_ms: f64,
    cold_ms: f64,
    run_ms: f64,
    fifty_functions_mib: f64,
    thousand_functions_ms: f64,
    burst_bytes: u64,
    single_bytes: u64,
}

/// Measures it, prints it, and writes it to `json`.
pub(crate) fn run(json: Option<&Path>) -> Result<()> {
    let registry = Registry::start()?;
    let directory = scratch::directory()?;
    let cache = real::cache_directory();
    let layout = function::image(&cache, 64)?.write(&directory.path().join("layout"), "latest")?;
    let image = layout.push(&registry, "function:1")?;
    let mut found = Functions::default();
    warm(&mut found, &image, &function::program(&cache)?)?;
    cold(&mut found, &image)?;
    many(&mut found, &image)?;
    burst(&mut found, &image, &registry)?;
    println!("{}", describe(&found));
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_string_pretty(&found)?)?;
    }
    Ok(())
}

fn describe(found: &Functions) -> String {
    let added = found.warm_ms - found.direct_ms;
    format!(
        "warm invocation   {:.3} ms, {:.3} ms without the host: {added:.3} ms added\n\
         throughput        {:.0} requests/s, {:.0} without the host\n\
         unfreeze          {:.2} ms\n\
         cold start        {:.0} ms, `thaw run` {:.0} ms: {:.0} ms added\n\
         50 functions      {:.1} MiB over all processes, scaled to zero\n\
         1,000 functions   the host starts in {:.0} ms\n\
         burst             20 at once moved {:.2} MB, one {:.2} MB",
        found.warm_ms,
        found.direct_ms,
        found.requests_per_second,
        found.direct_per_second,
        found.unfreeze_ms,
        found.cold_ms,
        found.run_ms,
        found.cold_ms - found.run_ms,
        found.fifty_functions_mib,
        found.thousand_functions_ms,
        found.burst_bytes as f64 / 1e6,
        found.single_bytes as f64 / 1e6,
    )
}

fn deploy(host: &Host, image: &str, name: &str, acceleration: &str) -> Result<()> {
    let function = json!({
        "functionName": name, "runtime": "custom-container", "handler": "none", "timeout": 60,
        "instanceConcurrency": 100, "memorySize": 128,
        "customContainerConfig": { "image": image, "accelerationType": acceleration },
    });
    host.call("POST", "/2016-08-15/services/demo/functions", &function)?;
    Ok(())
}

fn service(host: &Host) -> Result<()> {
    host.call(
        "POST",
        "/2016-08-15/services",
        &json!({ "serviceName": "demo" }),
    )?;
    Ok(())
}

fn trigger(host: &Host) -> Result<()> {
    let trigger = json!({ "triggerName": "http", "triggerType": "http",
        "triggerConfig": { "authType": "anonymous", "methods": [] } });
    host.call(
        "POST",
        "/2016-08-15/services/demo/functions/web/triggers",
        &trigger,
    )?;
    Ok(())
}

/// A connection that is used again and again.
struct Kept {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
    head: String,
}

impl Kept {
    fn open(address: &str, path: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let reader = BufReader::new(stream.try_clone()?);
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        Ok(Self {
            stream,
            reader,
            head,
        })
    }

    /// Milliseconds of one request.
    fn ask(&mut self) -> Result<f64> {
        let begin = Instant::now();
        self.stream.write_all(self.head.as_bytes())?;
        let status = read_kept(&mut self.reader)?;
        ensure!(status == 200, "status {status}");
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    }
}

/// Requests per second, as wrk counts them.
fn wrk(url: &str) -> Result<f64> {
    let arguments = [
        "--threads",
        "1",
        "--connections",
        "16",
        "--duration",
        "5s",
        url,
    ];
    let output = process::run(Command::new("wrk").args(arguments))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(!text.contains("Non-2xx"), "{text}");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"));
    line.and_then(|line| line.trim().parse().ok())
        .with_context(|| text.clone())
}

fn warm(found: &mut Functions, image: &str, program: &Path) -> Result<()> {
    let host = Host::start(Thaw::new(binary()?)?, image, &[])?;
    service(&host)?;
    deploy(&host, image, "web", "None")?;
    trigger(&host)?;
    let mut direct = Command::new(program);
    direct
        .env("FC_SERVER_PORT", "7999")
        .env("LISTEN", "127.0.0.1")
        .stdout(Stdio::null());
    let _direct = Killed::spawn(&mut direct)?;
    std::thread::sleep(Duration::from_millis(300));
    let (mut through, mut without) = (
        Kept::open(&host.address, PROXY)?,
        Kept::open("127.0.0.1:7999", PROXY)?,
    );
    through.ask()?;
    let (mut there, mut here) = (Vec::new(), Vec::new());
    for _ in 0..REQUESTS {
        there.push(through.ask()?);
        here.push(without.ask()?);
    }
    (found.warm_ms, found.direct_ms) = (median(&mut there), median(&mut here));
    found.requests_per_second = wrk(&format!("http://{}{PROXY}", host.address))?;
    found.direct_per_second = wrk(&format!("http://127.0.0.1:7999{PROXY}"))?;
    let mut frozen = Vec::new();
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(60));
        frozen.push(through.ask()?);
    }
    found.unfreeze_ms = median(&mut frozen) - found.warm_ms;
    Ok(())
}

/// Until the program says that it listens.
fn run_once(thaw: &Thaw, image: &str) -> Result<f64> {
    let begin = Instant::now();
    let told = [
        "run", "--detach", "--rm", "--name", "cold", "--memory", "128m", "--timing",
    ];
    let ready = ["--ready", "http://:9000/", image];
    thaw.run(told.into_iter().chain(ready))?;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    thaw.run(["stop", "--time", "0", "cold"])?;
    Ok(took)
}

fn cold(found: &mut Functions, image: &str) -> Result<()> {
    let host = Host::start(Thaw::new(binary()?)?, image, &["--keep", "100ms"])?;
    service(&host)?;
    deploy(&host, image, "web", "None")?;
    trigger(&host)?;
    host.ask("GET", PROXY, &[], b"")?;
    let (mut invoked, mut ran) = (Vec::new(), Vec::new());
    for _ in 0..COLD_STARTS {
        host.until("it is scaled to zero", || Ok(host.containers()? == 0))?;
        let begin = Instant::now();
        let answer = host.ask("GET", PROXY, &[], b"")?;
        ensure!(answer.status == 200, "status {}", answer.status);
        invoked.push(begin.elapsed().as_secs_f64() * 1e3);
        host.until("it is scaled to zero", || Ok(host.containers()? == 0))?;
        ran.push(run_once(&host.thaw, image)?);
    }
    (found.cold_ms, found.run_ms) = (median(&mut invoked), median(&mut ran));
    Ok(())
}

/// Proportional set size of all processes that have the store on their command lines, in MiB.
fn resident(host: &Host) -> Result<f64> {
    let root = host.thaw.root().display().to_string();
    let mut kib = 0_u64;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let ours = String::from_utf8_lossy(&line).contains(&root);
        let keeper = String::from_utf8_lossy(&line).contains("\0keeper\0");
        let child = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = child
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(1));
        let of_host = parent == Some(host.pid().to_string().as_str());
        if ours || (keeper && of_host) {
            let rollup = std::fs::read_to_string(entry.path().join("smaps_rollup"));
            let rollup = rollup.unwrap_or_default();
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
            let text = line
                .unwrap_or("0")
                .trim()
                .trim_end_matches(" kB")
                .to_owned();
            kib += text.parse::<u64>().unwrap_or(0);
        }
    }
    Ok(kib as f64 / 1024.0)
}

fn many(found: &mut Functions, image: &str) -> Result<()> {
    let mut host = Host::start(Thaw::new(binary()?)?, image, &["--keep", "200ms"])?;
    service(&host)?;
    for number in 0..1000 {
        deploy(&host, image, &format!("f{number}"), "None")?;
    }
    for number in 0..50 {
        let path = format!("/2016-08-15/services/demo/functions/f{number}/invocations");
        let answer = host.ask("POST", &path, &[], b"x")?;
        ensure!(answer.status == 200, "status {}", answer.status);
    }
    host.until("all are scaled to zero", || Ok(host.containers()? == 0))?;
    std::thread::sleep(Duration::from_secs(2));
    found.fifty_functions_mib = resident(&host)?;
    host.restart(image)?;
    found.thousand_functions_ms = host.began.as_secs_f64() * 1e3;
    Ok(())
}

/// Bytes that the registry has sent for the layers so far.
fn moved(registry: &Registry) -> u64 {
    let requests = registry.requests();
    requests.iter().map(|request| request.written).sum()
}

fn burst(found: &mut Functions, image: &str, registry: &Registry) -> Result<()> {
    let host = Host::start(Thaw::new(binary()?)?, image, &["--keep", "500ms"])?;
    service(&host)?;
    deploy(&host, image, "web", "Default")?;
    let path = "/2016-08-15/services/demo/functions/web";
    host.until("it is accelerated", || {
        let function = host.call("GET", path, &Value::Null)?;
        Ok(function["customContainerConfig"]["accelerationInfo"]["status"] == "Ready")
    })?;
    // Each takes one, so that there are as many instances as requests.
    host.call("PUT", path, &json!({ "instanceConcurrency": 1 }))?;
    let at_once = |count: usize| {
        host.until("it is scaled to zero", || Ok(host.containers()? == 0))?;
        host.thaw.run(["gc", "--all"])?;
        let before = moved(registry);
        std::thread::scope(|scope| {
            let ask = || host.ask("POST", &format!("{path}/invocations"), &[], b"sleep 500");
            let all: Vec<_> = (0..count).map(|_| scope.spawn(ask)).collect();
            for one in all {
                let answer = one
                    .join()
                    .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
                ensure!(answer.status == 200, "status {}", answer.status);
            }
            Ok(())
        })?;
        // The registry writes its log a moment later.
        std::thread::sleep(Duration::from_millis(300));
        Ok::<_, anyhow::Error>(moved(registry) - before)
    };
    found.single_bytes = at_once(1)?;
    found.burst_bytes = at_once(20)?;
    Ok(())
}
