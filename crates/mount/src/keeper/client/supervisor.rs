//! Listens to the keeper, and replaces it when it dies or hangs.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::Shared;
use crate::MountError;
use crate::keeper::link::Link;
use crate::keeper::message::{Command, Notice};
use crate::keeper::pool::Job;
use crate::keeper::succession::{self, spawn};

/// How often a silent keeper is asked whether it lives: at least and at most.
const HEARTBEAT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// Silent heartbeats after which it is taken for hung.
const MAX_SILENCE: u32 = 3;
/// Between two tries to start a keeper.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

impl Shared {
    /// Listens to the keeper, and replaces it whenever it dies.
    pub(super) fn supervise(&self, mut link: Arc<Link>) {
        loop {
            self.listen(&link);
            link.close();
            let closing = {
                let mut state = self.state();
                state.link = None;
                state.closing
            };
            if closing {
                return;
            }
            match self.replace(&link) {
                Some(new) => link = new,
                None => return,
            }
        }
    }

    /// Takes messages until the keeper is gone, or must go.
    fn listen(&self, link: &Arc<Link>) {
        let mut silence = 0;
        // So that a reader whom a hung keeper does not hear is heard before the time is over.
        let bound = self.settings.fault_timeout;
        let heartbeat = (bound / (2 * (MAX_SILENCE + 1))).clamp(HEARTBEAT.0, HEARTBEAT.1);
        loop {
            if !link.wait(heartbeat) {
                silence += 1;
                let asked = link.tell(&Command::Counters { request: 0 }, None);
                if asked.is_err() || silence > MAX_SILENCE {
                    tracing::error!("the keeper does not answer");
                    return;
                }
                continue;
            }
            silence = 0;
            match link.receive() {
                Ok(Some((notice, _))) => self.heard(link, notice),
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, "the keeper is not understood");
                    return;
                }
            }
        }
    }

    fn heard(&self, link: &Arc<Link>, notice: Notice) {
        match notice {
            Notice::Miss {
                miss,
                layer,
                extent,
                remaining,
            } => self.pool.push(Job {
                link: Arc::clone(link),
                miss,
                layer,
                extent,
                deadline: Instant::now() + remaining,
            }),
            Notice::Reply { request, reply } => link.replied(request, reply),
            Notice::Welcome { .. } | Notice::Busy | Notice::Layer(_) | Notice::Ready { .. } => {}
        }
    }

    /// Another keeper for the same source; `None` when we end.
    fn replace(&self, dead: &Link) -> Option<Arc<Link>> {
        // It may only be lost, not dead. Two readers of events would be worse than none.
        dead.kill();
        dead.wait_dead();
        self.source.recover(&self.settings.devices());
        loop {
            match spawn(&self.settings, &self.source).and_then(|link| self.restore(link)) {
                Ok(link) => return Some(link),
                Err(error) => tracing::error!(%error, "cannot start another keeper"),
            }
            if self.state().closing {
                return None;
            }
            self.source.deny_waiting();
            thread::sleep(RESTART_PAUSE);
        }
    }

    /// Tells a new keeper of all layers, and publishes it.
    fn restore(&self, link: Link) -> Result<Arc<Link>, MountError> {
        let told = self.tell_layers(&link);
        if let Err(error) = told {
            link.kill();
            link.wait_dead();
            return Err(error);
        }
        let link = Arc::new(link);
        self.state().link = Some(Arc::clone(&link));
        self.changed.notify_all();
        Ok(link)
    }

    fn tell_layers(&self, link: &Link) -> Result<(), MountError> {
        let layers: Vec<_> = self.state().layers.values().cloned().collect();
        let layers = layers.iter().map(|layer| (&layer.spec, layer.tar.as_fd()));
        succession::tell_layers(link, layers)
    }
}
