//! Random access to a layer tar that is not here: by its seek table, one chunk after the other.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use thaw_image::{BlobSource, Chunk, CodecState, Extent, Verified};

use crate::pipeline::LayerIndex;

impl LayerIndex {
    /// Reads bytes of the layer's tar from its blob in `source`. Every chunk that they touch is
    /// decoded whole and verified.
    ///
    /// # Errors
    /// What the source says; an error that names the digests where a chunk is not right.
    pub fn read(&self, source: &dyn BlobSource, extent: Extent) -> io::Result<Vec<u8>> {
        read(self, source, extent)
    }
}

/// Reads `extent` of the tar whose index this is, decoding each chunk that it touches. Every chunk
/// is verified.
pub(crate) fn read(
    index: &LayerIndex,
    source: &dyn BlobSource,
    extent: Extent,
) -> io::Result<Vec<u8>> {
    let table = &index.table;
    let mut bytes = Vec::new();
    for number in table.covering(extent) {
        let chunk = &table.chunks[number];
        let tar = read_chunk(index, source, chunk)?;
        let wanted = chunk.tar.intersect(&extent);
        let start = usize::try_from(wanted.offset - chunk.tar.offset).unwrap_or(usize::MAX);
        let len = usize::try_from(wanted.len).unwrap_or(usize::MAX);
        let part = tar.bytes().get(start..start.saturating_add(len));
        bytes.extend_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
    }
    Ok(bytes)
}

/// Reads and decodes a chunk; once more where wrong bytes may have come from somebody who is not asked
/// again.
fn read_chunk(index: &LayerIndex, source: &dyn BlobSource, chunk: &Chunk) -> io::Result<Verified> {
    let table = &index.table;
    let window = window_of(index, chunk)?;
    let read = || {
        let blob = source.read_at(&table.blob, chunk.blob, None);
        let decode =
            |blob: Vec<u8>| thaw_layer::decode(table.format, chunk, &blob, window.as_deref());
        blob.map(decode).map_err(io::Error::other)
    };
    let tar = match read()? {
        Err(_) if source.distrust() => read()?,
        first => first,
    };
    tar.map_err(io::Error::other)
}

/// What a chunk's decoder has to know of the bytes before it.
fn window_of(index: &LayerIndex, chunk: &Chunk) -> io::Result<Option<Vec<u8>>> {
    match chunk.state {
        CodecState::Deflate { window, .. } if window.len > 0 => {
            let mut bytes = vec![0; window.len as usize];
            let file = File::open(index.windows_file.path())?;
            file.read_exact_at(&mut bytes, window.offset)?;
            Ok(Some(bytes))
        }
        _ => Ok(None),
    }
}
