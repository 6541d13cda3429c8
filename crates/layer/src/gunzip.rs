//! Decompressing a whole gzip stream, for whoever wants its bytes and nothing else.

use std::io::{self, Read, Write};

use crate::inflate::{Decoder, InflateError, Input, Output, Stop};

const INPUT_BYTES: usize = 256 << 10;
const OUTPUT_BYTES: usize = 256 << 10;

/// Why a gzip stream could not be decompressed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GunzipError {
    /// It could not be read.
    #[error("cannot read the gzip stream")]
    Read(#[source] io::Error),
    /// Its bytes could not be written.
    #[error("cannot write what the gzip stream holds")]
    Write(#[source] io::Error),
    /// It is not a gzip stream, or a damaged one.
    #[error("cannot decompress, at byte {offset}")]
    Inflate {
        /// Where in the stream.
        offset: u64,
        /// What is wrong there.
        source: InflateError,
    },
    /// It holds more than allowed.
    #[error("the gzip stream holds more than {limit} bytes")]
    TooLarge {
        /// What was allowed.
        limit: u64,
    },
}

/// Decompresses all members of the gzip stream `input` to `output`, and checks their trailers; how
/// many bytes it holds. Takes less than 1 MiB of memory.
///
/// # Errors
/// [`GunzipError`]; `limit` is the most bytes that may come out. What was written before is not
/// verified.
pub fn gunzip(
    input: &mut dyn Read,
    output: &mut dyn Write,
    limit: u64,
) -> Result<u64, GunzipError> {
    let mut from = Input::with_capacity(INPUT_BYTES);
    let mut to = Output::new(&[], OUTPUT_BYTES);
    let mut decoder = Decoder::new(true);
    let mut spare = vec![0; Output::buffer_len(OUTPUT_BYTES)];
    let mut written = 0;
    loop {
        let stop = decoder.run(&mut from, &mut to);
        let stop = stop.map_err(|source| GunzipError::Inflate {
            offset: from.bit_position() / 8,
            source,
        })?;
        if stop == Stop::Input {
            let filled = from.fill(|buffer| input.read(buffer));
            filled.map_err(GunzipError::Read)?;
        }
        if matches!(stop, Stop::Output | Stop::End) {
            let (full, fresh) = to.swap(spare);
            written += fresh.len() as u64;
            if written > limit {
                return Err(GunzipError::TooLarge { limit });
            }
            output.write_all(&full[fresh]).map_err(GunzipError::Write)?;
            spare = full;
        }
        if stop == Stop::End {
            return Ok(written);
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn whole_streams() {
        let data: Vec<u8> = (0..400_000u32)
            .flat_map(|n| (n / 3).to_le_bytes())
            .collect();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&data).unwrap();
        let blob = encoder.finish().unwrap();
        let run = |blob: &[u8], limit| {
            let mut out = Vec::new();
            gunzip(&mut &*blob, &mut out, limit).map(|size| (size, out))
        };
        let size = data.len() as u64;
        assert_eq!(run(&blob, size).unwrap(), (size, data));
        let over = run(&blob, size - 1).unwrap_err();
        assert!(matches!(over, GunzipError::TooLarge { .. }));
        let cut = run(&blob[..blob.len() - 1], size).unwrap_err();
        let source = InflateError::Truncated;
        assert!(matches!(cut, GunzipError::Inflate { source: found, .. } if found == source));
    }
}
