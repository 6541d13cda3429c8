//! The next daemon: what it is given, and what waits for it.

use std::io;

use thaw_sys::socket;

use super::{Next, Server};
use crate::keeper::PROTOCOL;
use crate::keeper::daemon::Daemon;
use crate::keeper::message::Notice;

impl Server {
    /// Greets a new daemon, or sends it away.
    pub(super) fn accept(&mut self) -> Next {
        let socket = match socket::accept(&self.listener) {
            Ok(Some((socket, _))) => socket,
            Ok(None) => return Next::Go,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a daemon");
                return Next::Go;
            }
        };
        // What a dead daemon said last comes before its end.
        while self.daemon.as_ref().is_some_and(Daemon::is_gone) {
            if let Next::End = self.take_commands() {
                return Next::End;
            }
        }
        let mut daemon = Daemon::new(socket);
        if self.daemon.is_some() {
            daemon.queue(&Notice::Busy, None);
            let _ = daemon.flush();
            return Next::Go;
        }
        match self.greet(&mut daemon) {
            Ok(()) => self.follow(daemon),
            Err(error) => tracing::warn!(%error, "cannot hand over to a daemon"),
        }
        Next::Go
    }

    /// Hands everything that waits to the next daemon.
    fn follow(&mut self, daemon: Daemon) {
        tracing::info!(waiting = self.pending.len(), "another daemon took over");
        self.daemon = Some(daemon);
        let pending = std::mem::take(&mut self.pending);
        for (miss, pending) in &pending {
            self.announce(*miss, pending);
        }
        self.pending = pending;
    }

    fn greet(&self, daemon: &mut Daemon) -> io::Result<()> {
        let version = u64::from(PROTOCOL);
        let kind = self.source.kind();
        daemon.queue(
            &Notice::Welcome { version, kind },
            Some(self.source.holder()?),
        );
        for layer in self.layers.served() {
            let tar = layer.tar.try_clone()?;
            daemon.queue(&Notice::Layer(layer.spec.clone()), Some(tar.into()));
        }
        let incomplete = self.incomplete;
        daemon.queue(&Notice::Ready { incomplete }, None);
        daemon.flush()
    }
}
