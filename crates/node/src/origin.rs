//! Where the bytes of an image's layers come from: the layers are opened, and the fetcher is told.
//! Nobody is asked for anything before a byte is wanted.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use thaw_accelerate::merge;
use thaw_cache::{Attachment, FetchError, LayerTar, Origin};
use thaw_image::{BlobSource, DiffId, Digest, SeekTable};
use thaw_registry::Repository;

use crate::Node;
use crate::error::NodeError;
use crate::open::unusable;
use crate::resolve::Resolved;
use crate::root::Parts;
use crate::source::{Accelerated, chain};
use crate::words::Names;

/// Most bytes of a seek table.
const MAX_TABLE: u64 = 128 << 20;

/// The layers of an image, open.
pub(crate) struct Layers {
    pub(crate) layers: Vec<Arc<LayerTar>>,
    origins: Vec<Attachment>,
}

impl Layers {
    /// Their tars, with the sizes that they have here.
    pub(crate) fn tars(&self) -> Vec<merge::Layer> {
        let tar = |layer: &Arc<LayerTar>| merge::Layer {
            diff_id: layer.diff_id(),
            tar_size: layer.tar_size(),
        };
        self.layers.iter().map(tar).collect()
    }

    pub(crate) fn with(
        self,
        (layout, generated): (PathBuf, Option<PathBuf>),
        found: &Accelerated,
        names: Arc<Names>,
    ) -> Parts {
        Parts {
            layout,
            generated,
            layers: self.layers,
            by: found.record.clone(),
            names,
            _origins: self.origins,
        }
    }
}

impl Node {
    /// Opens the layers, and tells the fetcher where their bytes come from. Asks nobody.
    pub(crate) fn attach(
        &self,
        resolved: &Resolved,
        found: &Accelerated,
    ) -> Result<Layers, NodeError> {
        let image = &resolved.image;
        let mut layers = Vec::with_capacity(image.layers.len());
        let mut origins = Vec::new();
        for layer in &image.layers {
            if let Some(whole) = self.whole(&layer.diff_id)? {
                layers.push(whole);
                continue;
            }
            let Some(table) = found.acceleration.tables.get(&layer.blob) else {
                let what = format!("layer {}", layer.diff_id);
                let reason = "it has no seek table and is not here".to_owned();
                return Err(unusable(image, what, reason));
            };
            let tar = self.store.layers().open(&layer.diff_id, table.tar_size)?;
            let origin = self.origin(resolved, found, layer.blob, table);
            origins.push(self.fetcher.attach(Arc::clone(&tar), origin));
            layers.push(tar);
        }
        Ok(Layers { layers, origins })
    }

    /// Where the bytes of a layer come from.
    fn origin(
        &self,
        resolved: &Resolved,
        found: &Accelerated,
        blob: Digest,
        table: &thaw_accelerate::TableRef,
    ) -> Origin {
        let image = resolved.image.reference.to_string();
        let local: Arc<dyn BlobSource> = Arc::new(self.store.blobs().clone());
        let windows = table.windows.as_ref().map(|windows| {
            let source = match &found.repository {
                Some(repository) if !self.store.blobs().contains(&windows.digest) => {
                    Arc::clone(repository) as Arc<dyn BlobSource>
                }
                _ => local,
            };
            (source, windows.digest)
        });
        let load = TableLoader {
            blobs: self.store.blobs().clone(),
            repository: found.repository.clone(),
            table: table.clone(),
            blob,
            diff_id: resolved
                .image
                .layers
                .iter()
                .find(|l| l.blob == blob)
                .map(|l| l.diff_id),
            image: image.clone(),
        };
        let table_host = match &found.repository {
            Some(repository) if !self.store.blobs().contains(&table.table.digest) => {
                repository.host()
            }
            _ => self.store.blobs().host(),
        };
        Origin {
            image,
            blobs: vec![Arc::clone(&resolved.repository) as Arc<dyn BlobSource>],
            layer_blob: blob,
            table: Box::new(move |deadline| load.load(deadline)),
            table_host,
            windows,
        }
    }
}

/// Gets a seek table when it is first needed.
struct TableLoader {
    blobs: thaw_cache::Blobs,
    repository: Option<Arc<dyn Repository>>,
    table: thaw_accelerate::TableRef,
    blob: Digest,
    diff_id: Option<DiffId>,
    image: String,
}

impl TableLoader {
    fn load(&self, deadline: Option<Instant>) -> Result<Arc<SeekTable>, FetchError> {
        let diff_id = self.diff_id.unwrap_or(DiffId(self.blob));
        let fail = |reason: String| FetchError::table(&self.image, diff_id, reason);
        let digest = self.table.table.digest;
        let here = self
            .blobs
            .get(&digest)
            .map_err(|error| fail(chain(&error)))?;
        let bytes = match (here, &self.repository) {
            (Some(bytes), _) => bytes,
            (None, Some(repository)) => {
                let repository = Arc::clone(repository);
                let repository = match deadline {
                    Some(deadline) => repository.until(deadline),
                    None => repository,
                };
                let bytes = repository
                    .blob(&self.table.table, MAX_TABLE)
                    .map_err(|error| error.into_source(&digest))
                    .map_err(|error| FetchError::table(&self.image, diff_id, error))?;
                self.blobs.stash(&digest, bytes.clone()).ok();
                bytes
            }
            (None, None) => return Err(fail("it is not in the store".to_owned())),
        };
        thaw_accelerate::read_table(&bytes, &self.blob, &self.table)
            .map(Arc::new)
            .map_err(fail)
    }
}
