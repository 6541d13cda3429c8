//! `serve`: a daemon that is a function host too. One process owns the store, answers the commands
//! as any daemon does, and serves functions.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use thaw_function::{Host, Limits, Listeners, Settings};
use thaw_node::Node;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Context;
use super::begin::told;
use crate::cli::Serve;
use crate::functions;
use crate::http::Endpoint;
use crate::server::{Ownership, Server};
use crate::service::{Given, Manager};

/// For how long requests that have begun may go on when the host is to end.
const DRAIN: Duration = Duration::from_secs(30);

pub(super) fn serve(context: &Context, args: &Serve, mut given: Given) -> anyhow::Result<ExitCode> {
    if args.no_auth && !args.listen.ip().is_loopback() {
        bail!(
            "--no-auth lets everybody in who can reach {}: it is for loopback addresses only",
            args.listen
        );
    }
    let root = context.client.root();
    let socket = functions::socket(root);
    if UnixStream::connect(&socket).is_ok() {
        bail!(
            "another `thaw serve` has the store {}: end that first",
            root.display()
        );
    }
    let activated = activated(given.listener.take(), args)?;
    let (access, mut settings) = told(&context.config)?;
    settings.custodian = given.custodian();
    // A daemon that commands have started gives way: what runs goes on.
    let ownership = Ownership::take(root, true)?;
    let endpoint = context
        .config
        .metrics_listen
        .map(Endpoint::bind)
        .transpose()?;
    let node = Arc::new(Node::open(settings)?);
    let server = Server::bind(root, Arc::clone(&node), access, None)?;
    if let Some(endpoint) = endpoint {
        let node = Arc::clone(&node);
        endpoint.serve(Arc::new(move || {
            Ok(crate::metrics::text(&node.measures()?))
        }))?;
    }
    let commands = {
        let server = Arc::clone(&server);
        let named = std::thread::Builder::new().name("commands".into());
        named.spawn(move || server.serve(None))?
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let served = runtime.block_on(functions(&node, root, &socket, activated, args));
    server.stop();
    let stopped = commands.join();
    server.drain();
    runtime.shutdown_timeout(Duration::from_secs(5));
    node.close();
    drop(ownership);
    served?;
    stopped.map_err(|_| anyhow::anyhow!("the thread that answers commands panicked"))??;
    Ok(ExitCode::SUCCESS)
}

/// The socket that a service manager listens on for us, if there is one.
fn activated(
    socket: Option<OwnedFd>,
    args: &Serve,
) -> anyhow::Result<Option<std::net::TcpListener>> {
    let Some(socket) = socket else {
        return Ok(None);
    };
    let listener = std::net::TcpListener::from(socket);
    let address = listener
        .local_addr()
        .context("the service manager's socket is none of TCP")?;
    if args.no_auth && !address.ip().is_loopback() {
        bail!(
            "--no-auth is for loopback addresses only, and the service manager listens on {address}"
        );
    }
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}

/// Serves functions until a signal ends it.
async fn functions(
    node: &Arc<Node>,
    root: &Path,
    socket: &Path,
    activated: Option<std::net::TcpListener>,
    args: &Serve,
) -> anyhow::Result<()> {
    let mut limits = Limits {
        keep: args.keep,
        ..Limits::default()
    };
    if let Some(memory) = args.memory {
        limits.memory = memory >> 20;
    }
    let settings = Settings {
        dir: root.join("functions"),
        limits,
        region: args.region.clone(),
        account: args.account.clone(),
        no_auth: args.no_auth,
    };
    let node = Arc::clone(node);
    let host = tokio::task::spawn_blocking(move || Host::open(node, settings)).await??;
    let tcp = match activated {
        Some(listener) => TcpListener::from_std(listener)?,
        None => {
            let bound = TcpListener::bind(args.listen).await;
            bound.with_context(|| format!("cannot listen on {}", args.listen))?
        }
    };
    // Whoever finds the socket may end us by a signal.
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    std::fs::remove_file(socket).ok();
    let unix = UnixListener::bind(socket);
    let unix = unix.with_context(|| format!("cannot listen on {}", socket.display()))?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    let address = tcp.local_addr()?;
    tracing::info!("functions at http://{address}");
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! { _ = terminated.recv() => {}, _ = interrupted.recv() => {} }
        tracing::info!("ending");
        stop.send_replace(true);
    });
    host.work();
    let manager = Manager::of_environment();
    manager.iter().for_each(Manager::ready);
    let listeners = Listeners { tcp, unix };
    thaw_function::serve(Arc::clone(&host), listeners, stopped, DRAIN).await;
    manager.iter().for_each(Manager::stopping);
    host.close(DRAIN).await;
    std::fs::remove_file(socket).ok();
    Ok(())
}
