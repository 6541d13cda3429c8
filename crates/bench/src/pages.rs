//! The pages of an unpacked image that a start touches, and how small zstd makes them: the least
//! that any system has to move.
//!
//! The image is pulled, every cache dropped and read-ahead turned off; then the container starts.
//! What is in the page cache at the first answer is what was touched. `fincore` names the files,
//! `preadv2(RWF_NOWAIT)` reads their pages where they are cached and refuses where they are not.

use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use serde::Serialize;
use thaw_testkit::process;

use crate::containerd::ContainerdNode;
use crate::contender::{self, Node};
use crate::disk::{Disk, drop_caches};
use crate::world::{Served, World};

const PAGE: usize = 4096;

/// What a start touches.
#[derive(Debug, Serialize)]
pub(crate) struct Touched {
    pub(crate) files: usize,
    /// Bytes of those files.
    pub(crate) file_bytes: u64,
    /// Bytes of the pages touched in them.
    pub(crate) page_bytes: u64,
    /// Those pages as one zstd stream of level 3.
    pub(crate) zstd_bytes: u64,
}

/// Starts the image on the baseline and looks.
pub(crate) fn touched(world: &World, image: &Served) -> Result<Touched> {
    let disk = Disk::new()?;
    let mut node = ContainerdNode::new(disk.path())?;
    node.pull(&image.reference)?;
    disk.read_ahead(0)?;
    drop_caches()?;
    contender::warm(&mut node, &image.reference, &world.link)?;
    let cached = cached_files(&node.snapshots())?;
    node.stop()?;
    pack(&cached)
}

/// Files below `directory` with pages in the cache, and the bytes of those pages.
fn cached_files(directory: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let output = process::run(
        Command::new("find")
            .arg(directory)
            .args(["-type", "f", "-size", "+0", "-exec"])
            .args([
                "fincore",
                "--bytes",
                "--noheadings",
                "--raw",
                "--output",
                "RES,FILE",
                "{}",
                "+",
            ]),
    )?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let files = lines.filter_map(|(bytes, file)| Some((PathBuf::from(file), bytes.parse().ok()?)));
    Ok(files.filter(|(_, bytes)| *bytes > 0).collect())
}

fn pack(files: &[(PathBuf, u64)]) -> Result<Touched> {
    let mut touched = Touched {
        files: files.len(),
        file_bytes: 0,
        page_bytes: 0,
        zstd_bytes: 0,
    };
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3)?;
    for (path, _) in files {
        // A name that fincore could not print as it is: such files are not worth more code.
        let Ok(file) = File::open(path) else { continue };
        touched.file_bytes += file.metadata()?.len();
        touched.page_bytes += cached_pages(&file, &mut encoder)
            .with_context(|| format!("cannot read {}", path.display()))?;
    }
    touched.zstd_bytes = encoder.finish()?.len() as u64;
    let expected: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    // Last pages are shorter than fincore counts them.
    let slack = expected / 50 + (files.len() * PAGE) as u64;
    ensure!(
        touched.page_bytes.abs_diff(expected) <= slack,
        "read {} bytes of cached pages where fincore saw {expected}",
        touched.page_bytes
    );
    Ok(touched)
}

fn cached_pages(file: &File, out: &mut impl Write) -> Result<u64> {
    let size = file.metadata()?.len();
    let mut page = [0; PAGE];
    let mut bytes = 0;
    for offset in (0..size).step_by(PAGE) {
        let mut slices = [IoSliceMut::new(&mut page)];
        match preadv2(file, &mut slices, offset, ReadWriteFlags::NOWAIT) {
            Ok(count) => {
                out.write_all(&page[..count])?;
                bytes += count as u64;
            }
            Err(Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}
