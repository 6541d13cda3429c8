//! Reading our own encodings: bounded, and with an error that names the field.

use crate::Digest;

/// Why bytes are not a seek table or a working set.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum FormatError {
    /// Not this format at all.
    #[error("not a {what}: wrong magic")]
    Magic {
        /// The format that was expected.
        what: &'static str,
    },
    /// A version that this program does not know.
    #[error(
        "{what} of version {version}: this program knows version {known}; use a newer one, or accelerate the image again"
    )]
    Version {
        /// The format.
        what: &'static str,
        /// The version found.
        version: u32,
        /// The version known.
        known: u32,
    },
    /// The checksum at the end does not match.
    #[error("{what} is damaged: its checksum does not match")]
    Checksum {
        /// The format.
        what: &'static str,
    },
    /// It ends in the middle of a field, or has bytes left over.
    #[error("{what} has the wrong length at {field}")]
    Length {
        /// The format.
        what: &'static str,
        /// Where.
        field: &'static str,
    },
    /// A field holds what it cannot hold.
    #[error("{what}: bad {field}: {reason}")]
    Field {
        /// The format.
        what: &'static str,
        /// Which field.
        field: &'static str,
        /// Why.
        reason: String,
    },
}

/// A cursor over an encoding whose trailing 32 bytes are the SHA-256 of all before them.
pub(crate) struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Checks magic, version and checksum, and stands behind the version.
    pub(crate) fn open(
        what: &'static str,
        bytes: &'a [u8],
        magic: &[u8; 8],
        known: u32,
    ) -> Result<Self, FormatError> {
        if bytes.get(..8) != Some(magic.as_slice()) {
            return Err(FormatError::Magic { what });
        }
        let (body, sum) = bytes.split_last_chunk::<32>().ok_or(FormatError::Length {
            what,
            field: "checksum",
        })?;
        let mut reader = Self { what, rest: body };
        reader.bytes::<8>("magic")?;
        let version = reader.u32("version")?;
        if version != known {
            return Err(FormatError::Version {
                what,
                version,
                known,
            });
        }
        if Digest::of(body).as_bytes() != sum {
            return Err(FormatError::Checksum { what });
        }
        Ok(reader)
    }

    pub(crate) fn bytes<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], FormatError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(FormatError::Length {
                what: self.what,
                field,
            })?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.bytes(field)?))
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.bytes(field)?))
    }

    /// Bytes that a later version may give a meaning.
    pub(crate) fn zero<const N: usize>(&mut self, field: &'static str) -> Result<(), FormatError> {
        match self.bytes::<N>(field)? == [0; N] {
            true => Ok(()),
            false => Err(self.bad(field, "not zero".to_owned())),
        }
    }

    pub(crate) fn digest(&mut self, field: &'static str) -> Result<Digest, FormatError> {
        Ok(Digest::from_bytes(self.bytes(field)?))
    }

    /// A count of records of `size` bytes each: at most `cap`, and no more than there are bytes
    /// for, so that what is allocated by it is bounded by what was received.
    pub(crate) fn count(
        &mut self,
        field: &'static str,
        size: usize,
        cap: usize,
    ) -> Result<usize, FormatError> {
        let count = usize::try_from(self.u64(field)?).unwrap_or(usize::MAX);
        if count > cap {
            return Err(self.bad(field, format!("{count} is over the limit of {cap}")));
        }
        if count > self.rest.len() / size {
            return Err(FormatError::Length {
                what: self.what,
                field,
            });
        }
        Ok(count)
    }

    pub(crate) fn bad(&self, field: &'static str, reason: String) -> FormatError {
        FormatError::Field {
            what: self.what,
            field,
            reason,
        }
    }

    pub(crate) fn end(self) -> Result<(), FormatError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(FormatError::Length {
                what: self.what,
                field: "end",
            })
        }
    }
}

/// Closes an encoding with the SHA-256 of what it holds so far.
pub(crate) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = Digest::of(&bytes);
    bytes.extend_from_slice(sum.as_bytes());
    bytes
}
