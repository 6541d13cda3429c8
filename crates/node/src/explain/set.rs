//! A working set, by file.

use std::collections::BTreeMap;

use thaw_image::{DiffId, Digest, Extent, WorkingSet};

use crate::Node;
use crate::error::NodeError;

/// Bytes that count for one file: of those which have a part of them, that with the largest.
const PIECE: u64 = 32 << 10;

impl Node {
    /// The files of a profile's working set and how many bytes of each it has, by path. Empty where the
    /// working set or the image's layout is not on this node.
    ///
    /// # Errors
    /// [`NodeError`] for records that cannot be read.
    pub fn working_set_files(
        &self,
        manifest: &Digest,
        profile: &str,
    ) -> Result<BTreeMap<String, u64>, NodeError> {
        let Some(record) = self.records.image(manifest) else {
            return Ok(BTreeMap::new());
        };
        let image = self.recorded_image(&record)?;
        let mount = self.mount_of(manifest);
        let layout = self.layout_of(mount.as_deref(), image.as_ref())?;
        let set = record.working_sets.get(profile);
        let set = set.and_then(|set| self.kept_set(&set.manifest, manifest));
        let (Some(set), Some(layout)) = (set, layout) else {
            return Ok(BTreeMap::new());
        };
        let places = pieces(&set);
        let mut files = BTreeMap::new();
        for (number, path) in thaw_accelerate::names(&layout, &places) {
            let bytes: &mut u64 = files.entry(path).or_default();
            *bytes = bytes.saturating_add(places[number].1.len);
        }
        Ok(files)
    }
}

fn pieces(set: &WorkingSet) -> Vec<(DiffId, Extent)> {
    let runs = set.frames.iter().flat_map(|frame| &frame.runs);
    let mut pieces = Vec::new();
    for run in runs {
        let Some((layer, _)) = set.layers.get(usize::from(run.layer)) else {
            continue;
        };
        let all = set.extent(run);
        let mut offset = all.offset;
        while let Some(len) = all.end().checked_sub(offset).filter(|left| *left > 0) {
            let piece = Extent {
                offset,
                len: len.min(PIECE),
            };
            offset = piece.end();
            pieces.push((*layer, piece));
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_is_cut_to_the_byte() {
        let layer = DiffId(Digest::of(b"layer"));
        // Blocks have 512 bytes; the tar's last one has 5.
        let size = 100 * 1024 + 5;
        let blocks = thaw_image::BlockRun {
            first: 8,
            count: 200,
        };
        let run = thaw_image::Run { layer: 0, blocks };
        let set = WorkingSet {
            layers: vec![(layer, size)],
            frames: vec![thaw_image::Frame {
                data: Extent { offset: 0, len: 1 },
                digest: Digest::of(b""),
                runs: vec![run],
            }],
        };
        let pieces = pieces(&set);
        assert_eq!(pieces.len(), 4);
        assert_eq!(pieces[0].1.offset, 4096);
        assert_eq!(pieces[3].1.end(), size);
        let sum: u64 = pieces.iter().map(|(_, piece)| piece.len).sum();
        assert_eq!(sum, size - 4096);
    }
}
