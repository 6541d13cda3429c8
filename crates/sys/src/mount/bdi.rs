//! Backing device information: where the kernel keeps how far a mount reads ahead.
//!
//! A mount of a block device has `/sys/class/bdi/MAJOR:MINOR`. A file-backed EROFS has
//! `/sys/class/bdi/erofs-N`, with N counting up and told to nobody: it is the one that was not there
//! before the superblock was made.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const CLASS: &str = "/sys/class/bdi";

/// Superblocks of this process are made one after the other, so that each finds its own.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs `create`, and gives the name that appeared; none if another process made an EROFS
/// superblock at the same time.
pub(super) fn of_new_superblock<T>(create: impl FnOnce() -> T) -> (T, Option<String>) {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before = file_backed();
    let created = create();
    let mut new = file_backed();
    new.retain(|name| !before.contains(name));
    let only = if new.len() == 1 {
        new.pop_first()
    } else {
        None
    };
    (created, only)
}

fn file_backed() -> BTreeSet<String> {
    let names = fs::read_dir(CLASS).into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("erofs-"))
        .collect()
}

/// The name of the block device that the mount `root` lies on.
pub(super) fn of_device(root: impl AsFd) -> Option<String> {
    let device = rustix::fs::fstat(root).ok()?.st_dev;
    let name = format!(
        "{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    );
    Path::new(CLASS).join(&name).exists().then_some(name)
}

pub(super) fn read_ahead_kb(bdi: Option<&str>) -> io::Result<u32> {
    let text = fs::read_to_string(attribute(bdi)?)?;
    text.trim()
        .parse()
        .map_err(|_| io::ErrorKind::InvalidData.into())
}

pub(super) fn set_read_ahead_kb(bdi: Option<&str>, kb: u32) -> io::Result<()> {
    fs::write(attribute(bdi)?, kb.to_string())
}

fn attribute(bdi: Option<&str>) -> io::Result<PathBuf> {
    let bdi = bdi.ok_or(io::ErrorKind::Unsupported)?;
    Ok(Path::new(CLASS).join(bdi).join("read_ahead_kb"))
}
