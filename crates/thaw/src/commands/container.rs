//! `exec`, `logs`, `stop`, `rm`, and the monitor of a detached container. A container belongs to
//! its directory, so these need the daemon only to take root filesystems away.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use thaw_node::container::log::{LogQuery, Stream};
use thaw_node::container::{Containers, ProcessOptions, monitor};

use super::Context;
use super::environment::environment;
use crate::cli::{Exec, Logs, Rm, Stop};
use crate::client::Client;
use crate::output::complain;
use crate::protocol::Request;

fn containers(context: &Context) -> anyhow::Result<Containers> {
    let settings = thaw_node::container::Settings {
        runtime: context.config.runtime.clone(),
        ..Default::default()
    };
    Ok(Containers::open(context.client.root(), settings)?)
}

pub(super) fn exec(context: &Context, args: Exec) -> anyhow::Result<ExitCode> {
    let container = containers(context)?.find(&args.container)?;
    let env = environment(&args.env_file, &args.env)?;
    super::run::check_terminal(args.tty, args.interactive)?;
    let options = ProcessOptions {
        command: args.command,
        env,
        workdir: args.workdir,
        user: args.user,
        tty: args.tty,
        interactive: args.interactive,
    };
    match container.exec(&options) {
        Ok(code) => Ok(ExitCode::from(code)),
        Err(error) => {
            let code = error.exit_code();
            complain(format_args!("{:#}", anyhow::Error::from(error)));
            Ok(ExitCode::from(code))
        }
    }
}

pub(super) fn logs(context: &Context, args: &Logs) -> anyhow::Result<ExitCode> {
    let container = containers(context)?.find(&args.container)?;
    let query = LogQuery {
        follow: args.follow,
        tail: args.tail,
        since: None,
    };
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    let mut failed = None;
    container.logs(&query, &mut |line| {
        let target: &mut dyn Write = match line.stream {
            Stream::Stdout => &mut out,
            Stream::Stderr => &mut err,
        };
        let end: &[u8] = if line.whole { b"\n" } else { b"" };
        let written = target
            .write_all(&line.text)
            .and_then(|()| target.write_all(end));
        match written.and_then(|()| target.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(ExitCode::SUCCESS), |error| Err(error.into()))
}

pub(super) fn stop(context: &Context, args: &Stop) -> anyhow::Result<ExitCode> {
    each(context, &args.containers, |name| {
        let container = containers(context)?.find(name)?;
        container.stop(Duration::from_secs(args.time))?;
        let id = container.id().to_string();
        let _: Option<()> = context
            .client
            .ask_if_running(Request::Release { id, remove: false })?;
        Ok(())
    })
}

pub(super) fn rm(context: &Context, args: &Rm) -> anyhow::Result<ExitCode> {
    each(context, &args.containers, |name| {
        let container = containers(context)?.find(name)?;
        let live = container.state().is_ok_and(|state| state.is_live());
        if live && args.force {
            container.stop(Duration::ZERO)?;
        } else if live {
            let name = container.state()?.name;
            anyhow::bail!("container {name} is running: stop it first, or remove it with --force");
        }
        let () = context.client.ask(Request::Release {
            id: container.id().to_string(),
            remove: true,
        })?;
        Ok(())
    })
}

/// What came of one of several containers.
#[derive(Serialize)]
struct Outcome<'a> {
    /// As it was named.
    container: &'a str,
    /// Why it did not work.
    error: Option<String>,
}

/// Does it for each, names those that it worked for, and fails at the end if one did not. Whoever reads the names may
/// have seen enough.
fn each(
    context: &Context,
    names: &[String],
    work: impl Fn(&str) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let mut outcomes = Vec::new();
    let mut told = Ok(());
    for name in names {
        let error = work(name).err().map(|error| format!("{error:#}"));
        match &error {
            None if context.global.json => {}
            None => told = told.and(writeln!(std::io::stdout(), "{name}")),
            Some(error) => complain(format_args!("{name}: {error}")),
        }
        outcomes.push(Outcome {
            container: name,
            error,
        });
    }
    let told = told.map_err(Into::into);
    let told = told.and_then(|()| context.print(&outcomes, |_| String::new()));
    if outcomes.iter().any(|outcome| outcome.error.is_some()) {
        return Ok(ExitCode::FAILURE);
    }
    told.map(|()| ExitCode::SUCCESS)
}

/// The parent of a detached container. When it has ended the daemon, if there is one, takes its
/// root filesystem away; else the next daemon finds it ended.
pub(super) fn monitor(client: &Client, dir: &Path) -> ExitCode {
    monitor::run_detached(dir, revive(client), |container, state| {
        let id = container.id().to_string();
        let remove = state.options.remove;
        let released: anyhow::Result<Option<()>> =
            client.ask_if_running(Request::Release { id, remove });
        if let Err(error) = released {
            complain(format_args!("{error:#}"));
        }
    })
}

/// What a monitor calls when its image has lost daemon and keeper.
pub(super) fn revive(client: &Client) -> monitor::Revive {
    let client = client.clone();
    Box::new(move || client.revive().map_err(|error| format!("{error:#}")))
}
