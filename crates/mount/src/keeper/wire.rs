//! Fields of messages: little-endian numbers, and bytes behind their length.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use thaw_image::{DiffId, Digest};

use crate::MountError;

/// Most bytes of a message.
pub(crate) const MAX_MESSAGE: usize = 64 << 10;

/// Builds a message.
#[derive(Debug)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new(kind: u8) -> Self {
        Self(vec![kind])
    }

    pub(crate) fn number(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn layer(mut self, layer: &DiffId) -> Self {
        self.0.extend_from_slice(layer.0.as_bytes());
        self
    }

    pub(crate) fn text(mut self, text: &[u8]) -> Self {
        self = self.number(text.len() as u64);
        self.0.extend_from_slice(text);
        self
    }

    pub(crate) fn path(self, path: &Path) -> Self {
        self.text(path.as_os_str().as_bytes())
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Takes a message apart. It was received into a bounded buffer, so no length in it can make us
/// allocate more than that.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Result<(u8, Self), MountError> {
        let (kind, rest) = message
            .split_first()
            .ok_or(MountError::Protocol("it is empty"))?;
        Ok((*kind, Self(rest)))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], MountError> {
        let (head, rest) = self
            .0
            .split_first_chunk()
            .ok_or(MountError::Protocol("it ends early"))?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn number(&mut self) -> Result<u64, MountError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    pub(crate) fn layer(&mut self) -> Result<DiffId, MountError> {
        Ok(DiffId(Digest::from_bytes(self.take()?)))
    }

    pub(crate) fn text(&mut self) -> Result<Vec<u8>, MountError> {
        let len = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        let (head, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(MountError::Protocol("a text ends early"))?;
        self.0 = rest;
        Ok(head.to_vec())
    }

    pub(crate) fn path(&mut self) -> Result<PathBuf, MountError> {
        Ok(OsString::from_vec(self.text()?).into())
    }

    /// Whether there is more.
    pub(crate) fn more(&self) -> bool {
        !self.0.is_empty()
    }

    pub(crate) fn end(self) -> Result<(), MountError> {
        if self.more() {
            return Err(MountError::Protocol("it is too long"));
        }
        Ok(())
    }
}
