//! Watching over the readers of a lazy image when nobody else does: the daemon is dead, or daemon and
//! keeper are, and nobody may come who starts them.
//!
//! A keeper that died with its daemon alive is replaced within milliseconds; one whose daemon died
//! goes on alone, but then nobody fetches what is not here. Either way readers wait for a daemon that
//! only a command would start. So the monitor starts it, and where there is no keeper either, it denies
//! what waits when none can be started within the time that a read may take.
//!
//! The start of a daemon is waited for on a thread of its own: one that hangs before it serves keeps
//! nobody from being denied, and is not joined by others that would hang as well.
//!
//! A daemon kills a keeper that is stopped (SIGSTOP), or hangs. When it is stopped itself, the
//! monitor does it after half of the time that a read may take.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thaw_mount::Keepsake;

use crate::container::ContainerError;

/// How often it is looked whether there is a keeper.
const LOOK: Duration = Duration::from_millis(500);
/// After how long without one a daemon is started; each monitor waits up to [`SPREAD`] longer, so
/// that the first one does it for all.
const PATIENCE: Duration = Duration::from_secs(2);
const SPREAD: Duration = Duration::from_secs(1);
/// How long until that is tried again where it failed.
const RETRY: Duration = Duration::from_secs(5);

/// Sees to it that the container's store has a daemon; the error is why it has none.
pub type Revive = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

const STACK: usize = 256 << 10;

/// The thread that watches, until this is dropped.
#[derive(Debug)]
pub(super) struct Vigil {
    _end: Sender<()>,
}

impl Vigil {
    /// Begins. A read may wait for `bound`.
    pub(super) fn begin(
        keepsake: Keepsake,
        bound: Duration,
        revive: Revive,
    ) -> Result<Self, ContainerError> {
        let (end, ended) = channel();
        let watch = Watch {
            keepsake,
            bound,
            revive: Arc::new(revive),
            reviving: None,
            alone: None,
            stopped: None,
            rest: None,
        };
        thread::Builder::new()
            .name("container-vigil".to_owned())
            .stack_size(STACK)
            .spawn(move || watch.keep(&ended))
            .map_err(ContainerError::system("start a thread"))?;
        Ok(Self { _end: end })
    }
}

struct Watch {
    keepsake: Keepsake,
    bound: Duration,
    revive: Arc<Revive>,
    /// The start that is waited for.
    reviving: Option<JoinHandle<Result<(), String>>>,
    /// Since when there is no keeper.
    alone: Option<Instant>,
    /// Since when the keeper is stopped.
    stopped: Option<Instant>,
    /// Before when no daemon is asked for again.
    rest: Option<Instant>,
}

impl Watch {
    fn keep(mut self, ended: &Receiver<()>) {
        let spread = SPREAD * (std::process::id() % 16) / 16;
        // A bound that is shorter than that is kept, too.
        let patience = (PATIENCE + spread).min(self.bound / 2);
        while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            self.hear(patience);
            if !self.keepsake.is_alone() {
                if self.keepsake.has_a_stopped_keeper() {
                    let stopped = *self.stopped.get_or_insert_with(Instant::now);
                    if stopped.elapsed() >= self.bound / 2 {
                        tracing::warn!("the keeper is stopped, and no daemon replaces it");
                        self.keepsake.kill_stopped_keeper();
                        // Readers have waited since then.
                        self.alone = Some(stopped);
                    }
                    continue;
                }
                (self.alone, self.stopped) = (None, None);
                // The keeper may have outlived its daemon.
                if self.keepsake.is_needed() {
                    self.revive_after(patience);
                }
                continue;
            }
            let alone = *self.alone.get_or_insert_with(Instant::now);
            if alone.elapsed() >= patience {
                self.revive_after(patience);
            }
            if alone.elapsed() >= self.bound && self.keepsake.is_alone() {
                tracing::warn!("reads have waited too long for a daemon");
                self.keepsake.deny_waiting(Duration::ZERO);
            }
        }
    }

    /// Sees to it that there is a daemon, one start after the other, and not more often than that.
    fn revive_after(&mut self, patience: Duration) {
        let rests = self.rest.is_some_and(|until| Instant::now() < until);
        if rests || self.reviving.is_some() {
            return;
        }
        let revive = Arc::clone(&self.revive);
        let started = thread::Builder::new()
            .name("container-revive".to_owned())
            .stack_size(STACK)
            .spawn(move || revive());
        match started {
            Ok(started) => self.reviving = Some(started),
            Err(error) => self.pause(Err(error.to_string()), patience),
        }
    }

    /// What became of the start that is waited for, once it is known.
    fn hear(&mut self, patience: Duration) {
        if let Some(ended) = self.reviving.take_if(|it| it.is_finished()) {
            let revived = ended.join();
            let revived = revived.unwrap_or_else(|_| Err("to start it panicked".to_owned()));
            self.pause(revived, patience);
        }
    }

    /// Asks for no daemon for a while.
    fn pause(&mut self, revived: Result<(), String>, patience: Duration) {
        let pause = match revived {
            // The keeper comes with it, or that one dies, too.
            Ok(()) => patience,
            Err(reason) => {
                tracing::warn!(reason, "no daemon, and none can be started");
                RETRY
            }
        };
        self.rest = Some(Instant::now() + pause);
    }
}
