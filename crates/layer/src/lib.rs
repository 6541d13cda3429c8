//! Layer formats: scan a tar as it streams by, index a layer in one pass, decode one chunk.
//!
//! - [`detect`] says which format a blob has, from its media type and its first bytes.
//! - [`index()`] reads a whole layer once: it gives the tar, its [entries](tar::Entry) and, where
//!   there can be one, the seek table and the windows blob. It checks blob digest, size and diffID,
//!   and gives a [`TarProof`] that it did.
//! - [`gunzip()`] decompresses a gzip stream that is not a layer.
//! - [`decode()`] makes one chunk of the tar from its bytes of the blob, and verifies it.
//!
//! Nothing here opens a file or a connection: bytes come through `Read`, go through `Write`.

mod budget;
mod decode;
mod format;
mod gunzip;
mod index;
mod inflate;
pub mod tar;
mod window;

pub use budget::{Budget, Held, OverBudget};
pub use decode::{DecodeError, decode};
pub use format::{HEAD_BYTES, Packing, Unsupported, detect};
pub use gunzip::{GunzipError, gunzip};
pub use index::{Expected, Index, LayerError, Options, Outputs, Seek, TarProof, Unseekable, index};
pub use inflate::InflateError;
