//! `daemon`, and the keeper that it starts.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use thaw_node::{Node, Settings};

use super::Context;
use crate::OWN_FAILURE;
use crate::access::Access;
use crate::cli::{Daemon, Global};
use crate::config::{Config, DEFAULT_FAULT_TIMEOUT, DEFAULT_ROOT, Trust};
use crate::http::Endpoint;
use crate::protocol::Request;
use crate::server::{Ownership, Server};
use crate::service::{Given, Manager};

/// Longest that a daemon which cannot begin stays: shorter than a service manager lets it try.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// For how long it denies what comes: the kernel asks again for what was denied, a page at a time,
/// before a reader hears of it.
const DENIAL: Duration = Duration::from_secs(1);

/// Has the daemon that owns the store end.
pub(super) fn stop(context: &Context) -> anyhow::Result<ExitCode> {
    let stopped: Option<()> = context.client.ask_if_running(Request::Shutdown)?;
    if stopped.is_none() {
        context.notice("no daemon owns this store");
    }
    Ok(ExitCode::SUCCESS)
}

/// Is the daemon, until it is told to end. Where it cannot begin, and daemon and keeper before it have
/// died together, readers wait for nobody: they get an error when they have waited for long.
pub(super) fn begin(global: Global, args: &Daemon) -> anyhow::Result<ExitCode> {
    let given = Given::take();
    let typed = global.root.clone();
    let context = Context::load(global);
    let (root, bound) = match &context {
        Ok(Context { config, .. }) => (config.root.clone(), config.fault_timeout),
        Err(_) => {
            let bound = Duration::from_secs(DEFAULT_FAULT_TIMEOUT.get());
            (typed.unwrap_or_else(|| DEFAULT_ROOT.into()), bound)
        }
    };
    let keepsake = given.keepsake(&root);
    let ended = context.and_then(|context| serve(&context, args, given));
    match (ended, keepsake) {
        (Err(error), Some(keepsake)) if keepsake.is_alone() => {
            // Half of it: the next one comes after this one, and may fail as well.
            let pause = (bound / 2).min(LONGEST_PAUSE);
            let seconds = pause.as_secs_f64();
            eprintln!("thaw: {error:#}");
            eprintln!("thaw: no daemon, and no keeper: in {seconds} s reads that wait are denied");
            std::thread::sleep(pause);
            if keepsake.is_alone() {
                keepsake.deny_waiting(DENIAL);
            }
            Ok(ExitCode::from(OWN_FAILURE))
        }
        (ended, _) => ended,
    }
}

fn serve(context: &Context, args: &Daemon, mut given: Given) -> anyhow::Result<ExitCode> {
    crate::log::to_stderr();
    let root = context.client.root();
    // What is wrong in the configuration is said before the daemon before us is told to end.
    let access = Access::new(context.config.socket.as_ref())?;
    let mut settings = settings(&context.config)?;
    settings.custodian = given.custodian();
    let ownership = Ownership::take(root, args.replace)?;
    // The daemon before us has let the store go, and its port is free, or is about to be.
    let endpoint = context.config.metrics_listen.map(Endpoint::bind);
    let endpoint = endpoint.transpose()?;
    let node = Arc::new(Node::open(settings)?);
    let listener = given.listener.map(UnixListener::from);
    // Whoever finds the socket may end us by a signal.
    let signals = Signals::new([SIGINT, SIGTERM])?;
    let server = Server::bind(root, Arc::clone(&node), access, listener)?;
    end_on(signals, &server)?;
    if let Some(endpoint) = endpoint {
        let node = Arc::clone(&node);
        endpoint.serve(Arc::new(move || {
            Ok(crate::metrics::text(&node.measures()?))
        }))?;
    }
    let manager = Manager::of_environment();
    manager.iter().for_each(Manager::ready);
    say_ready();
    server.serve(args.idle)?;
    manager.iter().for_each(Manager::stopping);
    server.drain();
    node.close();
    drop(ownership);
    Ok(ExitCode::SUCCESS)
}

/// TERM and INT end the daemon as `daemon --stop` does: what runs goes on.
fn end_on(mut signals: Signals, server: &Arc<Server>) -> anyhow::Result<()> {
    let server = Arc::clone(server);
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if let Some(signal) = signals.forever().next() {
                tracing::info!(signal, "ending");
                server.stop();
            }
        })?;
    Ok(())
}

/// Tells the command that started us that the socket is there, and lets go of its pipe.
fn say_ready() {
    if std::env::var_os("THAW_DAEMON_READY").is_some() {
        let mut out = std::io::stdout();
        out.write_all(b"ready\n").and_then(|()| out.flush()).ok();
        if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
            rustix::stdio::dup2_stdout(null).ok();
        }
    }
}

/// What the node is told, from file and flags.
pub(super) fn settings(config: &Config) -> anyhow::Result<Settings> {
    Ok(Settings {
        root: config.root.clone(),
        registry: thaw_registry::Settings {
            plain_http: config.plain_http.clone(),
            docker_config: config.docker_config.clone(),
            certificate_authorities: config.ca.clone(),
            registries: config.registries.clone(),
            proxy: config.proxy.clone(),
            helper_path: std::env::var_os("PATH").unwrap_or_default(),
            ..thaw_registry::Settings::default()
        },
        trusted_repositories: config.trusted_repositories.clone(),
        trust: config
            .trust
            .iter()
            .map(Trust::rule)
            .collect::<anyhow::Result<_>>()?,
        runtime: config.runtime.clone(),
        fault_timeout: config.fault_timeout,
        cache_size: config.cache_size,
        direct_reads: config.direct_reads,
        program: std::env::current_exe().context("cannot find this program's own file")?,
        arguments: config.daemon_args(),
        custodian: None,
    })
}

/// The process that holds the event group or FUSE connection, on the socket that the daemon handed
/// it as standard input.
pub(super) fn keeper() -> ExitCode {
    crate::log::to_stderr();
    match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(control) => thaw_mount::keeper_main(control),
        Err(error) => {
            writeln!(
                crate::log::Lossy,
                "thaw: the keeper has no control socket: {error}"
            )
            .ok();
            ExitCode::FAILURE
        }
    }
}
