//! A layer that arrives by a full pull: one sequential write, installed as a whole.
//!
//! Its bytes are hashed once, on their way here: whoever reads the layer has to, for its digest and
//! its index. What makes the tar whole is the [`TarProof`] that this gives.
//!
//! The kernel writes to the disk when it likes. Starting it every 8 MiB by advice was measured: it
//! took the sync of a gigabyte from 0.5 s to 0.03 s and cost the writer more than that, and no start
//! waits for the sync.

use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use thaw_image::{BLOCK, DiffId, Extent};
use thaw_layer::TarProof;

use crate::file::{FileError, Temp, failed};
use crate::layers::Layers;
use crate::presence::{MAX_TAR_BYTES, Presence, Subject};
use crate::tar::{LayerTar, TarError};

const COPY_BYTES: usize = 1 << 20;

/// A tar that is written from front to end, and becomes a layer when its diffID was proven right.
/// Dropped before, it leaves nothing behind.
#[derive(Debug)]
pub struct Incoming {
    layers: Layers,
    diff_id: DiffId,
    temp: Temp,
    written: u64,
}

impl Incoming {
    pub(crate) fn new(layers: Layers, diff_id: DiffId) -> Result<Self, FileError> {
        Ok(Self {
            temp: Temp::new(layers.tmp())?,
            layers,
            diff_id,
            written: 0,
        })
    }

    /// Installs what was written as the whole layer: `proof` is that of the pass whose writer this
    /// was. What is read of it from then on needs no fetch. It survives a crash of the machine after
    /// [`LayerTar::sync`].
    ///
    /// Where the layer is in use already, the blocks that it lacks are copied into it, and then all
    /// of it is checked, for what it had came from elsewhere. If that was wrong, it is replaced. If even its
    /// size was, this is the layer from now on, and reads of what is open fail.
    ///
    /// # Errors
    /// [`TarError::NotItsDiffId`] and [`TarError::Size`] for the proof of another tar (nothing is
    /// installed), [`TarError::TooLarge`], [`TarError::File`].
    pub fn commit(self, proof: &TarProof) -> Result<Arc<LayerTar>, TarError> {
        let diff_id = self.diff_id;
        if proof.diff_id() != diff_id {
            let actual = proof.diff_id().0;
            return Err(TarError::NotItsDiffId { diff_id, actual });
        }
        if proof.size() != self.written {
            return Err(TarError::Size {
                diff_id,
                known: proof.size(),
                asked: self.written,
            });
        }
        let layers = self.layers.clone();
        layers.install(&diff_id, self.written, self)
    }

    /// Makes `layer`, which is in use and has the same size, whole.
    pub(crate) fn complete(&self, layer: &LayerTar) -> Result<(), TarError> {
        self.copy_into(layer)?;
        match layer.verify_whole(&|| true) {
            // What it had was wrong and is forgotten: now all of it is what was proven.
            Err(TarError::NotItsDiffId { .. }) => {
                layer.begin_again();
                self.copy_into(layer)?;
                layer.verify_whole(&|| true)
            }
            verified => verified,
        }
    }

    /// Puts the file in the place of the layer's tar, which nobody has open who goes on with it.
    pub(crate) fn replace(self, dir: &Path, subject: Subject) -> Result<(), FileError> {
        let target = LayerTar::path_in(dir);
        self.temp
            .file
            .set_len(self.written.div_ceil(BLOCK) * BLOCK)
            .map_err(failed("extend", &target))?;
        // What was durable speaks of the old file. The live bits, if there are any, hold for
        // the new one as well.
        Presence::remove_durable(dir)?;
        self.temp.rename(&target)?;
        Presence::create_whole(dir, subject)
    }

    /// Writes what `layer` lacks.
    fn copy_into(&self, layer: &LayerTar) -> Result<(), TarError> {
        let mut buffer = vec![0; COPY_BYTES];
        for absent in layer.missing(Extent::between(0, self.written)) {
            let mut offset = absent.offset;
            while offset < absent.end() {
                let left = usize::try_from(absent.end() - offset).unwrap_or(COPY_BYTES);
                let piece = &mut buffer[..left.min(COPY_BYTES)];
                self.temp
                    .file
                    .read_exact_at(piece, offset)
                    .map_err(failed("read", self.temp.path()))
                    .map_err(|source| TarError::File {
                        diff_id: self.diff_id,
                        source,
                    })?;
                layer.write_hashed(offset, piece)?;
                offset += piece.len() as u64;
            }
        }
        Ok(())
    }
}

impl Write for Incoming {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written + bytes.len() as u64 > MAX_TAR_BYTES {
            let limit = format!("the layer is over the limit of {MAX_TAR_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, limit));
        }
        let count = self.temp.file.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
