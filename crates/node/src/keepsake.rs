//! What a container's monitor holds for the next daemon: written down by the daemon that makes the
//! container's root filesystem, taken by the monitor before it runs it. See [`thaw_mount::Keepsake`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thaw_cache::LayerTar;
use thaw_mount::Keepsake;

use crate::container::ProcessId;
use crate::container::monitor::Revive;
use crate::error::NodeError;
use crate::settings::Settings;

/// `keepsake.json` in a container's directory.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Wanted {
    /// Who has it, beside the keeper.
    daemon: ProcessId,
    /// Tars of the image's layers that are served.
    tars: Vec<PathBuf>,
    /// Where the keeper listens.
    socket: PathBuf,
    /// How long a read may wait for bytes.
    pub(crate) fault_timeout: Duration,
}

fn path(container: &Path) -> PathBuf {
    container.join("keepsake.json")
}

/// Writes down what the monitor of the container in `dir` is to hold: the tars of `layers`, which
/// are those that somebody serves; nothing, where its image needs nobody.
pub(crate) fn leave<'a>(
    dir: &Path,
    layers: impl Iterator<Item = &'a Arc<LayerTar>>,
    settings: &Settings,
) -> Result<(), NodeError> {
    let tars: Vec<PathBuf> = layers.map(|layer| layer.path().to_owned()).collect();
    if tars.is_empty() {
        return Ok(());
    }
    let wanted = Wanted {
        daemon: ProcessId::own(),
        tars,
        socket: settings.keeper_socket(),
        fault_timeout: settings.fault_timeout,
    };
    crate::records::write(&path(dir), &wanted).map_err(NodeError::records)
}

impl Wanted {
    /// What the monitor of the container in `dir` is to hold; `None` where its image needs nobody.
    pub(crate) fn of(dir: &Path) -> Option<Self> {
        let text = std::fs::read(path(dir)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Takes it from the daemon that wrote it down, or, where that has died or was replaced, from the
    /// keeper; where both have died, from the keeper that `revive` brings. `None` where it may not be
    /// taken: the container runs all the same.
    ///
    /// # Errors
    /// Why there is nobody to take it from: reads of the image fail, or give zeros.
    pub(crate) fn take(&self, revive: &Revive) -> Result<Option<Keepsake>, String> {
        let from = |pid| Keepsake::of(pid, &self.tars, self.socket.clone());
        let from_keeper = || thaw_mount::keeper_of(&self.socket).map(from);
        let daemon = self.daemon.is_alive().then(|| from(self.daemon.pid));
        let taken = match daemon {
            Some(Ok(keepsake)) => return Ok(Some(keepsake)),
            // It may have ended meanwhile.
            Some(Err(_)) | None => from_keeper(),
        };
        let taken = match taken {
            None => {
                revive()?;
                from_keeper()
            }
            taken => taken,
        };
        match taken {
            Some(Ok(keepsake)) => Ok(Some(keepsake)),
            Some(Err(error)) => {
                tracing::warn!(%error, "the monitor does not hold the event group or connection");
                Ok(None)
            }
            None if self.daemon.is_alive() => Ok(None),
            None => Err("daemon and keeper have died".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_all_who_held_it_are_dead_the_next_daemon_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&ended);
        let daemon = ProcessId::of(pid).unwrap();
        ended.wait().unwrap();
        let wanted = Wanted {
            daemon,
            tars: Vec::new(),
            socket: dir.path().join("keeper.sock"),
            fault_timeout: Duration::from_secs(1),
        };
        let fails: Revive = Box::new(|| Err("no daemon can be started".to_owned()));
        assert_eq!(wanted.take(&fails).unwrap_err(), "no daemon can be started");
        // It has no keeper: what was mounted is lost.
        let comes: Revive = Box::new(|| Ok(()));
        let error = wanted.take(&comes).unwrap_err();
        assert_eq!(error, "daemon and keeper have died");
    }
}
