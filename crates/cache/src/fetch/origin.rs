//! Where the bytes of a layer come from, as one image knows it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use thaw_image::{BlobSource, Digest, SeekTable};

use super::error::FetchError;
use crate::tar::LayerTar;

/// For how long others go before an origin that did not answer.
const REST: Duration = Duration::from_secs(60);

/// Gets a seek table: from the store, or from the registry. Called once, on the first need; again
/// only if it failed. Ends at the instant; where there is none it bounds its own time.
pub type TableSource =
    Box<dyn Fn(Option<Instant>) -> Result<Arc<SeekTable>, FetchError> + Send + Sync>;

/// Where the bytes of a layer come from.
pub struct Origin {
    /// The image, for messages.
    pub image: String,
    /// Sources of the layer's blob, in the order in which they are tried. At least one.
    pub blobs: Vec<Arc<dyn BlobSource>>,
    /// The layer's blob.
    pub layer_blob: Digest,
    /// Its seek table.
    pub table: TableSource,
    /// Who has that, as [`BlobSource::host`] says it.
    pub table_host: String,
    /// The windows blob and its source, where the format needs one.
    pub windows: Option<(Arc<dyn BlobSource>, Digest)>,
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin")
            .field("image", &self.image)
            .field("blobs", &self.blobs)
            .field("layer_blob", &self.layer_blob)
            .field("windows", &self.windows)
            .finish_non_exhaustive()
    }
}

/// An origin in use.
#[derive(Debug)]
pub(crate) struct Attached {
    /// Unlike that of any other in this process.
    pub(crate) id: u64,
    pub(crate) layer: Arc<LayerTar>,
    pub(crate) origin: Origin,
    /// Who has its blob.
    pub(crate) host: Arc<str>,
    /// Who has its table.
    pub(crate) table_host: Arc<str>,
    table: OnceLock<Arc<SeekTable>>,
    /// Until when others go before it.
    rests: Mutex<Option<Instant>>,
}

impl Attached {
    pub(crate) fn new(id: u64, layer: Arc<LayerTar>, origin: Origin) -> Self {
        let host = origin.blobs.first().map(|source| source.host());
        Self {
            id,
            layer,
            table_host: origin.table_host.as_str().into(),
            origin,
            host: host.unwrap_or_default().into(),
            table: OnceLock::new(),
            rests: Mutex::default(),
        }
    }

    /// Whom its readers wait for.
    pub(crate) fn awaited(&self) -> &Arc<str> {
        match self.table.get() {
            Some(_) => &self.host,
            None => &self.table_host,
        }
    }

    /// Lets others go before it for a while: it did not answer.
    pub(crate) fn rest(&self) {
        *self.resting() = Some(Instant::now() + REST);
    }

    /// Whether others go before it.
    pub(crate) fn rests(&self) -> bool {
        self.resting().is_some_and(|until| Instant::now() < until)
    }

    fn resting(&self) -> MutexGuard<'_, Option<Instant>> {
        self.rests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table, if it was loaded.
    pub(crate) fn table(&self) -> Option<&Arc<SeekTable>> {
        self.table.get()
    }

    /// Loads the table and checks that it is one of this layer: for all who wait, until the deadline
    /// of the first.
    pub(crate) fn load_table(&self, deadline: Option<Instant>) -> Result<(), FetchError> {
        if self.table.get().is_some() {
            return Ok(());
        }
        let table = (self.origin.table)(deadline)?;
        let layer = self.layer.diff_id();
        let is_of = table.diff_id == layer
            && table.tar_size == self.layer.tar_size()
            && table.blob == self.origin.layer_blob;
        if !is_of {
            let why = format!(
                "the table is of tar {} of {} bytes in blob {}, wanted {} bytes in blob {}",
                table.diff_id,
                table.tar_size,
                table.blob,
                self.layer.tar_size(),
                self.origin.layer_blob
            );
            return Err(FetchError::table(&self.origin.image, layer, why));
        }
        let _ = self.table.set(table);
        Ok(())
    }
}
