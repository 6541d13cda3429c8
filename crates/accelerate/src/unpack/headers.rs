//! The headers of a tar without the data of its files: what is kept of a layer that was unpacked, so
//! that the next image with it is put together without fetching it again.
//!
//! Byte picture: `docs/format.md`, "Headers of a layer". The scanner reads them as the tar that they
//! are of, with zeros for the data, so there is no second parser.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;

const MAGIC: &[u8; 8] = b"thawhdr1";
/// Bytes before the records: the magic, and the size of the tar.
const HEAD: usize = 16;
/// Most bytes of headers in one record.
const MAX_RECORD: usize = 64 << 10;
/// A record before its bytes: how many bytes of data come before, and how many of headers follow.
const RECORD_HEAD: usize = 12;
const LEVEL: i32 = 1;

/// Writes headers as they come.
pub(super) struct Recorder {
    out: Option<zstd::Encoder<'static, BufWriter<File>>>,
    /// Bytes of the tar so far.
    offset: u64,
    skipped: u64,
    pending: Vec<u8>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recorder")
    }
}

impl Recorder {
    pub(super) fn new(mut file: File) -> io::Result<Self> {
        file.write_all(MAGIC)?;
        file.write_all(&u64::MAX.to_le_bytes())?;
        let mut out = zstd::Encoder::new(BufWriter::new(file), LEVEL)?;
        out.include_checksum(true)?;
        Ok(Self {
            out: Some(out),
            offset: 0,
            skipped: 0,
            pending: Vec::new(),
        })
    }

    /// How far into a block of the tar it stands.
    pub(super) const fn at_in_block(&self) -> usize {
        (self.offset % 512) as usize
    }

    /// Passes over bytes of data.
    pub(super) fn skip(&mut self, bytes: u64) {
        self.offset += bytes;
        self.skipped += bytes;
    }

    /// Takes bytes of headers.
    pub(super) fn header(&mut self, bytes: &[u8]) -> io::Result<()> {
        let room = MAX_RECORD - self.pending.len();
        if !bytes.is_empty() && (self.skipped > 0 || room < bytes.len()) {
            self.flush()?;
        }
        self.offset += bytes.len() as u64;
        self.pending.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes what is pending. `skipped` comes before it in the next record, behind it in the tar.
    fn flush(&mut self) -> io::Result<()> {
        let Some(out) = &mut self.out else {
            return Ok(());
        };
        let len = u32::try_from(self.pending.len()).unwrap_or(0);
        out.write_all(&len.to_le_bytes())?;
        out.write_all(&self.skipped.to_le_bytes())?;
        out.write_all(&self.pending)?;
        self.pending.clear();
        self.skipped = 0;
        Ok(())
    }

    /// Ends the file.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.flush()?;
        if let Some(out) = self.out.take() {
            let file = out.finish()?.into_inner().map_err(io::Error::other)?;
            file.write_all_at(&self.offset.to_le_bytes(), MAGIC.len() as u64)?;
        }
        Ok(())
    }
}

/// Reads them as the tar that they are of, with zeros for the data of its files.
pub struct Headers {
    tar_size: u64,
    input: zstd::Decoder<'static, BufReader<File>>,
    /// Bytes of headers that follow, then zeros.
    left: usize,
    zeros: u64,
    ended: bool,
}

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Headers")
    }
}

impl Headers {
    /// Reads a file that an [`Unpacker`](super::Unpacker) made.
    ///
    /// # Errors
    /// When it cannot be read, or is another file.
    pub fn open(path: &std::path::Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut head = [0; HEAD];
        file.read_exact(&mut head)?;
        let (magic, size) = head.split_at(MAGIC.len());
        let mut tar_size = [0; 8];
        tar_size.copy_from_slice(size);
        let tar_size = u64::from_le_bytes(tar_size);
        if magic != MAGIC || tar_size == u64::MAX {
            return Err(invalid("not the headers of a layer"));
        }
        Ok(Self {
            tar_size,
            input: zstd::Decoder::new(file)?,
            left: 0,
            zeros: 0,
            ended: false,
        })
    }

    /// Bytes of the tar.
    #[must_use]
    pub const fn tar_size(&self) -> u64 {
        self.tar_size
    }

    fn next_record(&mut self) -> io::Result<()> {
        let mut head = [0; RECORD_HEAD];
        // The stream's own end, and its checksum, are seen where no record begins.
        if self.input.read(&mut head[..1])? == 0 {
            self.ended = true;
            return Ok(());
        }
        self.input.read_exact(&mut head[1..])?;
        let (len, zeros) = head.split_at(4);
        let (mut four, mut eight) = ([0; 4], [0; 8]);
        four.copy_from_slice(len);
        eight.copy_from_slice(zeros);
        self.left = u32::from_le_bytes(four) as usize;
        self.zeros = u64::from_le_bytes(eight);
        match self.left <= MAX_RECORD {
            true => Ok(()),
            false => Err(invalid("a record of headers is too long")),
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Read for Headers {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 && self.zeros == 0 && !self.ended {
            self.next_record()?;
        }
        if self.left > 0 {
            let len = self.left.min(buffer.len());
            let read = self.input.read(&mut buffer[..len])?;
            if read == 0 && len > 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.left -= read;
            return Ok(read);
        }
        let len = usize::try_from(self.zeros)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        buffer[..len].fill(0);
        self.zeros -= len as u64;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_with_zeros_for_data() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("headers");
        let mut recorder = Recorder::new(File::create_new(&path).unwrap()).unwrap();
        let header = vec![7; 70_000];
        recorder.header(&header[..60_000]).unwrap();
        recorder.header(&header[60_000..]).unwrap();
        recorder.skip(3);
        recorder.skip(997);
        recorder.header(b"second").unwrap();
        recorder.skip(5);
        recorder.finish().unwrap();
        let mut read = Vec::new();
        let mut headers = Headers::open(&path).unwrap();
        assert_eq!(headers.tar_size(), 71_011);
        headers.read_to_end(&mut read).unwrap();
        let expected = [&header[..], &[0; 1000], b"second", &[0; 5]].concat();
        assert!(read == expected);
        assert!(std::fs::metadata(&path).unwrap().len() < 200);
    }

    #[test]
    fn damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("headers");
        let mut recorder = Recorder::new(File::create_new(&path).unwrap()).unwrap();
        let noise: Vec<u8> = (0..5000u32).flat_map(|n| (n * n).to_le_bytes()).collect();
        recorder.header(&noise).unwrap();
        recorder.finish().unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in [0, HEAD, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            let read = Headers::open(&path).and_then(|mut it| it.read_to_end(&mut Vec::new()));
            assert!(read.is_err(), "byte {at}");
        }
        std::fs::write(&path, &good[..good.len() / 2]).unwrap();
        let read = Headers::open(&path).and_then(|mut it| it.read_to_end(&mut Vec::new()));
        assert!(read.is_err());
    }
}
