//! `run`: the daemon makes the root filesystem, this process is the container's parent.

use std::io::{IsTerminal, Write as _};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;
use thaw_node::container::{
    Container, Limits, Network, Options, ProcessOptions, Published, monitor,
};
use thaw_node::{PreparedContainer, Ready, Span, StartReport, Storage, Way};

use super::environment::environment;
use super::{Context, wish};
use crate::cli::{ContainerArgs, InMemory, Net, Run};
use crate::output::{bytes, causes, complain, milliseconds, waterfall};
use crate::protocol::Request;

/// How long `--timing` waits for a container to be ready.
const PATIENCE: Duration = Duration::from_secs(600);

pub(super) fn run(context: &Context, args: Run) -> anyhow::Result<ExitCode> {
    let clock = Clock {
        began: Instant::now(),
        ready: args.ready.clone(),
        wanted: args.timing,
    };
    let image = wish(&args.image)?;
    let storage = storage(&args.container)?;
    let options = options(&args.container, args.command, !args.detach)?;
    let container = Box::new(Options {
        remove: args.rm,
        ..options
    });
    let prepared: PreparedContainer = context.client.ask(Request::Prepare {
        image,
        container,
        fill: args.fill,
        storage,
    })?;
    for notice in &prepared.notices {
        context.notice(notice);
    }
    // To a person; what else is on standard error is the container's. The timing has it, too.
    if !args.timing && std::io::stderr().is_terminal() {
        let Way { how, why } = &prepared.way;
        context.notice(&format!("{how}: {why}"));
    }
    let asked = clock.began.elapsed();
    let container = Container::open(&prepared.dir)?;
    if args.detach {
        return detach(context, &container, &prepared, args.rm, asked, &clock);
    }
    let revive = super::container::revive(&context.client);
    let outcome = monitor::foreground(&container, revive, |started| {
        if let Err(error) = clock.report(context, &container, &prepared, &started.spans.0, asked) {
            complain(format_args!("{error:#}"));
        }
    });
    let released: anyhow::Result<()> = context.client.ask(Request::Release {
        id: prepared.id,
        remove: args.rm,
    });
    let code = match outcome {
        Ok(code) => code,
        Err(error) => {
            let code = error.exit_code();
            complain(format_args!("{:#}", anyhow::Error::from(error)));
            code
        }
    };
    released.context("the container has ended, but is not cleaned up")?;
    Ok(ExitCode::from(code))
}

fn detach(
    context: &Context,
    container: &Container,
    prepared: &PreparedContainer,
    remove: bool,
    asked: Duration,
    clock: &Clock,
) -> anyhow::Result<ExitCode> {
    let mut program = Command::new(std::env::current_exe()?);
    program
        .arg("--root")
        .arg(context.client.root())
        .args(context.client.daemon_args())
        .arg("--quiet")
        .arg("monitor")
        .arg(container.dir());
    match monitor::detach(container, &mut program) {
        Ok((started, _)) => {
            let facts = Running {
                id: &prepared.id,
                name: &prepared.name,
                manifest: &prepared.manifest,
                way: &prepared.way,
                ports: &started.published,
            };
            context.print(&facts, |facts| format!("{}\n", facts.id))?;
            clock.report(context, container, prepared, &started.spans.0, asked)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let code = error.exit_code();
            complain(format_args!("{:#}", anyhow::Error::from(error)));
            let id = prepared.id.clone();
            let () = context.client.ask(Request::Release { id, remove })?;
            Ok(ExitCode::from(code))
        }
    }
}

/// What is said of a container that runs in the background.
#[derive(Serialize)]
struct Running<'a> {
    id: &'a str,
    name: &'a str,
    manifest: &'a thaw_image::Digest,
    way: &'a Way,
    ports: &'a [Published],
}

/// The start's clock: runs from the command's beginning until the container is ready.
struct Clock {
    began: Instant,
    ready: Option<Ready>,
    wanted: bool,
}

impl Clock {
    /// Prints where the time went, when the container runs and, if asked, is ready.
    fn report(
        &self,
        context: &Context,
        container: &Container,
        prepared: &PreparedContainer,
        started: &[thaw_node::container::Span],
        asked: Duration,
    ) -> anyhow::Result<()> {
        if !self.wanted {
            return Ok(());
        }
        let running = self.began.elapsed();
        let mut spans = prepared.spans.clone();
        let daemon = spans
            .iter()
            .map(|span| span.begin + span.took)
            .max()
            .unwrap_or_default();
        // The daemon's clock began when it had read the request: the end of both is the same.
        let shift = asked.saturating_sub(daemon);
        for span in &mut spans {
            span.begin += shift;
        }
        let mut at = running;
        for span in started.iter().rev() {
            at = at.saturating_sub(span.duration);
            spans.push(Span {
                name: span.name.clone(),
                begin: at,
                took: span.duration,
            });
        }
        if let Some(ready) = &self.ready {
            thaw_node::wait(container, ready, self.began + PATIENCE).map_err(anyhow::Error::msg)?;
            let took = self.began.elapsed().saturating_sub(running);
            spans.push(Span {
                name: "program".to_owned(),
                begin: running,
                took,
            });
        }
        spans.sort_by_key(|span| span.begin);
        let total = self.began.elapsed();
        let report: StartReport = context.client.ask(Request::Report {
            id: prepared.id.clone(),
        })?;
        if context.global.json {
            let facts = serde_json::json!({ "total": total, "spans": spans, "report": report });
            writeln!(std::io::stderr(), "{facts}").ok();
            return Ok(());
        }
        let text = describe(&spans, total, &report);
        std::io::stderr().write_all(text.as_bytes()).ok();
        Ok(())
    }
}

fn describe(spans: &[Span], total: Duration, report: &StartReport) -> String {
    let traffic = &report.traffic;
    format!(
        "{}: {}\n{}total {}, {} round trips before the mount\n\
         moved by this node meanwhile {}: {}\n\
         reads on it that had to wait: {}\n",
        report.way.how,
        report.way.why,
        waterfall(spans, total),
        milliseconds(total),
        report.round_trips,
        bytes(traffic.total()),
        causes(traffic),
        report.waits,
    )
}

/// A terminal has no end, only a key that stands for it: what comes from elsewhere would never end there.
pub(super) fn check_terminal(tty: bool, interactive: bool) -> anyhow::Result<()> {
    if tty && interactive && !std::io::stdin().is_terminal() {
        bail!("-it wants a terminal as standard input: without one, leave out -t");
    }
    Ok(())
}

/// Where the flags have lie what the container writes; `None`: in a directory of the store.
fn storage(args: &ContainerArgs) -> anyhow::Result<Option<Storage>> {
    let memory = args.tmpfs.iter().find_map(|tmpfs| match tmpfs {
        InMemory::Root(size) => Some(Storage::Memory(*size)),
        InMemory::At(_) => None,
    });
    let disk = args.storage_size.map(Storage::Disk);
    if memory.is_some() && disk.is_some() {
        bail!(
            "--tmpfs / and --storage-size: what the container writes is in memory or on the disk"
        );
    }
    Ok(memory.or(disk))
}

/// What the flags ask of a container. `foreground`: with our standard streams.
pub(super) fn options(
    args: &ContainerArgs,
    command: Vec<String>,
    foreground: bool,
) -> anyhow::Result<Options> {
    let env = environment(&args.env_file, &args.env)?;
    check_terminal(args.tty, args.interactive && foreground)?;
    let tmpfs = args.tmpfs.iter().filter_map(|tmpfs| match tmpfs {
        InMemory::At(tmpfs) => Some(tmpfs.clone()),
        InMemory::Root(_) => None,
    });
    Ok(Options {
        name: args.name.clone(),
        process: ProcessOptions {
            command,
            env,
            workdir: args.workdir.clone(),
            user: args.user.clone(),
            tty: args.tty,
            interactive: args.interactive && foreground,
        },
        entrypoint: args
            .entrypoint
            .as_ref()
            .map(|program| match program.as_str() {
                "" => Vec::new(),
                program => vec![program.to_owned()],
            }),
        hostname: args.hostname.clone(),
        stop_signal: args.stop_signal,
        net: match args.net {
            Net::Host => Network::Host,
            Net::None => Network::None,
            Net::Bridge => Network::Bridge,
        },
        publish: args.publish.clone(),
        volumes: args.volume.clone(),
        tmpfs: tmpfs.collect(),
        read_only: args.read_only,
        limits: Limits {
            memory: args.memory,
            cpus: args.cpus,
            pids: args
                .pids_limit
                .filter(|limit| *limit > 0)
                .and_then(|limit| u32::try_from(limit).ok()),
        },
        dns: args.dns.clone(),
        runtime: args.runtime.clone(),
        ..Options::default()
    })
}
