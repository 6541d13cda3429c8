//! OCI registries and OCI layout directories behind one small, blocking interface.
//!
//! [`Repository`] is the seam: a repository of a registry (OCI distribution-spec) or a layout on
//! disk (OCI image-spec, "Image Layout"). Everything outside calls it from plain threads and
//! blocks; the asynchronous runtime below it is this crate's own.
//!
//! Whatever a repository gives *by digest* through [`Repository::manifest`] and
//! [`Repository::blob`] was checked against it. What [`thaw_image::BlobSource`] gives is not:
//! ranges are checked by whoever knows the digests of chunks.

mod auth;
mod bridge;
mod call;
mod client;
mod credentials;
mod document;
mod error;
mod fields;
#[doc(hidden)]
pub mod fuzz;
mod http;
mod layout;
mod link;
mod listed;
mod parallel;
mod platform;
mod push;
mod range;
mod reasons;
mod referrers;
mod repository;
mod resolve;
mod retry;
mod route;
mod settings;
mod transport;

use std::io::{Read, Seek};
use std::sync::Arc;
use std::time::Instant;

use thaw_image::{BlobSource, Digest};

pub use client::Client;
pub use document::{
    Descriptor, IndexContent, MAX_INDEX_BYTES, MAX_MANIFEST_BYTES, Manifest, ManifestContent, Which,
};
pub use error::RegistryError;
pub use fields::Fields;
pub use link::Link;
pub use platform::Platform;
pub use resolve::{Located, ResolvedImage, locate, resolve};
pub use settings::{ClientCertificate, ProxySettings, RegistrySettings, Settings};

/// Bytes to push. They can be read again from the start where an upload has to be repeated.
pub trait Body: Read + Seek + Send {}

impl<T: Read + Seek + Send> Body for T {}

/// One repository: what can be asked of a registry or a layout.
///
/// Calls block, retry what is worth retrying, and end within the client's deadline. They must
/// not be made from a task of an asynchronous runtime.
pub trait Repository: BlobSource {
    /// Reads a manifest or an index and checks its digest.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`]; [`RegistryError::TooLarge`] over [`MAX_INDEX_BYTES`];
    /// [`RegistryError::Mismatch`] and the rest of [`RegistryError`].
    fn manifest(&self, which: &Which) -> Result<Manifest, RegistryError>;

    /// Reads a whole blob of at most `limit` bytes and checks its digest.
    ///
    /// # Errors
    /// [`RegistryError::TooLarge`] where the descriptor says that it is larger, as for
    /// [`Repository::manifest`] otherwise.
    fn blob(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, RegistryError>;

    /// The manifests of one of `artifact_types` whose subject is `subject`, none where there is no
    /// such subject (OCI distribution-spec, "Listing Referrers"); of very many, or very long
    /// entries, the first.
    ///
    /// # Errors
    /// See [`RegistryError`].
    fn referrers(
        &self,
        subject: &Digest,
        artifact_types: &[&str],
    ) -> Result<Vec<Descriptor>, RegistryError>;

    /// Puts a blob, unless it is there already.
    ///
    /// # Errors
    /// [`RegistryError::Mismatch`] where `body` is not what `descriptor` names; see
    /// [`RegistryError`].
    fn put_blob(&self, descriptor: &Descriptor, body: &mut dyn Body) -> Result<(), RegistryError>;

    /// Puts a manifest or an index, under `tag` where one is given.
    ///
    /// # Errors
    /// See [`RegistryError`].
    fn put_manifest(&self, tag: Option<&str>, manifest: &Manifest) -> Result<(), RegistryError>;

    /// Puts an artifact manifest and enters it among the referrers of its `subject`. Any number
    /// of callers may do so at once, here or elsewhere: none of their entries is lost.
    ///
    /// # Errors
    /// [`RegistryError::Malformed`] where it has no subject; see [`RegistryError`].
    fn add_referrer(&self, referrer: &Manifest) -> Result<(), RegistryError>;

    /// Deletes a manifest, and its entry among the referrers of its subject. One that is not
    /// there is no error.
    ///
    /// # Errors
    /// See [`RegistryError`]; a registry may forbid it.
    fn delete_manifest(&self, digest: &Digest) -> Result<(), RegistryError>;

    /// The same repository for somebody who waits no longer than until `deadline`: whatever is asked
    /// of it then ends with [`RegistryError::TimedOut`]. Streams and what is put take their time.
    fn until(self: Arc<Self>, deadline: Instant) -> Arc<dyn Repository>;

    /// Says that several requests will be made at once: connections for them are opened in the
    /// background, so that none of them waits for its own.
    fn connect(&self) {}

    /// Says that something will be asked when something else is known: a connection is opened
    /// and, where one is needed, a token is fetched in the background, so that nobody waits for
    /// these then.
    fn approach(&self) {}

    /// Says that what is asked from now on comes after a chain of so many requests elsewhere, for
    /// [`Stats::round_trips`].
    fn comes_after(&self, _round_trips: u64) {}

    /// How it is reached, as far as that was measured; `None` where there is no network between.
    fn link(&self) -> Option<Link> {
        None
    }

    /// What was asked of the network so far.
    fn stats(&self) -> Stats;
}

/// What a repository asked of the network so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// HTTP requests, those for tokens and redirects included.
    pub requests: u64,
    /// Length of the longest chain of requests of which each began when the one before had been
    /// answered: what a caller can have waited for, one after the other, and no less.
    pub round_trips: u64,
    /// Bytes of bodies received.
    pub bytes: u64,
}
