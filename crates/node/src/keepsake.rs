//! What a container's monitor holds for the next daemon: written down by the daemon that makes the
//! container's root filesystem, taken by the monitor when it runs. See [`thaw_mount::Keepsake`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thaw_cache::LayerTar;
use thaw_mount::Keepsake;

use crate::container::ProcessId;
use crate::error::NodeError;
use crate::settings::Settings;

/// `keepsake.json` in a container's directory.
#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    /// Who has it.
    daemon: ProcessId,
    /// Tars of the image's layers that are served.
    tars: Vec<PathBuf>,
    /// Where the keeper listens.
    socket: PathBuf,
    /// How long a read may wait for bytes.
    fault_timeout: Duration,
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

/// Takes what the container in `dir` relies on, and how long a read may wait. Without it the
/// container runs all the same.
pub(crate) fn take(dir: &Path) -> Option<(Keepsake, Duration)> {
    let text = std::fs::read(path(dir)).ok()?;
    let wanted: Wanted = serde_json::from_slice(&text).ok()?;
    if !wanted.daemon.is_alive() {
        return None;
    }
    match Keepsake::of(wanted.daemon.pid, &wanted.tars, wanted.socket) {
        Ok(keepsake) => Some((keepsake, wanted.fault_timeout)),
        Err(error) => {
            tracing::warn!(%error, "the monitor does not hold the event group or connection");
            None
        }
    }
}
