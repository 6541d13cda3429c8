//! Listens to the keeper, and replaces it when it dies or hangs.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::Shared;
use crate::MountError;
use crate::keeper::link::Link;
use crate::keeper::message::{Command, Notice};
use crate::keeper::pool::Job;
use crate::keeper::succession;

/// How often a silent keeper is asked whether it lives: at least and at most.
const HEARTBEAT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// Silent heartbeats after which it is taken for hung.
const MAX_SILENCE: u32 = 3;
/// Between two tries to start a keeper.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// One that lives for less than this has hardly served.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// So many that do, one after the other, are no accident: then nobody waits for the next one.
const MAX_SHORT_LIVES: u32 = 5;

impl Shared {
    /// Listens to the keeper, and replaces it whenever it dies.
    pub(super) fn supervise(&self, mut link: Arc<Link>) {
        let mut short_lives = 0;
        loop {
            let begun = Instant::now();
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
            short_lives = match begun.elapsed() < SHORT_LIFE {
                true => short_lives + 1,
                false => 0,
            };
            match self.replace(&link, short_lives >= MAX_SHORT_LIVES) {
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
                let is_gone = match link.try_to_tell(&Command::Counters { request: 0 }) {
                    // It takes nothing any more: that is silence, too.
                    Err(error) => error.kind() != io::ErrorKind::WouldBlock,
                    Ok(()) => false,
                };
                if is_gone || silence > MAX_SILENCE {
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

    /// Another keeper for the same source; `None` when we end. `deny`: what waits does not wait for it.
    fn replace(&self, dead: &Link, mut deny: bool) -> Option<Arc<Link>> {
        // It may only be lost, not dead. Two readers of events would be worse than none.
        dead.kill();
        dead.wait_dead();
        self.source.recover(&self.settings.devices());
        loop {
            if deny {
                self.source.deny_waiting();
                thread::sleep(RESTART_PAUSE);
            }
            if self.state().closing {
                return None;
            }
            match self.start_another() {
                Ok(link) => return self.publish(link),
                Err(error) => tracing::error!(%error, "cannot start another keeper"),
            }
            deny = true;
        }
    }

    fn start_another(&self) -> Result<Link, MountError> {
        let layers: Vec<_> = self.state().layers.values().cloned().collect();
        let layers = layers.iter().map(|layer| (&layer.spec, layer.tar.as_fd()));
        succession::start(&self.settings, &self.source, layers)
    }

    /// `None` when we end: then it goes on without us.
    fn publish(&self, link: Link) -> Option<Arc<Link>> {
        let mut state = self.state();
        if state.closing {
            return None;
        }
        let link = Arc::new(link);
        state.link = Some(Arc::clone(&link));
        self.changed.notify_all();
        Some(link)
    }
}
