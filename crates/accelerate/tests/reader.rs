//! A tar that is not here is read by its seek table, from sources that lie.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod common;

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use common::{Here, Memory, load};
use thaw_accelerate::prepare;
use thaw_image::{BlobSource, Digest, Extent, Silent, SourceError};
use thaw_layer::Options;
use thaw_testkit::image::{Entry, Image, Layer};

/// A source with wrong bytes in its next reads.
#[derive(Debug)]
struct Liar<'a> {
    truth: &'a Memory,
    lies: AtomicUsize,
    /// Whether somebody else can be asked.
    has_others: bool,
}

impl BlobSource for Liar<'_> {
    fn read_at(
        &self,
        blob: &Digest,
        extent: Extent,
        deadline: Option<Instant>,
    ) -> Result<Vec<u8>, SourceError> {
        let mut bytes = self.truth.read_at(blob, extent, deadline)?;
        let lie = |left: usize| left.checked_sub(1);
        let (order, load) = (Ordering::Relaxed, Ordering::Relaxed);
        if self.lies.fetch_update(order, load, lie).is_ok() {
            bytes.fill(0);
        }
        Ok(bytes)
    }

    fn stream(&self, blob: &Digest, extent: Extent) -> Result<Box<dyn Read + Send>, SourceError> {
        self.truth.stream(blob, extent)
    }

    fn name(&self) -> String {
        self.truth.name()
    }

    fn distrust(&self) -> bool {
        self.has_others
    }
}

#[test]
fn a_chunk_that_is_wrong_is_asked_for_once_more_where_others_can_be_asked() {
    let noise: Vec<u8> = (0..100_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let loaded = load(&Image::new([Layer::new([Entry::file("a", noise)])]));
    let here = Here::new(true);
    let options = Options {
        spacing: 64 << 10,
        ..Options::default()
    };
    let prepared = prepare(&loaded.layers, &loaded.source, &here, &options, &Silent).unwrap();
    let index = prepared.layers[0].index.as_ref().unwrap();
    let tars = here.tars.lock().unwrap();
    let extent = Extent {
        offset: 1000,
        len: 300_000,
    };
    let wanted = &tars[&loaded.layers[0].diff_id][1000..301_000];
    let read = |lies, has_others| {
        let source = Liar {
            truth: &loaded.source,
            lies: AtomicUsize::new(lies),
            has_others,
        };
        index.read(&source, extent)
    };
    assert!(index.table.covering(extent).len() > 2);
    assert!(read(0, false).unwrap() == wanted);
    assert!(read(1, true).unwrap() == wanted);
    read(1, false).unwrap_err();
    read(2, true).unwrap_err();
}
