//! The fault transport of a node: which one, from when to when.
//!
//! A store has one at a time, with one keeper. The first lazy mount starts the one that is wished
//! for; it serves every later mount that wishes for it or for any. A wish for the other one is
//! refused as long as layers are attached, for they cannot change hands; when none is, the other one
//! is started in its place.
//!
//! The one of a node before this one is taken over whatever it is.

use std::sync::Arc;
use std::time::Instant;

use thaw_cache::Fetcher;
use thaw_image::{DiffId, Extent};
use thaw_mount::{
    Denial, FaultHandler, FaultTransport, KeeperSettings, MountError, Started, Throttle,
    TransportChoice, TransportKind,
};

use crate::Node;
use crate::container::{Phase, ProcessId};
use crate::error::NodeError;
use crate::node::lock;
use crate::settings::Transport;
use crate::source::chain;
use crate::waits::{Wait, Waits};

impl Transport {
    fn choice(self) -> TransportChoice {
        match self {
            // What needs no transport does not choose one.
            Self::Auto | Self::Directories => TransportChoice::Auto,
            Self::Fanotify => TransportChoice::Fanotify,
            Self::Fuse => TransportChoice::Fuse,
        }
    }

    /// Whether a transport that runs is as good as one that would be started.
    fn is_met_by(self, kind: TransportKind) -> bool {
        match self {
            Self::Auto | Self::Directories => true,
            Self::Fanotify => kind == TransportKind::Fanotify,
            Self::Fuse => kind == TransportKind::Fuse,
        }
    }
}

impl Node {
    /// Checks that lazy mounts are possible here, and says why not. Starts the transport, but
    /// leaves one that runs as it is: somebody may be about to attach layers to it.
    pub(crate) fn transport_ready(&self, wanted: Transport) -> Result<(), String> {
        let marks = self.marks.write();
        let running = self.running_transport().map(|running| running.kind());
        match running.filter(|kind| !wanted.is_met_by(*kind)) {
            None => self.transport(wanted).map(|_| ()),
            Some(kind) if marks.is_empty() => {
                let selected = thaw_mount::select(wanted.choice(), &self.capabilities());
                tracing::debug!(running = kind.name(), "another transport is wished for");
                selected.map(|_| ()).map_err(Into::into)
            }
            Some(kind) => Err(taken(kind)),
        }
        .map_err(|error| chain(&error))
    }

    /// Which transport a mount would have that is made now: the one that runs, else the one that would
    /// be started.
    pub(crate) fn wished_transport(&self, wanted: Transport) -> Result<TransportKind, MountError> {
        let running = self.running_transport().map(|running| running.kind());
        match running.filter(|kind| wanted.is_met_by(*kind)) {
            Some(kind) => Ok(kind),
            None => thaw_mount::select(wanted.choice(), &self.capabilities()),
        }
    }

    /// The fault transport; starts it at the first call. Called with the lock of
    /// [`Marks`](crate::marks::Marks), unless it is known to run.
    pub(crate) fn transport(
        &self,
        wanted: Transport,
    ) -> Result<Arc<dyn FaultTransport>, NodeError> {
        let mut slot = lock(&self.transport);
        if let Some(running) = &*slot {
            if wanted.is_met_by(running.kind()) {
                return Ok(Arc::clone(running));
            }
            // Refused while layers are attached.
            match running.shut_down() {
                Ok(()) => *slot = None,
                Err(MountError::Refused(_)) => return Err(taken(running.kind())),
                Err(error) => return Err(error.into()),
            }
        }
        let transport = self.start_transport(wanted)?.serve();
        *slot = Some(Arc::clone(&transport));
        // What others hold goes on as it is, whatever is wished for.
        match wanted.is_met_by(transport.kind()) {
            true => Ok(transport),
            false => Err(taken(transport.kind())),
        }
    }

    /// Unmounts what nobody uses, where it may be mounted otherwise than is wished for.
    pub(crate) fn make_way(&self, wanted: Transport) {
        if wanted == Transport::Directories || self.other_transport(wanted).is_some() {
            self.unmount_unused();
        }
    }

    /// Why a mount that is there is not what is wished for, if it is not.
    pub(crate) fn other_transport(&self, wanted: Transport) -> Option<NodeError> {
        let kind = self.running_transport()?.kind();
        (!wanted.is_met_by(kind)).then(|| taken(kind))
    }

    /// The transport, if one was started.
    pub(crate) fn running_transport(&self) -> Option<Arc<dyn FaultTransport>> {
        lock(&self.transport).clone()
    }

    /// The transport, if one was started, for its end.
    pub(crate) fn take_transport(&self) -> Option<Arc<dyn FaultTransport>> {
        lock(&self.transport).take()
    }

    /// Whether FUSE serves the mounts of this store.
    pub(crate) fn serves_by_fuse(&self) -> bool {
        let kind = self.running_transport().map(|running| running.kind());
        kind == Some(TransportKind::Fuse)
    }

    /// Why a mount is lazy, with what serves it where that is not the usual.
    pub(crate) fn served(&self, why: String) -> String {
        match self.serves_by_fuse() {
            true => format!("{why}; served by FUSE"),
            false => why,
        }
    }

    pub(crate) fn start_transport(&self, wanted: Transport) -> Result<Started, NodeError> {
        let handler: Arc<dyn FaultHandler> = Arc::new(Faults {
            fetcher: Arc::clone(&self.fetcher),
            waits: Arc::clone(&self.waits),
            failures: Throttle::default(),
        });
        Ok(thaw_mount::start(
            wanted.choice(),
            &self.capabilities(),
            self.keeper_settings(),
            &handler,
        )?)
    }

    /// The monitors of containers: each may have saved the event group or connection.
    pub(crate) fn monitors(&self) -> Vec<i32> {
        let states = self.containers.list().unwrap_or_default();
        let monitors = states.iter().filter_map(|state| match &state.phase {
            Phase::Running { monitor, .. } if monitor.is_alive() => Some(monitor.pid),
            // Who is about to start it, unless that was the daemon that made it.
            Phase::Created { owner } if owner.is_alive() => Some(owner.pid),
            _ => None,
        });
        let own = ProcessId::own().pid;
        monitors.filter(|pid| *pid != own).collect()
    }

    fn keeper_settings(&self) -> KeeperSettings {
        let program = self.settings.program.clone();
        let socket = self.settings.keeper_socket();
        // The store is in its command line for whoever looks at a process list.
        let args = vec![
            "--root".into(),
            self.settings.root.clone().into(),
            "keeper".into(),
        ];
        let mut settings = KeeperSettings::new(program, args, socket);
        settings.fault_timeout = self.settings.fault_timeout;
        settings.holders = self.monitors();
        settings.custodian.clone_from(&self.settings.custodian);
        settings
    }
}

/// The store's layers are served otherwise.
fn taken(kind: TransportKind) -> NodeError {
    NodeError::OtherTransport { kind: kind.name() }
}

/// Faults → fetches.
struct Faults {
    fetcher: Arc<Fetcher>,
    waits: Arc<Waits>,
    /// A program may try again and again what fails.
    failures: Throttle,
}

impl FaultHandler for Faults {
    fn fault(&self, layer: &DiffId, extent: Extent, deadline: Instant) -> Result<(), Denial> {
        let begun = Instant::now();
        let demanded = self.fetcher.demand(layer, extent, deadline);
        let failed = demanded.as_ref().err().map(|error| chain(error));
        self.waits.add(Wait {
            layer: *layer,
            extent,
            begun,
            took: begun.elapsed(),
            failed: failed.as_deref().map(Into::into),
        });
        demanded.map_err(|error| {
            if let Some(untold) = self.failures.pass(Instant::now()) {
                tracing::error!(%layer, offset = extent.offset, len = extent.len, untold,
                    error = chain(&error), "a read fails");
            }
            Denial::from_errno(error.errno())
        })
    }

    fn host(&self, layer: &DiffId) -> Arc<str> {
        self.fetcher.host(layer)
    }
}
