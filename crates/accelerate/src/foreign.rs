//! Layers that have no seek table: they are read whole, and only scanned and checked.

use std::io::{self, Read, Write};

use thaw_image::{DiffId, Hasher};
use thaw_layer::tar::{Entry, Scanner};
use thaw_layer::{Expected, LayerError};

/// Largest window of a zstd frame that is accepted, as a power of two: what is held in memory.
const MAX_WINDOW_LOG: u32 = 27;
const BUFFER_BYTES: usize = 1 << 20;

/// Unpacks a layer of zstd frames: writes its tar, checks digest, size and diffID, and gives its
/// entries.
///
/// # Errors
/// As [`thaw_layer::index`].
pub(crate) fn unpack_zstd(
    input: &mut (dyn Read + Send),
    expected: &Expected,
    max_tar_size: u64,
    tar: &mut (dyn Write + Send),
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Vec<Entry>, LayerError> {
    let mut blob = Hashing {
        inner: input,
        hasher: Hasher::new(),
        bytes: 0,
        progress,
    };
    let mut decoder = zstd::stream::read::Decoder::new(&mut blob).map_err(LayerError::Read)?;
    decoder
        .window_log_max(MAX_WINDOW_LOG)
        .map_err(LayerError::Read)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut hasher, mut scanner, mut size) = (Hasher::new(), Scanner::new(), 0u64);
    let unpacked = loop {
        match decoder.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(read) => {
                let bytes = &buffer[..read];
                size += read as u64;
                if size > max_tar_size {
                    break Err(LayerError::TooLarge {
                        limit: max_tar_size,
                    });
                }
                hasher.update(bytes);
                tar.write_all(bytes).map_err(LayerError::WriteTar)?;
                if let Err(error) = scanner.push(bytes) {
                    break Err(error.into());
                }
            }
            Err(error) => break Err(LayerError::Read(error)),
        }
    };
    drop(decoder);
    // A damaged blob is reported as such, whatever it did to the tar.
    if unpacked.is_err() {
        io::copy(&mut (&mut blob).take(expected.blob_size), &mut io::sink()).ok();
    }
    blob.check(expected)?;
    unpacked?;
    let actual = DiffId(hasher.finish());
    if actual != expected.diff_id {
        return Err(LayerError::DiffId {
            expected: expected.diff_id,
            actual,
        });
    }
    Ok(scanner.finish()?)
}

/// Hashes and counts what is read.
struct Hashing<'a> {
    inner: &'a mut (dyn Read + Send),
    hasher: Hasher,
    bytes: u64,
    progress: &'a mut (dyn FnMut(u64) + Send),
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.bytes += read as u64;
        (self.progress)(self.bytes);
        Ok(read)
    }
}

impl Hashing<'_> {
    fn check(self, expected: &Expected) -> Result<(), LayerError> {
        if self.bytes != expected.blob_size {
            return Err(LayerError::BlobSize {
                expected: expected.blob_size,
                actual: self.bytes,
            });
        }
        let actual = self.hasher.finish();
        if actual != expected.blob {
            return Err(LayerError::BlobDigest {
                expected: expected.blob,
                actual,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use thaw_image::Digest;

    use super::*;

    fn layer() -> (Vec<u8>, Vec<u8>) {
        let mut tar = vec![0u8; 1024];
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        header.set_cksum();
        builder
            .append_data(&mut header, "file", &b"hello"[..])
            .unwrap();
        tar.clear();
        tar.extend(builder.into_inner().unwrap());
        let blob = zstd::encode_all(&tar[..], 3).unwrap();
        (tar, blob)
    }

    fn unpack(blob: &[u8], expected: &Expected) -> Result<(Vec<Entry>, Vec<u8>), LayerError> {
        let mut out = Vec::new();
        let mut input = blob;
        let entries = unpack_zstd(&mut input, expected, 1 << 20, &mut out, &mut |_| ())?;
        Ok((entries, out))
    }

    #[test]
    fn a_good_layer_is_scanned_and_checked() {
        let (tar, blob) = layer();
        let expected = Expected {
            blob: Digest::of(&blob),
            blob_size: blob.len() as u64,
            diff_id: DiffId(Digest::of(&tar)),
        };
        let (entries, out) = unpack(&blob, &expected).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(out, tar);
        let lie = Expected {
            diff_id: DiffId(Digest::of(b"x")),
            ..expected
        };
        assert!(matches!(
            unpack(&blob, &lie),
            Err(LayerError::DiffId { .. })
        ));
        let mut damaged = blob.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0xff;
        assert!(matches!(
            unpack(&damaged, &expected),
            Err(LayerError::BlobDigest { .. })
        ));
        let cut = &blob[..blob.len() - 3];
        assert!(matches!(
            unpack(cut, &expected),
            Err(LayerError::BlobSize { .. })
        ));
    }
}
