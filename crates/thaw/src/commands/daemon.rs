//! `daemon`, and the keeper that it starts.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::sync::Arc;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use thaw_node::Node;

use super::Context;
use super::begin::told;
use crate::cli::Daemon;
use crate::http::Endpoint;
use crate::protocol::Request;
use crate::server::{Ownership, Server};
use crate::service::{Given, Manager};

/// Has the daemon that owns the store end.
pub(super) fn stop(context: &Context) -> anyhow::Result<ExitCode> {
    let stopped: Option<()> = context.client.ask_if_running(Request::Shutdown)?;
    if stopped.is_none() {
        context.notice("no daemon owns this store");
    }
    Ok(ExitCode::SUCCESS)
}

/// Is the daemon, until it is told to end.
pub(super) fn serve(
    context: &Context,
    args: &Daemon,
    mut given: Given,
) -> anyhow::Result<ExitCode> {
    let root = context.client.root();
    // What is wrong in the configuration is said before the daemon before us is told to end.
    let (access, mut settings) = told(&context.config)?;
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
