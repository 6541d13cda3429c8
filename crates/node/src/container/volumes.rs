//! Volumes become bind mounts: paths of the host, named volumes of the store, and fresh directories that live as
//! long as the container, where one was asked for and for each VOLUME of the image that nothing else covers.
//!
//! A new volume begins with what the image has at its place, as users of Docker expect.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::ContainerError;
use super::copy;
use super::options::{Options, VolumeSource};
use super::parse::{self, ParseError};
use super::rootfs::RootFs;
use super::spec::Mount;

/// Most VOLUMEs of an image.
const MAX_VOLUMES: usize = 256;

/// Where volumes live.
#[derive(Debug)]
pub(super) struct Places<'a> {
    /// Named volumes of the store.
    pub(super) named: &'a Path,
    /// Those of this container alone.
    pub(super) own: &'a Path,
}

impl Places<'_> {
    /// One directory of the container's own after the other.
    fn own_ones(&self) -> impl Iterator<Item = PathBuf> {
        (0u64..).map(|number| self.own.join(number.to_string()))
    }
}

/// The mounts of a container's volumes and tmpfs. Makes what is missing.
pub(super) fn mounts(
    root: &RootFs,
    image_volumes: &[String],
    options: &Options,
    places: &Places<'_>,
) -> Result<Vec<Mount>, ContainerError> {
    let mut mounts: Vec<Mount> = options.tmpfs.iter().map(Mount::tmpfs).collect();
    let mut own = places.own_ones();
    for volume in &options.volumes {
        let source = match &volume.source {
            VolumeSource::Own => {
                let path = own.next().unwrap_or_default();
                fill(root, &volume.target, &path)?;
                path
            }
            VolumeSource::Host(path) if !path.exists() => {
                return Err(ContainerError::VolumeMissing(path.clone()));
            }
            VolumeSource::Host(path) => path.clone(),
            VolumeSource::Named(name) => {
                let path = places.named.join(parse::name("volume name", name)?);
                fill(root, &volume.target, &path)?;
                path
            }
        };
        let target = parse::target("volume", &volume.target)?;
        mounts.push(Mount::bind(utf8(&source)?, &target, volume.read_only));
    }
    refuse_doubles(&mounts)?;
    for target in image_volumes.iter().take(MAX_VOLUMES) {
        let target = parse::target("VOLUME of the image", target)?;
        if mounts.iter().any(|mount| mount.target() == target) {
            continue;
        }
        let path = own.next().unwrap_or_default();
        fill(root, &target, &path)?;
        mounts.push(Mount::bind(utf8(&path)?, &target, false));
    }
    Ok(mounts)
}

fn refuse_doubles(mounts: &[Mount]) -> Result<(), ParseError> {
    for (place, mount) in mounts.iter().enumerate() {
        let same = |other: &Mount| other.target() == mount.target();
        if mounts.get(..place).unwrap_or_default().iter().any(same) {
            let reason = "two volumes or tmpfs are to be mounted there";
            return Err(ParseError::new("volume", mount.target(), reason));
        }
    }
    Ok(())
}

/// Makes the volume at `path` if it is missing; an empty one gets what the image has at `target`.
fn fill(root: &RootFs, target: &str, path: &Path) -> Result<(), ContainerError> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path);
    made.map_err(ContainerError::file("make volume", path))?;
    let volume = File::open(path).map_err(ContainerError::file("open volume", path))?;
    let empty = copy::is_empty(volume.as_fd());
    if !empty.map_err(ContainerError::file("list volume", path))? {
        return Ok(());
    }
    let Some(image) = root.directory(target)? else {
        return Ok(());
    };
    copy::copy_tree(image.as_fd(), volume.as_fd()).map_err(ContainerError::file(
        "copy the image's files to volume",
        path,
    ))
}

/// The runtime-spec is JSON, which has no other paths.
pub(super) fn utf8(path: &Path) -> Result<&str, ContainerError> {
    path.to_str().ok_or_else(|| {
        let text = PathBuf::from(path).to_string_lossy().into_owned();
        ParseError::new("path", &text, "it is not UTF-8").into()
    })
}
