//! The full pull: every layer once over the wire and once onto the disk, and the index falls out
//! of it, so that the image is accelerated here from then on.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use thaw_accelerate::{
    Artifact, Known, LayerIndex, LayerRef, Place, Prepared, TarProof, TarSink, WindowsFile,
};
use thaw_cache::{Incoming, LayerTar};
use thaw_image::{DiffId, Digest, Extent, Progress, SeekTable};

use crate::Node;
use crate::error::NodeError;
use crate::records::ArtifactRecord;
use crate::reports::Pulled;
use crate::resolve::Resolved;
use crate::settings::ImageWish;
use crate::source::{Accelerated, layer_refs};
use crate::timing::Timing;

/// A pull of fewer bytes says little of how fast layers are unpacked.
const MEASURED_BYTES: u64 = 4 << 20;

/// What is remembered of a layer that was read whole on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// Its blob.
    pub(crate) blob: Digest,
    /// Bytes of its tar.
    pub(crate) tar_size: u64,
    /// Seek table and windows, which are in the blob store; else why there are none.
    pub(crate) index: Result<(Digest, Digest), String>,
}

impl Node {
    /// Makes all of an image be here.
    ///
    /// # Errors
    /// [`NodeError`]; what is here already stays.
    pub fn pull(&self, wish: &ImageWish, progress: &dyn Progress) -> Result<Pulled, NodeError> {
        let begin = Instant::now();
        let resolved = self.resolve(wish, &Timing::default())?;
        let image = &resolved.image;
        if self.directories(wish.transport).is_some() {
            return self.pull_directories(&resolved, begin, progress);
        }
        let whole = self.whole_layers(image)?;
        let already_here = self.local(image)?.is_some()
            && image
                .layers
                .iter()
                .all(|layer| whole.contains_key(&layer.diff_id));
        if !already_here {
            self.pull_all(&resolved, progress)?;
        }
        self.remember(&resolved)?;
        let whole = self.whole_layers(image)?;
        for layer in whole.values() {
            layer.sync()?;
        }
        self.settle();
        Ok(Pulled {
            manifest: image.digest,
            compressed: image.compressed_size(),
            unpacked: whole.values().map(|layer| layer.tar_size()).sum(),
            already_here,
            took: begin.elapsed(),
        })
    }

    /// [`Node::pull`] where images start from directories.
    fn pull_directories(
        &self,
        resolved: &Resolved,
        begin: Instant,
        progress: &dyn Progress,
    ) -> Result<Pulled, NodeError> {
        let image = &resolved.image;
        let here = self.unpacked_image(image);
        let already_here = here.is_some();
        let directories = match here {
            Some(directories) => directories,
            None => self.unpack_image(resolved, progress)?,
        };
        self.remember(resolved)?;
        self.settle();
        Ok(Pulled {
            manifest: image.digest,
            compressed: image.compressed_size(),
            unpacked: directories.trees.iter().map(|tree| tree.bytes()).sum(),
            already_here,
            took: begin.elapsed(),
        })
    }

    /// Reads every layer, keeps every tar, and remembers the acceleration that falls out of it.
    pub(crate) fn pull_all(
        &self,
        resolved: &Resolved,
        progress: &dyn Progress,
    ) -> Result<(Prepared, Artifact), NodeError> {
        let (begin, missing) = (Instant::now(), self.missing(&resolved.image)?);
        let pulled = self.prepare_image(resolved, true, progress)?;
        if missing >= MEASURED_BYTES {
            let rate = u128::from(missing) * 1_000_000 / begin.elapsed().as_micros().max(1);
            let rate = u64::try_from(rate).unwrap_or(u64::MAX);
            self.records
                .measure(|measured| measured.unpack_rate = Some(rate));
        }
        Ok(pulled)
    }

    /// Reads every layer once; keeps the tars if `keep` is set.
    pub(crate) fn prepare_image(
        &self,
        resolved: &Resolved,
        keep: bool,
        progress: &dyn Progress,
    ) -> Result<(Prepared, Artifact), NodeError> {
        let image = &resolved.image;
        let place = StorePlace {
            node: self,
            keep,
            progress,
        };
        let prepared = thaw_accelerate::prepare(
            &layer_refs(image),
            resolved.repository.as_ref(),
            &place,
            &thaw_accelerate::IndexOptions::default(),
            progress,
        )
        .map_err(|source| NodeError::Prepare {
            image: image.reference.to_string(),
            source,
        })?;
        let artifact = Artifact::build(&resolved.subject, &prepared)?;
        self.keep_artifact(resolved, &prepared, &artifact)?;
        Ok((prepared, artifact))
    }

    /// Keeps an acceleration that was made here, with all its blobs.
    fn keep_artifact(
        &self,
        resolved: &Resolved,
        prepared: &Prepared,
        artifact: &Artifact,
    ) -> Result<(), NodeError> {
        let blobs = self.store.blobs();
        for (descriptor, content) in &artifact.blobs {
            match content {
                thaw_accelerate::BlobContent::Bytes(bytes) => {
                    blobs.put(&descriptor.digest, bytes)?
                }
                thaw_accelerate::BlobContent::File(path) => {
                    blobs.put_file(&descriptor.digest, path)?;
                }
            }
        }
        blobs.put(&prepared.layout.digest, &prepared.layout.bytes)?;
        if let Some(generated) = &prepared.layout.generated {
            blobs.put(&Digest::of(generated), generated)?;
        }
        let manifest = &artifact.acceleration.manifest;
        blobs.put(manifest.digest(), manifest.bytes())?;
        for layer in &prepared.layers {
            let index = match &layer.index {
                Ok(index) => Ok((Digest::of(&index.encoded), index.windows)),
                Err(reason) => Err(reason.clone()),
            };
            let record = LayerRecord {
                blob: layer.layer.blob,
                tar_size: layer.tar_size,
                index,
            };
            let records = &self.records;
            records
                .put_layer(&layer.layer.diff_id, &record)
                .map_err(NodeError::records)?;
        }
        self.remember(resolved)?;
        let made = ArtifactRecord::made(*manifest.digest());
        self.update_image(resolved, |record| record.set_acceleration(made))
    }

    /// Fetches the layers that an acceleration has no seek table for: they must be whole.
    pub(crate) fn complete_unindexed(
        &self,
        resolved: &Resolved,
        found: &Accelerated,
        progress: &dyn Progress,
        timing: &Timing,
    ) -> Result<(), NodeError> {
        let mut missing: Vec<LayerRef> = Vec::new();
        for layer in layer_refs(&resolved.image) {
            let indexed = found.acceleration.tables.contains_key(&layer.blob);
            if !indexed && self.whole(&layer.diff_id)?.is_none() && !missing.contains(&layer) {
                missing.push(layer);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        timing.span("whole layers", || {
            self.fetch_layers(resolved, &missing, progress)
        })
    }

    /// Fetches layers whole, and checks them against their diffIDs.
    pub(crate) fn fetch_layers(
        &self,
        resolved: &Resolved,
        layers: &[LayerRef],
        progress: &dyn Progress,
    ) -> Result<(), NodeError> {
        let place = StorePlace {
            node: self,
            keep: true,
            progress,
        };
        let fetched = thaw_accelerate::fetch(
            layers,
            resolved.repository.as_ref(),
            &place,
            &thaw_accelerate::IndexOptions::default(),
            progress,
        )
        .map_err(|source| NodeError::Prepare {
            image: resolved.image.reference.to_string(),
            source,
        })?;
        for layer in fetched {
            let index = layer
                .index
                .map(|index| (Digest::of(&index.encoded), index.windows));
            // A table that was not asked for is not kept: the acceleration has none on purpose.
            let index = index.and(Err("not indexed by the acceleration in use".to_owned()));
            let record = LayerRecord {
                blob: layer.layer.blob,
                tar_size: layer.tar_size,
                index,
            };
            let records = &self.records;
            records
                .put_layer(&layer.layer.diff_id, &record)
                .map_err(NodeError::records)?;
        }
        Ok(())
    }

    pub(crate) fn layer_record(&self, diff_id: &DiffId) -> Option<LayerRecord> {
        self.records.layer(diff_id)
    }
}

/// The store as the place where layers go.
struct StorePlace<'a> {
    node: &'a Node,
    keep: bool,
    progress: &'a dyn Progress,
}

impl Place for StorePlace<'_> {
    fn tar(&self, layer: &LayerRef) -> io::Result<Box<dyn TarSink + '_>> {
        if !self.keep {
            return Ok(Box::new(Nowhere));
        }
        let incoming = self.node.store.layers().incoming(&layer.diff_id);
        incoming
            .map(|incoming| Box::new(Kept(incoming)) as Box<dyn TarSink>)
            .map_err(io::Error::other)
    }

    fn known(&self, layer: &LayerRef) -> Option<Known> {
        let record = self.node.layer_record(&layer.diff_id)?;
        if record.blob != layer.blob {
            return None;
        }
        let tar = self.node.whole(&layer.diff_id).ok()??;
        let blobs = self.node.store.blobs();
        let index = match record.index {
            Err(reason) => Err(reason),
            Ok((table, windows)) => {
                let encoded = blobs.get(&table).ok()??;
                let table = SeekTable::decode(&encoded).ok()?;
                if table.windows_size > 0 && !blobs.contains(&windows) {
                    return None;
                }
                let windows_file = Arc::new(WindowsFile::Kept(blobs.path(&windows)));
                let table = Arc::new(table);
                Ok(LayerIndex {
                    table,
                    encoded: encoded.into(),
                    windows,
                    windows_file,
                })
            }
        };
        Some(Known {
            tar: Box::new(Tar::new(tar)),
            tar_size: record.tar_size,
            index,
        })
    }

    fn read(&self, diff_id: &DiffId, extent: Extent) -> Option<io::Result<Vec<u8>>> {
        let tar = self.node.whole(diff_id).ok()??;
        let mut bytes = vec![0; usize::try_from(extent.len).ok()?];
        Some(
            tar.read_at(&mut bytes, extent.offset)
                .map(|()| bytes)
                .map_err(io::Error::other),
        )
    }

    fn scratch(&self) -> PathBuf {
        self.node.settings.root.join("tmp")
    }

    fn cancelled(&self) -> bool {
        !self.progress.is_wanted()
    }
}

/// A tar that is here, read from its beginning.
pub(crate) struct Tar {
    layer: Arc<LayerTar>,
    offset: u64,
}

impl Tar {
    pub(crate) const fn new(layer: Arc<LayerTar>) -> Self {
        Self { layer, offset: 0 }
    }
}

impl Read for Tar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.layer.tar_size() - self.offset).unwrap_or(usize::MAX);
        let len = left.min(buffer.len());
        let read = self.layer.read_at(&mut buffer[..len], self.offset);
        read.map_err(io::Error::other)?;
        self.offset += len as u64;
        Ok(len)
    }
}

/// A tar that becomes a layer of the store.
struct Kept(Incoming);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl TarSink for Kept {
    fn commit(self: Box<Self>, proof: &TarProof) -> io::Result<()> {
        self.0.commit(proof).map(|_| ()).map_err(io::Error::other)
    }
}

/// A tar that only its index is wanted of.
struct Nowhere;

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TarSink for Nowhere {
    fn commit(self: Box<Self>, _proof: &TarProof) -> io::Result<()> {
        Ok(())
    }
}
