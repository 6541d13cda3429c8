//! Puts a working set into the page cache, file by file, ahead of the program that will read it.
//!
//! A page that is on this node but not in the page cache costs the program a read of the layout's
//! device, and an event for the keeper. What a start reads is known: as soon as a frame is here, its
//! pages are read through the mount by a thread of the daemon, mostly on a processor that would be idle, and
//! the program finds them as in a warm start. Opening the files finds their directory entries, too.
//!
//! It is advice and nothing more. A file that cannot be opened or read is passed over, and where memory
//! is short nothing is read. Paths are names of the layout, and looked up below the mount without
//! following anything.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, Advice, CWD, FileType, Mode, OFlags, ResolveFlags};
use thaw_accelerate::FilePages;
use thaw_cache::Frames;
use thaw_image::WorkingSet;

/// Bytes that are asked for at once: the kernel reads no more of what it is advised to (`ra_pages`).
const PIECE: u64 = 128 << 10;
/// Nothing is read ahead unless so many times as much memory is available.
const SPARE: u64 = 4;

/// Where an image is mounted, and the layout that it is mounted from.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) root: PathBuf,
    pub(crate) layout: PathBuf,
}

/// Reads what has come of a set until all of it has, or it is cancelled.
pub(crate) fn warm(place: &Place, set: &WorkingSet, frames: &Frames) {
    if frames.is_cancelled() {
        return;
    }
    let Ok(layout) = std::fs::read(&place.layout) else {
        return;
    };
    let pages = thaw_accelerate::file_pages(&layout, set);
    drop(layout);
    let bytes: u64 = pages
        .iter()
        .map(|pages| pages.bytes.end - pages.bytes.start)
        .sum();
    if available_memory().is_some_and(|available| available / SPARE < bytes) {
        tracing::debug!(bytes, "too little memory to read a working set ahead");
        return;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(root) = fs::openat(CWD, &place.root, flags, Mode::empty()) else {
        return;
    };
    let mut files = Files { root, last: None };
    for pages in pages.chunk_by(|a, b| a.frame == b.frame) {
        match pages.first().map(|first| frames.wait(first.frame)) {
            Some(Some(true)) => pages.iter().for_each(|pages| files.read(pages)),
            Some(Some(false)) => {}
            Some(None) | None => return,
        }
    }
    tracing::debug!(bytes, "read a working set ahead");
}

/// The files below a mount's root.
struct Files {
    root: OwnedFd,
    /// The file that was read last: mostly the next pages are of it, too.
    last: Option<(std::sync::Arc<[u8]>, Option<OwnedFd>)>,
}

impl Files {
    fn read(&mut self, pages: &FilePages) {
        if self
            .last
            .as_ref()
            .is_none_or(|(path, _)| *path != pages.path)
        {
            let file = open(self.root.as_fd(), &pages.path);
            self.last = Some((pages.path.clone(), file));
        }
        let Some((_, Some(file))) = &self.last else {
            return;
        };
        let mut offset = pages.bytes.start;
        while let Some(len) = std::num::NonZero::new(PIECE.min(pages.bytes.end - offset)) {
            if fs::fadvise(file, offset, Some(len), Advice::WillNeed).is_err() {
                return;
            }
            offset += len.get();
        }
    }
}

/// A regular file below `root`.
fn open(root: impl AsFd, path: &[u8]) -> Option<OwnedFd> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let file = fs::openat2(root, path, flags, Mode::empty(), resolve).ok()?;
    let stat = fs::fstat(&file).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(file)
}

/// Bytes of memory that programs could have without swapping (proc(5), `MemAvailable`).
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}
