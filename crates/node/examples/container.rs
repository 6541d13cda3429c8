//! Runs a directory as a container: `container STORE run ROOTFS [FLAG…] [-- COMMAND…]`.
//!
//! The tests drive it, since a monitor is a process of its own; it also measures starts
//! (`--timing`). `--image FILE` is an OCI image configuration, `--options FILE` the options as JSON,
//! `--settings FILE` the machine's; `STORE ps|stop|kill|rm|logs|exec …` do the rest.

use std::error::Error;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use oci_spec::image::ImageConfiguration;
use thaw_node::container::log::{LogQuery, Stream};
use thaw_node::container::monitor::{Started, detach, foreground, run_detached};
use thaw_node::container::network::Bridge;
use thaw_node::container::{
    ContainerError, Containers, NewContainer, Options, Prepared, ProcessOptions, Settings,
};

const NO_CONFIG: &str = r#"{"architecture":"amd64","os":"linux","config":{},
    "rootfs":{"type":"layers","diff_ids":[]}}"#;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match execute(&arguments) {
        Ok(code) => code,
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            eprintln!("container: {text}");
            let code = error.downcast_ref::<ContainerError>();
            ExitCode::from(code.map_or(125, ContainerError::exit_code))
        }
    }
}

fn execute(arguments: &[String]) -> Result<ExitCode, Box<dyn Error>> {
    let [store, verb, rest @ ..] = arguments else {
        return Err("usage: container STORE VERB …".into());
    };
    if verb == "monitor" {
        return Ok(run_detached(
            Path::new(store),
            Box::new(no_daemon),
            |container, state| {
                eprintln!("{} ended: {}", container.id().short(), state.status());
            },
        ));
    }
    let (flags, command) = match rest.iter().position(|argument| argument == "--") {
        Some(place) => (&rest[..place], &rest[place + 1..]),
        None => (rest, &[][..]),
    };
    let settings: Settings = match value(flags, "--settings") {
        Some(path) => serde_json::from_slice(&std::fs::read(path)?)?,
        None => Settings::default(),
    };
    let containers = Containers::open(Path::new(store), settings.clone())?;
    let name = flags.first().map_or("", String::as_str);
    match verb.as_str() {
        "run" => return run(&containers, flags, command),
        "exec" => {
            let mut options: ProcessOptions = json(flags, "--options")?;
            options.command = command.to_vec();
            return Ok(ExitCode::from(containers.find(name)?.exec(&options)?));
        }
        "stop" => {
            let seconds = value(flags, "--timeout").unwrap_or("10").parse()?;
            containers
                .find(name)?
                .stop(Duration::from_secs_f64(seconds))?;
        }
        "kill" => {
            let signal = value(flags, "--signal")
                .unwrap_or("KILL")
                .parse::<thaw_node::container::Signal>()?;
            containers.find(name)?.kill(signal)?;
        }
        "rm" => containers.find(name)?.remove(has(flags, "--force"))?,
        "logs" => logs(&containers, name, flags)?,
        "ps" => {
            for state in containers.list()? {
                println!("{} {} {}", state.id.short(), state.name, state.status());
            }
        }
        "inspect" => println!(
            "{}",
            serde_json::to_string(&containers.find(name)?.state()?)?
        ),
        "reconcile" => containers.reconcile()?,
        "remove-bridge" => {
            if Bridge::new(&settings).remove()? {
                println!("others forward");
            }
        }
        _ => return Err(format!("unknown verb {verb:?}").into()),
    }
    Ok(ExitCode::SUCCESS)
}

fn run(
    containers: &Containers,
    flags: &[String],
    command: &[String],
) -> Result<ExitCode, Box<dyn Error>> {
    let rootfs = Path::new(flags.first().map_or("", String::as_str));
    let image: ImageConfiguration = match value(flags, "--image") {
        Some(path) => serde_json::from_slice(&std::fs::read(path)?)?,
        None => serde_json::from_str(NO_CONFIG)?,
    };
    let mut options: Options = json(flags, "--options")?;
    options.process.command = command.to_vec();
    let begin = Instant::now();
    let container = containers.create(NewContainer {
        image: rootfs.display().to_string(),
        options,
    })?;
    let prepared = match container.prepare(rootfs, &image, &thaw_image::Silent) {
        Ok(prepared) => prepared,
        Err(error) => {
            container.remove(true)?;
            return Err(error.into());
        }
    };
    for warning in &prepared.warnings {
        eprintln!("warning: {warning}");
    }
    let report = |started: &Started| {
        if has(flags, "--timing") {
            timing(&prepared, started, begin.elapsed());
        }
        for port in &started.published {
            if has(flags, "--ports") {
                println!("{} {}", port.host, port.container);
            }
        }
    };
    if has(flags, "--detach") {
        let mut program = Command::new(std::env::current_exe()?);
        let (started, _) = detach(&container, program.arg(container.dir()).arg("monitor"))?;
        report(&started);
        println!("{}", container.id());
        return Ok(ExitCode::SUCCESS);
    }
    let code = foreground(&container, Box::new(no_daemon), report);
    if has(flags, "--rm") {
        container.remove(true)?;
    }
    Ok(ExitCode::from(code?))
}

/// There is no lazy image here, so nobody asks.
fn no_daemon() -> Result<(), String> {
    Err("this program has no daemon".to_owned())
}

fn timing(prepared: &Prepared, started: &Started, total: Duration) {
    let mut line = String::new();
    for span in prepared.spans.0.iter().chain(&started.spans.0) {
        line += &format!(
            "{} {:.1} ms, ",
            span.name,
            span.duration.as_secs_f64() * 1e3
        );
    }
    eprintln!("{line}total {:.1} ms", total.as_secs_f64() * 1e3);
}

fn logs(containers: &Containers, name: &str, flags: &[String]) -> Result<(), Box<dyn Error>> {
    let query = LogQuery {
        follow: has(flags, "--follow"),
        tail: value(flags, "--tail").map(str::parse).transpose()?,
        since: None,
    };
    containers.find(name)?.logs(&query, &mut |line| {
        let newline: &[u8] = if line.whole { b"\n" } else { b"" };
        let text = [line.text.as_slice(), newline].concat();
        let written = match line.stream {
            Stream::Stdout => std::io::stdout().write_all(&text),
            Stream::Stderr => std::io::stderr().write_all(&text),
        };
        written.map_or(ControlFlow::Break(()), |()| ControlFlow::Continue(()))
    })?;
    Ok(())
}

fn has(flags: &[String], name: &str) -> bool {
    flags.iter().any(|flag| flag == name)
}

fn value<'a>(flags: &'a [String], name: &str) -> Option<&'a str> {
    let place = flags.iter().position(|flag| flag == name)?;
    flags.get(place + 1).map(String::as_str)
}

fn json<T: Default + serde::de::DeserializeOwned>(
    flags: &[String],
    name: &str,
) -> Result<T, Box<dyn Error>> {
    match value(flags, name) {
        Some(path) => Ok(serde_json::from_slice(&std::fs::read(path)?)?),
        None => Ok(T::default()),
    }
}
