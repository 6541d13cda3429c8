//! Layers as directories, for kernels that mount no layout: overlayfs puts them one over the other.
//!
//! ```text
//! tar as it comes ─▶ headers ─▶ [`LayerTree`]: what the layer makes alone ─┐
//!                └─▶ data ───▶ DIR/stage/NUMBER, one file for each entry ──┴▶ DIR/fs/…   (at its end)
//!
//! entries of all layers ─▶ merge ────────────▶ what the image means ─┐
//!                     └─▶ layer trees, stacked ▶ what overlayfs shows ┴▶ [`Correction`], a directory on top
//! ```
//!
//! - [`Unpacker`] takes the tar while it is downloaded and hashed. The name of an entry is no path
//!   until all is known: data goes to a file with a number for its name, and only when the digests have
//!   matched names are given, one component at a time, in directories that were made for it. So the
//!   kernel resolves nothing that a layer says. The merge does, in memory: absolute paths and symbolic
//!   links above an entry are no error, but lead to somewhere in the layer; `..` is one ([`crate::merge`]).
//! - A layer's directory holds what its tar says, and depends on no other layer: images share it. A
//!   whiteout is a character device 0:0, an opaque directory has `trusted.overlay.opaque`.
//! - What a layer means can depend on those below: a hard link to their files, a path through their
//!   symbolic links, a directory that is only implied and takes their attributes. The merge knows all of
//!   that; where the stacked directories would show something else, [`Correction`] has it right, in one
//!   more directory on top, which is the image's. So both ways of starting show the same tree.
//!
//! Memory: what layers make alone is taken from a [`Budget`] of its own, as large as that of the merge.
//! Directories are walked with one descriptor, however deep they are.

mod correction;
mod headers;
mod layer_tree;
mod place;
mod stage;
#[cfg(test)]
mod tests;

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use thaw_image::Progress;
use thaw_layer::Budget;
use thaw_layer::tar::Scanner;

use crate::merge::{EntryError, MergeError, path};
use crate::pipeline::{self, LayerRef, Place, PrepareError};

pub use correction::Correction;
pub use headers::Headers;
use headers::Recorder;
use layer_tree::Builder;
use stage::Stage;

/// Where a layer's files are, in the directory that an [`Unpacker`] was given.
pub const FILES: &str = "fs";
/// Where the headers of its tar are: see [`Headers`].
pub const HEADERS: &str = "headers";
const STAGE: &str = "stage";

/// Why a layer, or what an image's layers lack, was not unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// An entry of the layer.
    #[error("entry `{}`: {reason}", path::shown(path))]
    Entry {
        /// Its path as the tar has it.
        path: Vec<u8>,
        /// What is wrong with it.
        reason: EntryError,
    },
    /// The tar.
    #[error(transparent)]
    Tar(#[from] thaw_layer::tar::TarError),
    /// A file could not be made as the layer has it.
    #[error("cannot {what} `{}` as the layer has it", path::shown(path))]
    File {
        /// What was tried.
        what: &'static str,
        /// The file, from the layer's root.
        path: Vec<u8>,
        /// What the filesystem of the store said.
        source: io::Error,
    },
    /// The store's files.
    #[error("cannot {what}")]
    Store {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A file that has a place only over the lower layers, by symbolic links that lead up and down again.
    #[error(
        "entry {entry} of layer {layer} has no place in its layer alone: the image cannot be started from \
         directories, but with a kernel that mounts EROFS (Linux 6.4 or newer)"
    )]
    Hidden {
        /// Counted from 1, the lowest.
        layer: usize,
        /// Counted from 1, the first.
        entry: u64,
    },
}

impl UnpackError {
    fn store(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Store { what, source }
    }
}

/// A layer's tar that becomes a directory, while it comes. Its writer need not be the one who ends
/// it. Dropped before, it leaves its directory to be removed.
#[derive(Debug)]
pub struct Unpacker<'a> {
    dir: std::path::PathBuf,
    scanner: Scanner<'a>,
    tree: Option<Builder<'a>>,
    stage: Stage,
    headers: Recorder,
    /// What is wrong with the layer. Told at the end: damage on the way, which the digest shows,
    /// looks the same.
    wrong: Option<UnpackError>,
}

impl<'a> Unpacker<'a> {
    /// Unpacks into `dir`, an empty directory on the filesystem where the layer is to be. What grows
    /// with the layer is taken from `budget`.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn new(dir: &Path, budget: &'a Budget) -> io::Result<Self> {
        let stage = dir.join(STAGE);
        DirBuilder::new().mode(0o700).create(&stage)?;
        Ok(Self {
            dir: dir.to_owned(),
            scanner: Scanner::new(budget),
            tree: Some(Builder::new(budget)),
            stage: Stage::open(&stage)?,
            headers: Recorder::new(File::create_new(dir.join(HEADERS))?)?,
            wrong: None,
        })
    }

    /// Gives the files their names: now `dir` holds [`FILES`] and [`HEADERS`] and no more. To be
    /// called when the tar has been found to be the right one. Answers with the bytes that it all
    /// takes, about.
    ///
    /// # Errors
    /// [`UnpackError`]: an entry that no merge would take, or that the store's filesystem cannot
    /// hold. What there is in `dir` then is of no use.
    pub fn finish(mut self) -> Result<u64, UnpackError> {
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        self.stage.end().map_err(|error| self.stage.name(error))?;
        self.headers
            .finish()
            .map_err(UnpackError::store("keep the layer's headers"))?;
        let tree = match self.tree.take() {
            Some(builder) => builder.finish()?,
            None => return Ok(0),
        };
        place::place_layer(&self.dir, &tree, &self.stage)?;
        std::fs::remove_dir(self.dir.join(STAGE))
            .map_err(UnpackError::store("remove the stage"))?;
        Ok(self.stage.bytes() + place::overhead(&tree.tree))
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), UnpackError> {
        while !bytes.is_empty() {
            let skipped = usize::try_from(self.scanner.indifferent()).unwrap_or(usize::MAX);
            let (data, rest) = bytes.split_at(skipped.min(bytes.len()));
            self.scanner.push(data)?;
            self.headers.skip(data.len() as u64);
            self.stage
                .data(data)
                .map_err(|error| self.stage.name(error))?;
            // A header at a time: the scanner says where it stands between them.
            let header = rest.len().min(512 - self.headers.at_in_block());
            let (header, rest) = rest.split_at(header);
            self.scanner.push(header)?;
            self.headers
                .header(header)
                .map_err(UnpackError::store("keep the layer's headers"))?;
            self.stage.pass(header.len() as u64);
            for entry in self.scanner.take() {
                let builder = self.tree.as_mut();
                let number = match builder.map(|tree| tree.take(&entry)) {
                    Some(Ok(number)) => number,
                    Some(Err(reason)) => {
                        let path = entry.path;
                        return Err(UnpackError::Entry { path, reason });
                    }
                    None => return Ok(()),
                };
                self.stage
                    .begin(number, &entry)
                    .map_err(|error| self.stage.name(error))?;
            }
            bytes = rest;
        }
        Ok(())
    }
}

impl Write for Unpacker<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.wrong.is_none() {
            match self.take(bytes) {
                Ok(()) => {}
                Err(UnpackError::Store { what, source }) => {
                    let text = format!("cannot {what}: {source}");
                    return Err(io::Error::new(source.kind(), text));
                }
                Err(wrong) => self.wrong = Some(wrong),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads every layer of an image that `place` does not know, once, and checks it; the sinks of `place`
/// unpack it. Then finds what the layers' directories lack, one over the other, to be the image.
///
/// # Errors
/// As [`crate::prepare`].
pub fn unpack(
    layers: &[LayerRef],
    source: &dyn thaw_image::BlobSource,
    place: &dyn Place,
    options: &thaw_layer::Options,
    progress: &dyn Progress,
) -> Result<Correction, PrepareError> {
    let budget = Budget::new(options.max_memory);
    let entries = pipeline::read_entries(layers, source, place, options, &budget, progress)?;
    progress.say("comparing layers");
    let own = Budget::new(options.max_memory);
    let entries: Vec<_> = entries
        .iter()
        .map(|(layer, entries)| (*layer, &***entries))
        .collect();
    Correction::find(&entries, &budget, &own)
}

fn io_error(error: rustix::io::Errno) -> io::Error {
    error.into()
}

impl From<UnpackError> for io::Error {
    fn from(error: UnpackError) -> Self {
        let kind = match &error {
            UnpackError::File { source, .. } | UnpackError::Store { source, .. } => source.kind(),
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// An image whose layers, taken alone, break a rule.
fn refused(number: usize, layer: &crate::merge::Layer, error: UnpackError) -> PrepareError {
    match error {
        UnpackError::Entry { path, reason } => MergeError::Entry {
            number,
            diff_id: layer.diff_id,
            path,
            reason,
        }
        .into(),
        other => other.into(),
    }
}
