//! The header of a presence file; `docs/format.md` has the picture.

use thaw_image::{DiffId, Digest};

use super::reader::PresenceError;
use crate::store::BootId;

const MAGIC: &[u8; 8] = b"THAWPRES";
const VERSION: u32 = 1;
const WHOLE: u32 = 1;

const VERSION_AT: usize = 8;
const FLAGS_AT: usize = 12;
const SIZE_AT: usize = 16;
const DIFF_ID_AT: usize = 24;
const BOOT_AT: usize = 56;
const SUM_AT: usize = 72;
const END: usize = 104;

/// Bytes of the header, and so where the bitmap starts.
pub(crate) const HEADER_BYTES: usize = 512;

/// What a presence file says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) tar_size: u64,
    pub(crate) diff_id: DiffId,
    /// The boot in which the bits are true.
    pub(crate) boot: BootId,
    /// The tar was hashed and has its diffID.
    pub(crate) whole: bool,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, MAGIC);
        put(VERSION_AT, &VERSION.to_le_bytes());
        put(
            FLAGS_AT,
            &(if self.whole { WHOLE } else { 0 }).to_le_bytes(),
        );
        put(SIZE_AT, &self.tar_size.to_le_bytes());
        put(DIFF_ID_AT, self.diff_id.0.as_bytes());
        put(BOOT_AT, &self.boot.0);
        let sum = Digest::of(&out[..SUM_AT]);
        out[SUM_AT..END].copy_from_slice(sum.as_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, PresenceError> {
        let field = Fields(bytes.get(..HEADER_BYTES).ok_or(PresenceError::Damaged)?);
        if field.at::<8>(0) != *MAGIC
            || Digest::of(&field.0[..SUM_AT]).as_bytes() != &field.at(SUM_AT)
        {
            return Err(PresenceError::Damaged);
        }
        let version = u32::from_le_bytes(field.at(VERSION_AT));
        if version != VERSION {
            return Err(PresenceError::Version { version });
        }
        let flags = u32::from_le_bytes(field.at(FLAGS_AT));
        if flags & !WHOLE != 0 || field.0[END..].iter().any(|byte| *byte != 0) {
            return Err(PresenceError::Damaged);
        }
        Ok(Self {
            tar_size: u64::from_le_bytes(field.at(SIZE_AT)),
            diff_id: DiffId(Digest::from_bytes(field.at(DIFF_ID_AT))),
            boot: BootId(field.at(BOOT_AT)),
            whole: flags & WHOLE != 0,
        })
    }
}

/// A whole header's bytes.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    /// The field at a constant place within the header.
    fn at<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|i| self.0[at + i])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_notices_damage() {
        let header = Header {
            tar_size: 12345,
            diff_id: DiffId(Digest::of(b"tar")),
            boot: BootId([7; 16]),
            whole: true,
        };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes).unwrap(), header);
        for at in 0..HEADER_BYTES {
            let mut bad = bytes;
            bad[at] ^= 4;
            assert!(Header::decode(&bad).is_err(), "byte {at}");
        }
        assert!(Header::decode(&bytes[..511]).is_err());
        assert!(Header::decode(&[0; HEADER_BYTES]).is_err());
    }
}
