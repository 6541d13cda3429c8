//! Why a node could not do what was asked.

use std::io;
use std::path::PathBuf;

use thaw_image::Digest;

use crate::container::ContainerError;
use crate::image::ImageError;

/// Why a node could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// What was typed names no image.
    #[error(transparent)]
    Reference(#[from] thaw_image::ReferenceError),
    /// The registry, or the layout directory.
    #[error(transparent)]
    Registry(#[from] thaw_registry::RegistryError),
    /// The manifest and its configuration.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An image that is not in the store.
    #[error("{0} is not in the store: `thaw images` lists what is")]
    NoImage(String),
    /// An image that is to be removed, and is in use.
    #[error(
        "{0} is in use by a container or a mount: stop or unmount that first (`thaw ps` and `thaw mount` list them)"
    )]
    ImageInUse(String),
    /// The image is for other machines.
    #[error("{image} is for {is}, not for {wanted}: ask for it with --platform {is}")]
    WrongPlatform {
        /// Name of the image.
        image: String,
        /// What it is for.
        is: String,
        /// What was wanted.
        wanted: String,
    },
    /// A layer, or the merge of all.
    #[error("cannot read {image}")]
    Prepare {
        /// Name of the image.
        image: String,
        /// Why.
        source: thaw_accelerate::PrepareError,
    },
    /// What an image's layers lack when they are directories.
    #[error("cannot put the layers of {image} one over the other")]
    Correct {
        /// Name of the image.
        image: String,
        /// Why.
        source: thaw_accelerate::UnpackError,
    },
    /// More layers than an overlay takes.
    #[error(
        "{image} has {layers} layers, and an overlay takes at most {limit} directories: rebuild it with fewer, \
         or take a kernel that mounts EROFS (Linux 6.4 or newer)"
    )]
    Layers {
        /// Name of the image.
        image: String,
        /// Those that differ.
        layers: usize,
        /// Most that there may be.
        limit: usize,
    },
    /// The acceleration.
    #[error(transparent)]
    Artifact(#[from] thaw_accelerate::ArtifactError),
    /// A lazy start was asked for and is not possible.
    #[error("{image} cannot be started lazily: {reason}")]
    NotLazy {
        /// Name of the image.
        image: String,
        /// Why not.
        reason: String,
    },
    /// It is mounted by an acceleration that others trust.
    #[error(
        "{image} is mounted already, by what came from {from}, which is not trusted for it as it is \
         named here: {reason}; end what uses it (thaw ps, thaw mount), or name it as they did"
    )]
    Untrusted {
        /// Name of the image.
        image: String,
        /// Where the acceleration is from.
        from: String,
        /// Why it is not trusted.
        reason: String,
    },
    /// Two images that trust different words began to share a layer at the same time.
    #[error(
        "another start is filling layer {0} by a word that does not count for this one: try again"
    )]
    Apart(thaw_image::DiffId),
    /// A transport was asked for, and another one serves mounts.
    #[error(
        "mounts of this store are served by {kind}: unmount them and end their containers first, \
         or leave out --transport"
    )]
    OtherTransport {
        /// The one that serves.
        kind: &'static str,
    },
    /// Something fetched is not what it should be.
    #[error("{image}: {what} is unusable: {reason}")]
    Unusable {
        /// Name of the image.
        image: String,
        /// Which part.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A small blob of the store.
    #[error(transparent)]
    Blob(#[from] thaw_cache::BlobError),
    /// A layer tar of the store.
    #[error(transparent)]
    Tar(#[from] thaw_cache::TarError),
    /// A layer that cannot be removed.
    #[error(transparent)]
    Remove(#[from] thaw_cache::RemoveError),
    /// A file of the store.
    #[error(transparent)]
    File(#[from] thaw_cache::FileError),
    /// Bytes of a layer that did not come.
    #[error(transparent)]
    Fetch(#[from] thaw_cache::FetchError),
    /// A mount, or who serves it.
    #[error(transparent)]
    Mount(#[from] thaw_mount::MountError),
    /// A working set.
    #[error(transparent)]
    Pack(#[from] thaw_accelerate::PackError),
    /// A signature that could not be made.
    #[error(transparent)]
    Sign(#[from] thaw_accelerate::SignError),
    /// A container.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The system gives no more threads.
    #[error("cannot start a thread")]
    Threads(#[source] io::Error),
    /// The records of images.
    #[error("cannot keep the records of images")]
    Records(#[source] io::Error),
    /// A directory that was given, or is needed.
    #[error("cannot {action} {}", path.display())]
    Dir {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There is no image with this manifest in the store.
    #[error("the image {0} is not in the store")]
    Unknown(Digest),
    /// Nothing is mounted there by this daemon.
    #[error("nothing is mounted at {0} by the daemon of this store; /proc/mounts shows what is")]
    NotMounted(PathBuf),
    /// Something is mounted there already.
    #[error("{0} is a mount of this daemon already")]
    AlreadyMounted(PathBuf),
    /// A mount that nobody serves any more.
    #[error("{0} has lost its keeper, so that holes would be read as zeros: unmounted")]
    Lost(PathBuf),
    /// A start under observation did not get ready.
    #[error("the recorded start failed: {0}")]
    Recording(String),
    /// Files of the image could not be read.
    #[error("cannot guess what a start reads")]
    Guess(#[source] io::Error),
    /// There is nothing to publish.
    #[error("no start of {0} has been traced here for this profile: run it lazily first")]
    NoTraces(String),
}

impl NodeError {
    /// For `map_err` on threads.
    pub(crate) fn threads(source: io::Error) -> Self {
        Self::Threads(source)
    }

    /// For `map_err` on records.
    pub(crate) fn records(source: io::Error) -> Self {
        Self::Records(source)
    }

    /// For `map_err` on a directory.
    pub(crate) fn dir<'a>(
        action: &'static str,
        path: &'a std::path::Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Dir {
            action,
            path: path.to_owned(),
            source,
        }
    }
}
