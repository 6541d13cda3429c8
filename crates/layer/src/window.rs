//! Windows as the windows blob holds them: one zstd frame each, of 32 KiB unpacked. The window of a
//! chunk that starts inside of a deflate block has the block's header behind it, from which the
//! code tables are read again: so nothing from before the chunk need be fetched, however far back
//! its block began.
//!
//! A window is mostly zeros, for of the 32 KiB before a checkpoint the chunk behind it refers to
//! a part only. Frames carry neither checksum nor dictionary: a wrong window gives a wrong chunk,
//! and the chunk's digest says so.

use std::io::{self, Write};

use thaw_image::{Digest, Hasher, WindowRef};

use crate::inflate::{MAX_HEADER, WINDOW};

/// zstd's level. 12 makes windows 6 % smaller and takes 12 times as long, as long as decoding the
/// chunk.
const LEVEL: i32 = 3;

/// Writes the windows blob.
pub(crate) struct Windows<'a> {
    out: &'a mut (dyn Write + Send),
    compressor: Option<zstd::bulk::Compressor<'static>>,
    frame: Vec<u8>,
    hasher: Hasher,
    size: u64,
}

impl<'a> Windows<'a> {
    pub(crate) fn new(out: &'a mut (dyn Write + Send)) -> Self {
        Self {
            out,
            compressor: None,
            frame: Vec::new(),
            hasher: Hasher::new(),
            size: 0,
        }
    }

    /// Appends a window; where it is.
    pub(crate) fn push(&mut self, window: &[u8]) -> io::Result<WindowRef> {
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            none => none.insert(zstd::bulk::Compressor::new(LEVEL)?),
        };
        self.frame
            .resize(zstd::zstd_safe::compress_bound(window.len()), 0);
        let len = compressor.compress_to_buffer(window, self.frame.as_mut_slice())?;
        let frame = &self.frame[..len];
        self.out.write_all(frame)?;
        self.hasher.update(frame);
        let offset = self.size;
        self.size += len as u64;
        Ok(WindowRef {
            offset,
            len: u32::try_from(len).unwrap_or(u32::MAX),
        })
    }

    /// Digest and size of the blob.
    pub(crate) fn finish(self) -> io::Result<(Digest, u64)> {
        self.out.flush()?;
        Ok((self.hasher.finish(), self.size))
    }
}

/// Unpacks one window, and the block's header behind it; `None` if it is not one.
pub(crate) fn unpack(frame: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut window = zstd::bulk::decompress(frame, WINDOW + MAX_HEADER).ok()?;
    let header = (window.len() >= WINDOW).then(|| window.split_off(WINDOW))?;
    Some((window, header))
}
