//! `accelerate`, `mount`, `unmount`, `pull`, `login`.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;
use thaw_node::{Accelerated, ImageWish, Mounted, Pulled, RecordOptions, Recorded};

use super::{Context, plain_wish, run, transport, wish};
use crate::cli::{Accelerate, ImageArgs, Login, Pull, Unmount};
use crate::output::{bytes, percent};
use crate::protocol::{Destination, KeyFile, Record, Request};

/// How long a recorded start may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) fn accelerate(context: &Context, args: Accelerate) -> anyhow::Result<ExitCode> {
    let image = wish(&args.image)?;
    let destination = Destination {
        to: args.to,
        local: args.local,
        sign: args.sign.as_deref().map(KeyFile::read).transpose()?,
    };
    if image.profile.is_none() && (args.record || args.from_traces) {
        bail!("a working set needs a profile of its own: `none` is the start without one");
    }
    if args.from_traces {
        let recorded: Recorded = context
            .client
            .ask(Request::FromTraces { image, destination })?;
        context.print(&recorded, describe_recorded)?;
        return Ok(ExitCode::SUCCESS);
    }
    let record = if args.record {
        let container = run::options(&args.container, args.command, false)?;
        let options = RecordOptions { patience: PATIENCE };
        Some(Box::new(Record {
            ready: args.ready,
            options,
            container,
        }))
    } else {
        None
    };
    let done: (Accelerated, Option<Recorded>) = context.client.ask(Request::Accelerate {
        image,
        destination,
        record,
    })?;
    context.print(&done, |(accelerated, recorded)| {
        let mut text = describe_accelerated(accelerated);
        if let Some(recorded) = recorded {
            text.push_str(&describe_recorded(recorded));
        }
        text
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Where an artifact is, and why not in a registry.
fn place(
    repository: Option<&String>,
    not_pushed: Option<&String>,
    signed_by: Option<&String>,
) -> String {
    match (repository, not_pushed) {
        (Some(repository), _) => match signed_by {
            Some(key) => format!("pushed to {repository} and signed with {key}"),
            None => format!("pushed to {repository}"),
        },
        (None, Some(reason)) => format!("kept in this store only: {reason}"),
        (None, None) => "kept in this store only".to_owned(),
    }
}

fn describe_accelerated(done: &Accelerated) -> String {
    let place = place(
        done.repository.as_ref(),
        done.not_pushed.as_ref(),
        done.signed_by.as_ref(),
    );
    let mut text = format!(
        "{} accelerated in {:.1} s, {place}\n  index {} ({} of {})\n  {}\n",
        done.manifest,
        done.took.as_secs_f64(),
        bytes(done.index),
        percent(done.index, done.compressed),
        bytes(done.compressed),
        done.acceleration,
    );
    if let Some(guessed) = &done.guessed {
        text.push_str(&format!(
            "  working set \"{}\" of the program alone: {} packed; --record makes a better one\n",
            guessed.profile,
            bytes(guessed.packed),
        ));
    }
    for layer in &done.full_layers {
        text.push_str(&format!("  always fetched whole: {layer}\n"));
    }
    for warning in &done.warnings {
        text.push_str(&format!("  warning: {warning}\n"));
    }
    text
}

fn describe_recorded(done: &Recorded) -> String {
    let ready = done.ready_after.map_or(String::new(), |time| {
        format!(", ready after {:.2} s", time.as_secs_f64())
    });
    let place = place(
        done.repository.as_ref(),
        done.not_pushed.as_ref(),
        done.signed_by.as_ref(),
    );
    format!(
        "working set \"{}\"{ready}, {place}\n  {} read, {} packed\n  {}\n",
        done.profile,
        bytes(done.blocks),
        bytes(done.packed),
        done.working_set
    )
}

pub(super) fn mount(context: &Context, image: &ImageArgs, dir: &Path) -> anyhow::Result<ExitCode> {
    let dir = crate::path::real(dir).with_context(|| dir.display().to_string())?;
    if !dir.is_dir() {
        bail!("{} is not a directory", dir.display());
    }
    let image = wish(image)?;
    let mounted: Mounted = context.client.ask(Request::Mount { image, dir })?;
    context.print(&mounted, |mounted| {
        let Mounted {
            dir, manifest, way, ..
        } = mounted;
        format!("{} {manifest} {} ({})\n", dir.display(), way.how, way.why)
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn unmount(context: &Context, args: Unmount) -> anyhow::Result<ExitCode> {
    let real = |dir: &Path| crate::path::real(dir).with_context(|| dir.display().to_string());
    let dir = args.dir.as_deref().map(real).transpose()?;
    let undone: Vec<std::path::PathBuf> = context.client.ask(Request::Unmount { dir })?;
    context.print(&undone, |dirs| {
        dirs.iter()
            .map(|dir| format!("{}\n", dir.display()))
            .collect()
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What a pull has done.
#[derive(Serialize)]
struct PullDone {
    #[serde(flatten)]
    pulled: Pulled,
    pushed: Option<Accelerated>,
}

pub(super) fn pull(context: &Context, args: &Pull) -> anyhow::Result<ExitCode> {
    let mut image = plain_wish(&args.image, args.platform.as_ref())?;
    image.transport = transport(args.transport);
    image.refresh = true;
    let wanted = image.clone();
    let pulled: Pulled = context.client.ask(Request::Pull { image: wanted })?;
    let pushed = args.push.then(|| push(context, image)).transpose()?;
    context.print(&PullDone { pulled, pushed }, |done| {
        let index = done.pushed.as_ref().map(describe_accelerated);
        describe_pulled(&done.pulled) + &index.unwrap_or_default()
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Publishes the acceleration of an image that was just pulled. Its layers are here: none is fetched
/// again, but where they are directories.
fn push(context: &Context, image: ImageWish) -> anyhow::Result<Accelerated> {
    // The one that was pulled, whatever the tag means by now.
    let image = ImageWish {
        refresh: false,
        ..image
    };
    let destination = Destination {
        to: None,
        local: false,
        sign: None,
    };
    let (pushed, _): (Accelerated, Option<Recorded>) = context.client.ask(Request::Accelerate {
        image,
        destination,
        record: None,
    })?;
    Ok(pushed)
}

fn describe_pulled(pulled: &Pulled) -> String {
    if pulled.already_here {
        return format!("{} is here already\n", pulled.manifest);
    }
    let seconds = pulled.took.as_secs_f64();
    format!(
        "{}\n  {} fetched, {} unpacked in {seconds:.2} s\n",
        pulled.manifest,
        bytes(pulled.compressed),
        bytes(pulled.unpacked)
    )
}

pub(super) fn login(context: &Context, args: Login) -> anyhow::Result<ExitCode> {
    let password = if args.password_stdin {
        let mut password = String::new();
        std::io::stdin()
            .take(64 << 10)
            .read_to_string(&mut password)?;
        password.trim_end_matches(['\r', '\n']).to_owned()
    } else {
        ask_password()?
    };
    if password.is_empty() {
        bail!("the password is empty");
    }
    let Login {
        registry,
        username: user,
        ..
    } = args;
    let told = registry.clone();
    let () = context.client.ask(Request::Login {
        registry,
        user,
        password,
    })?;
    context.notice(&format!("credentials for {told} are right and kept"));
    Ok(ExitCode::SUCCESS)
}

/// Reads a line from the terminal without showing it.
fn ask_password() -> anyhow::Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let input = std::io::stdin();
    let before =
        tcgetattr(&input).context("standard input is no terminal: use --password-stdin")?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    eprint!("Password: ");
    tcsetattr(&input, OptionalActions::Flush, &silent)?;
    let mut line = String::new();
    let read = input.read_line(&mut line);
    tcsetattr(&input, OptionalActions::Flush, &before)?;
    eprintln!();
    read?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
