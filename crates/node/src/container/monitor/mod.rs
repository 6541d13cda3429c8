//! The parent of one container: in the foreground the process that called, detached a process of
//! its own that outlives the caller and the daemon.
//!
//! ```text
//! become subreaper, catch signals ─ hold what serves the image ─ listen for published ports
//!      ─ runtime run ─ state: running ─ forward signals, carry streams ─ wait
//!      ─ runtime delete, network ─ state: exited
//! ```
//!
//! Where the container's image is lazy, the monitor also holds what the next daemon needs when
//! daemon and keeper die together ([`thaw_mount::Keepsake`]), and has that daemon started. It does so
//! before anything of the container runs: the runtime itself reads of the image.
//!
//! Detached, the caller starts its own program anew with arguments that lead to [`run_detached`],
//! and reads one line from it, the [`Started`] or what went wrong. So `run -d` returns when the
//! container runs, and not before.

mod console;
mod detached;
mod streams;
mod supervise;
mod vigil;

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use detached::{detach, run_detached};
pub(super) use streams::{Streams, Wanted};
pub(super) use supervise::{Child, become_parent};
pub use vigil::Revive;
use vigil::Vigil;

use super::containers::runtime;
use super::log::LogWriter;
use super::network::proxy::{Listeners, Proxy};
use super::runtime::Runtime;
use super::span::Spans;
use super::state::{Phase, ProcessId, Settings, State, make_run_dir};
use super::{Cgroup, Container, ContainerError, Network, Published, id};
use crate::keepsake;

/// A container that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its first process, as the host numbers it.
    pub pid: i32,
    /// How long the start took, step by step.
    pub spans: Spans,
    /// Ports that the host listens on for it: the host's address, and the container's port.
    pub published: Vec<Published>,
}

/// Runs a prepared container until it ends, with the caller's standard streams and as its parent.
/// `started` is called once it runs, `revive` when its image has lost daemon and keeper. Its exit
/// code comes back. The log gets a copy of the output.
///
/// # Errors
/// Whatever keeps it from starting; [`ContainerError::exit_code`] says what to exit with.
pub fn foreground(
    container: &Container,
    revive: Revive,
    started: impl FnOnce(&Started),
) -> Result<u8, ContainerError> {
    let _alone = container.alone()?;
    let state = container.state()?;
    let wanted = Wanted {
        tty: state.options.process.tty,
        stdin: state.options.process.interactive,
        output: true,
        log: Some(Arc::new(LogWriter::open(container.dir())?)),
    };
    monitor(container, state, wanted, revive, started)
}

/// The life of a container, from its start to its end. The caller has it [alone](Container::alone).
fn monitor(
    container: &Container,
    state: State,
    wanted: Wanted,
    revive: Revive,
    started: impl FnOnce(&Started),
) -> Result<u8, ContainerError> {
    let ended = match Running::start(container, state.clone(), wanted, revive) {
        Ok((running, facts)) => {
            started(&facts);
            State::settle(container.dir());
            running.wait(container)
        }
        Err(error) => {
            finish(container, state, None, error.exit_code());
            Err(error)
        }
    };
    // Whoever tells the daemon now may wait for one that hangs.
    supervise::uncatch();
    ended
}

/// A container under its monitor.
#[derive(Debug)]
struct Running {
    state: State,
    began: Timestamp,
    child: Child,
    carried: streams::Carried,
    forwarder: supervise::Forwarder,
    proxy: Option<Proxy>,
    /// So that daemon and keeper may die while the container reads.
    _vigil: Option<Vigil>,
}

impl Running {
    fn start(
        container: &Container,
        mut state: State,
        wanted: Wanted,
        revive: Revive,
    ) -> Result<(Self, Started), ContainerError> {
        // Its life is ours from here on: it has not ended when whoever made it does, and the next daemon looks here for whom
        // to ask for what serves its image.
        state.phase = Phase::Created {
            owner: ProcessId::own(),
        };
        state.write(container.dir())?;
        let mut spans = Spans::default();
        let caught = become_parent()?;
        let runtime = runtime(&state.settings)?;
        let vigil = watch_over(container, revive)?;
        let listeners = spans.measure("ports", || listen(&state))?;
        let (streams, io) = Streams::open(wanted, &console_path(&state.settings)?)?;
        let pid = spans.measure("runtime", || runtime.run(&state.id, container.dir(), io))?;
        let began = Timestamp::now();
        let child = Child::open(pid)?;
        let init = ProcessId::of(pid).unwrap_or(ProcessId {
            pid: pid.as_raw_nonzero().get(),
            start: 0,
            boot: 0,
        });
        state.phase = Phase::Running {
            init,
            monitor: ProcessId::own(),
            started: began,
        };
        state.published = listeners.iter().flat_map(Listeners::published).collect();
        state.spans = spans.clone();
        state.write(container.dir())?;
        let carried = streams.carry()?;
        let forwarder = caught.forward(&child, carried.terminal())?;
        let published = state.published.clone();
        let proxy = listeners.map(Listeners::serve).transpose()?;
        let running = Self {
            state,
            began,
            child,
            carried,
            forwarder,
            proxy,
            _vigil: vigil,
        };
        let started = Started {
            pid: init.pid,
            spans,
            published,
        };
        Ok((running, started))
    }

    fn wait(self, container: &Container) -> Result<u8, ContainerError> {
        let code = self.child.wait();
        self.carried.finish();
        self.forwarder.stop();
        drop(self.proxy);
        let written = *code.as_ref().unwrap_or(&255);
        finish(container, self.state, Some(self.began), written);
        code
    }
}

/// Holds what serves the container's image, where anybody does.
fn watch_over(container: &Container, revive: Revive) -> Result<Option<Vigil>, ContainerError> {
    let Some(wanted) = keepsake::Wanted::of(container.dir()) else {
        return Ok(None);
    };
    let held = wanted.take(&revive);
    let held = held.map_err(|why| ContainerError::Unserved { why })?;
    let begin = |keepsake| Vigil::begin(keepsake, wanted.fault_timeout, revive);
    held.map(begin).transpose()
}

/// Takes away what the container leaves outside its directory, then writes down how it ended.
fn finish(container: &Container, mut state: State, started: Option<Timestamp>, code: u8) {
    // The group, and its counters, go with the container.
    let cgroup = Cgroup::of(&state.id.cgroup());
    let cgroup = cgroup.as_ref();
    let out_of_memory = cgroup.is_some_and(|cgroup| cgroup.memory_kills() > 0);
    let peak_memory = cgroup.and_then(Cgroup::peak_memory);
    let disk_full = crate::disk_is_full(container.dir());
    if let Err(error) = container.clean_up(&state) {
        tracing::warn!(container = %state.id.short(), %error, "something is left behind");
    }
    state.phase = Phase::Exited {
        started,
        finished: Timestamp::now(),
        code,
        out_of_memory,
        disk_full,
        peak_memory,
    };
    if let Err(error) = state.write_durably(container.dir()) {
        tracing::warn!(container = %state.id.short(), %error, "the end is not written down");
    }
}

fn listen(state: &State) -> Result<Option<Listeners>, ContainerError> {
    match &state.endpoint {
        Some(endpoint)
            if state.options.net == Network::Bridge && !state.options.publish.is_empty() =>
        {
            Listeners::bind(&state.options.publish, endpoint.address).map(Some)
        }
        _ => Ok(None),
    }
}

/// A short path for a console socket.
pub(super) fn console_path(settings: &Settings) -> Result<PathBuf, ContainerError> {
    let dir = make_run_dir(&settings.run_dir, "tty")?;
    Ok(dir.join(id::unique()?))
}
