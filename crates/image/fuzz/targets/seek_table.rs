//! Any bytes are a seek table or refused; one that is read covers its tar, and is the same when it is
//! written and read again.

use thaw_image::{Digest, Extent, MAX_CHUNK_BLOB, MAX_CHUNK_TAR, SeekTable};

pub(crate) fn run(data: &[u8]) {
    let _ = SeekTable::decode(data);
    // What ends in its right checksum is looked at further.
    let sealed = [data, Digest::of(data).as_bytes()].concat();
    let Ok(table) = SeekTable::decode(&sealed) else {
        return;
    };
    assert_eq!(SeekTable::decode(&table.encode()).as_ref(), Ok(&table));
    let mut end = 0;
    for (number, chunk) in table.chunks.iter().enumerate() {
        assert_eq!(chunk.tar.offset, end);
        assert!((1..=MAX_CHUNK_TAR).contains(&chunk.tar.len) && chunk.blob.len <= MAX_CHUNK_BLOB);
        assert!(chunk.blob.end() <= table.blob_size);
        assert_eq!(table.covering(chunk.tar), number..number + 1);
        end = chunk.tar.end();
    }
    assert_eq!(end, table.tar_size);
    let all = Extent {
        offset: 0,
        len: u64::MAX,
    };
    assert_eq!(table.covering(all), 0..table.chunks.len());
}
