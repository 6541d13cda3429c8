//! A working set → pages of files: what a start reads, as the kernel's page cache has it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use thaw_image::{DiffId, Extent, WorkingSet};

use crate::merge::path::MAX_PATH;
use crate::names::{Piece, each_piece};

/// Bytes of a page of the page cache; where pages are larger, what is asked for is rounded by the kernel.
const PAGE: u64 = 4096;
/// Pieces of files in runs that are looked at: some ten times what a large image has. Layouts and sets
/// may say that everything lies everywhere.
const MAX_STEPS: usize = 1 << 20;
/// Bytes of paths that are kept: as many as those files of a large image have with a path of 64 bytes
/// each. Directories within each other let a small layout have gigabytes.
const MAX_PATHS: usize = 64 << 20;

/// Whole pages of a file whose bytes are in frames of a working set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilePages {
    /// The last of those frames, by number.
    pub frame: usize,
    /// The file, from the image's root, without a slash before it.
    pub path: Arc<[u8]>,
    /// Where they lie in the file, in bytes.
    pub bytes: Range<u64>,
}

/// A run of a frame.
struct Run {
    bytes: Extent,
    frame: usize,
}

/// The pages of files that a working set has, in the order of the frames that complete them, and within
/// a frame file by file. None of them where `layout` is none, and not all of them of an image that
/// has very many.
#[must_use]
pub fn file_pages(layout: &[u8], set: &WorkingSet) -> Vec<FilePages> {
    let mut runs: HashMap<DiffId, Vec<Run>> = HashMap::new();
    for (frame, content) in set.frames.iter().enumerate() {
        for run in &content.runs {
            if let Some((layer, _)) = set.layers.get(usize::from(run.layer)) {
                let bytes = set.extent(run);
                runs.entry(*layer).or_default().push(Run { bytes, frame });
            }
        }
    }
    for runs in runs.values_mut() {
        *runs = disjoint(std::mem::take(runs));
    }
    let (mut pages, mut steps, mut paths) = (Vec::new(), 0, 0);
    let every = each_piece(layout, &mut |piece| {
        // No file is opened by a longer one.
        if piece.path.len() > MAX_PATH {
            return;
        }
        let runs = runs.get(&piece.layer).map_or(&[][..], Vec::as_slice);
        let first = runs.partition_point(|run| run.bytes.end() <= piece.bytes.offset);
        let runs = &runs[first..];
        let runs = &runs[..runs.partition_point(|run| run.bytes.offset < piece.bytes.end())];
        steps += runs.len();
        if steps <= MAX_STEPS && paths <= MAX_PATHS {
            let found = pages_of(piece, runs);
            paths += found.first().map_or(0, |pages| pages.path.len());
            pages.extend(found);
        }
    });
    if every.is_none() {
        return Vec::new();
    }
    // Stable: files stay together, and their pages in order.
    pages.sort_by_key(|pages| pages.frame);
    pages
}

/// Runs in order, each without what one before it has.
fn disjoint(mut runs: Vec<Run>) -> Vec<Run> {
    runs.sort_by_key(|run| (run.bytes.offset, run.frame));
    let mut end = 0;
    runs.retain_mut(|run| {
        run.bytes = Extent::between(run.bytes.offset.max(end), run.bytes.end());
        end = end.max(run.bytes.end());
        !run.bytes.is_empty()
    });
    runs
}

/// The whole pages that runs, in order and disjoint, have of a piece.
fn pages_of(piece: &Piece<'_>, runs: &[Run]) -> Vec<FilePages> {
    let (mut pages, mut path) = (Vec::new(), None);
    let mut add = |frame, bytes: Range<u64>| {
        if bytes.start < bytes.end {
            let path = path.get_or_insert_with(|| piece.path.get(1..).unwrap_or_default().into());
            let path = Arc::clone(path);
            pages.push(FilePages { frame, path, bytes });
        }
    };
    let mut had: Option<Had> = None;
    for run in runs {
        let Some(bytes) = in_file(piece, run.bytes) else {
            continue;
        };
        let before = had.filter(|had| bytes.start <= had.end);
        let Had {
            end,
            mut next,
            part,
        } = before.unwrap_or(Had {
            end: bytes.start,
            next: bytes.start.next_multiple_of(PAGE),
            part: run.frame,
        });
        let end = end.max(bytes.end);
        // The last page of a file ends where the file does.
        let whole = match end >= piece.size {
            true => piece.size,
            false => end / PAGE * PAGE,
        };
        let last = part.max(run.frame);
        if next < bytes.start && next < whole {
            let page = next..whole.min(next + PAGE);
            next = page.end;
            add(last, page);
        }
        if next < whole {
            add(run.frame, next..whole);
            next = whole;
        }
        let part = match next < bytes.start {
            true => last,
            false => run.frame,
        };
        had = Some(Had { end, next, part });
    }
    pages
}

/// What runs have of a file without a gap.
#[derive(Clone, Copy)]
struct Had {
    /// Up to where.
    end: u64,
    /// Where the first page begins that was not whole so far.
    next: u64,
    /// The last frame that has a part of that page.
    part: usize,
}

/// Which bytes of a file a run has.
fn in_file(piece: &Piece<'_>, run: Extent) -> Option<Range<u64>> {
    let common = run.intersect(&piece.bytes);
    let skipped = common.offset.checked_sub(piece.bytes.offset)?;
    let begin = piece.offset.checked_add(skipped)?;
    Some(begin..begin.checked_add(common.len)?)
}

#[cfg(test)]
mod tests;
