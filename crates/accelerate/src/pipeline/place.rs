//! What the pass reads, and what it takes from and gives to the machine it runs on.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use thaw_image::{DiffId, Digest, Extent, SeekTable};
use thaw_layer::{Seek, TarProof};

/// A layer as the image's manifest and configuration name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayerRef {
    /// Digest of its blob.
    pub blob: Digest,
    /// Bytes of its blob.
    pub size: u64,
    /// Media type of its blob.
    pub media_type: String,
    /// Digest of its tar.
    pub diff_id: DiffId,
}

/// Where a layer's tar goes while it is read. What was written is unverified until `commit`.
pub trait TarSink: Write + Send {
    /// The layer is the one that the image names: digest, size and diffID have matched, and `proof`
    /// says so of the bytes that were written.
    ///
    /// # Errors
    /// When the tar cannot be kept.
    fn commit(self: Box<Self>, proof: &TarProof) -> io::Result<()>;
}

/// What the pass takes from, and gives to, the machine it runs on.
pub trait Place: Sync {
    /// Where the tar of this layer goes. Called once for each time that a layer is read, which is
    /// twice where the first one was wrong.
    ///
    /// # Errors
    /// When there is no room for it.
    fn tar(&self, layer: &LayerRef) -> io::Result<Box<dyn TarSink + '_>>;

    /// The tar of a layer that is here, but whose members are not known. It is checked and goes to
    /// [`Place::tar`] like one that is fetched.
    fn local(&self, _layer: &LayerRef) -> Option<LocalTar> {
        None
    }

    /// The layer, if it was indexed here before and its whole tar is here.
    fn known(&self, layer: &LayerRef) -> Option<Known>;

    /// Reads the tar of a layer that was committed, or is known; `None` where tars are not kept.
    fn read(&self, diff_id: &DiffId, extent: Extent) -> Option<io::Result<Vec<u8>>>;

    /// A directory for files that have no name yet.
    fn scratch(&self) -> PathBuf;

    /// Whether the work should end now.
    fn cancelled(&self) -> bool;
}

/// A layer that need not be fetched again.
pub struct Known {
    /// Its tar, from the beginning.
    pub tar: Box<dyn Read>,
    /// Bytes of its tar.
    pub tar_size: u64,
    /// Its seek table and windows; `None`: it has none, for this reason.
    pub index: Result<LayerIndex, String>,
}

/// The tar of a layer, as a file.
pub struct LocalTar {
    /// From its beginning.
    pub tar: Box<dyn Read + Send>,
    /// Its bytes.
    pub size: u64,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Known")
    }
}

impl std::fmt::Debug for LocalTar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LocalTar")
    }
}

/// A layer's seek table, and the file that holds the windows it refers to.
#[derive(Clone, Debug)]
pub struct LayerIndex {
    /// The table.
    pub table: Arc<SeekTable>,
    /// Its encoding.
    pub encoded: Arc<[u8]>,
    /// Digest of the windows blob.
    pub windows: Digest,
    /// The windows blob. An unnamed-to-be file in [`Place::scratch`] goes when the last clone does.
    pub windows_file: Arc<WindowsFile>,
}

/// A file with a windows blob.
#[derive(Debug)]
pub enum WindowsFile {
    /// Removed with this value, unless somebody took it over.
    Scratch(tempfile::NamedTempFile),
    /// Somebody else's.
    Kept(PathBuf),
}

impl WindowsFile {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        match self {
            Self::Scratch(file) => file.path(),
            Self::Kept(path) => path,
        }
    }
}

impl LayerIndex {
    pub(super) fn new(seek: Seek, file: tempfile::NamedTempFile) -> Self {
        let Seek { table, windows } = seek;
        let encoded = table.encode().into();
        let windows_file = Arc::new(WindowsFile::Scratch(file));
        Self {
            table: Arc::new(table),
            encoded,
            windows,
            windows_file,
        }
    }
}
