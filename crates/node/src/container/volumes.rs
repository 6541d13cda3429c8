//! Volumes become bind mounts: paths of the host, named volumes of the store, and fresh directories that live as
//! long as the container, where one was asked for and for each VOLUME of the image that nothing else covers.
//!
//! A new volume begins with what the image has at its place, as users of Docker expect. VOLUMEs that lie in one
//! another, or are one directory by several names, are one volume: what they have is copied once. A named volume
//! stays, and half of what the image has would be taken for all of it later: it has its name when it is whole.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use thaw_image::{Progress, Silent};

use super::copy;
use super::options::{Options, VolumeSource};
use super::parse::{self, ParseError};
use super::rootfs::RootFs;
use super::spec::Mount;
use super::{ContainerError, containers::remove_dir};

/// A named volume that is being made.
const NEW: &str = ".new";

/// Most VOLUMEs of an image.
const MAX_VOLUMES: usize = 256;

const OF_IMAGE: &str = "VOLUME of the image";

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
    progress: &dyn Progress,
) -> Result<Vec<Mount>, ContainerError> {
    let mut mounts: Vec<Mount> = options.tmpfs.iter().map(Mount::tmpfs).collect();
    let mut own = places.own_ones();
    for volume in &options.volumes {
        let source = match &volume.source {
            VolumeSource::Own => {
                let path = own.next().unwrap_or_default();
                fill(root, "volume", &volume.target, &path, progress)?;
                path
            }
            VolumeSource::Host(path) if !path.exists() => {
                return Err(ContainerError::VolumeMissing(path.clone()));
            }
            VolumeSource::Host(path) => path.clone(),
            VolumeSource::Named(name) => {
                let name = parse::name("volume name", name)?;
                fill_named(root, &volume.target, places.named, &name, progress)?
            }
        };
        let target = parse::target("volume", &volume.target)?;
        mounts.push(Mount::bind(utf8(&source)?, &target, volume.read_only));
    }
    refuse_doubles(&mounts)?;
    for target in uncovered(root, image_volumes, &mounts)? {
        let path = own.next().unwrap_or_default();
        fill(root, OF_IMAGE, &target, &path, progress)?;
        mounts.push(Mount::bind(utf8(&path)?, &target, false));
    }
    Ok(mounts)
}

/// The VOLUMEs of an image that need a volume: where nothing else is mounted, and none is in another's.
fn uncovered(
    root: &RootFs,
    image_volumes: &[String],
    mounts: &[Mount],
) -> Result<Vec<String>, ContainerError> {
    let mut volumes = Vec::new();
    for target in image_volumes.iter().take(MAX_VOLUMES) {
        let target = parse::target(OF_IMAGE, target)?;
        volumes.push((root.place(&target)?, target));
    }
    // A directory comes before those in it.
    volumes.sort();
    let mut taken = Vec::new();
    for mount in mounts {
        taken.extend(root.place(mount.target())?);
    }
    let (mut places, mut targets) = (Vec::<PathBuf>::new(), Vec::<String>::new());
    for (place, target) in volumes {
        let is_same = mounts.iter().any(|mount| mount.target() == target);
        let is_there = |place: &PathBuf| {
            taken.contains(place) || places.iter().any(|other| place.starts_with(other))
        };
        if is_same || targets.contains(&target) || place.as_ref().is_some_and(is_there) {
            continue;
        }
        places.extend(place);
        targets.push(target);
    }
    Ok(targets)
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
fn fill(
    root: &RootFs,
    what: &'static str,
    target: &str,
    path: &Path,
    progress: &dyn Progress,
) -> Result<(), ContainerError> {
    let place = root.place(target)?;
    if place.is_some_and(|place| place.as_os_str().is_empty()) {
        let reason = "it leads to the root itself, which cannot be mounted over";
        return Err(ParseError::new(what, target, reason).into());
    }
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
    let copied = copy::copy_tree(image.as_fd(), volume.as_fd(), progress);
    copied.map_err(ContainerError::file(
        "copy the image's files to volume",
        path,
    ))
}

/// [`fill`] for the volume of this name. One at a time: who comes second would take half of it for all.
fn fill_named(
    root: &RootFs,
    target: &str,
    volumes: &Path,
    name: &str,
    progress: &dyn Progress,
) -> Result<PathBuf, ContainerError> {
    let _lock = lock(volumes, FlockOperation::LockExclusive)?;
    let path = volumes.join(name);
    let exists = path.try_exists();
    if exists.map_err(ContainerError::file("open volume", &path))? {
        // An empty one may be in use, so it cannot be another directory; that nobody waits any more is no reason to
        // leave half in it.
        return fill(root, "volume", target, &path, &Silent).map(|()| path);
    }
    let new = volumes.join(NEW);
    remove_dir(&new)?;
    fill(root, "volume", target, &new, progress).inspect_err(|_| {
        // What cannot be removed now is removed later.
        let _ = remove_dir(&new);
    })?;
    fs::rename(&new, &path).map_err(ContainerError::file("make volume", &path))?;
    Ok(path)
}

/// Removes what somebody left who was killed while they made a named volume, unless one is being made.
pub(super) fn sweep(volumes: &Path) -> Result<(), ContainerError> {
    match lock(volumes, FlockOperation::NonBlockingLockExclusive) {
        Ok(_lock) => remove_dir(&volumes.join(NEW)),
        Err(ContainerError::File { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Keeps others from making named volumes.
fn lock(volumes: &Path, how: FlockOperation) -> Result<File, ContainerError> {
    let dir = File::open(volumes).map_err(ContainerError::file("open", volumes))?;
    flock(&dir, how).map_err(ContainerError::file("lock", volumes))?;
    Ok(dir)
}

/// The runtime-spec is JSON, which has no other paths.
pub(super) fn utf8(path: &Path) -> Result<&str, ContainerError> {
    path.to_str().ok_or_else(|| {
        let text = PathBuf::from(path).to_string_lossy().into_owned();
        ParseError::new("path", &text, "it is not UTF-8").into()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::copy::tests::Gone;
    use super::super::options::Volume;
    use super::*;

    /// A root filesystem with a directory of several names, in a directory that also gets the volumes.
    fn root() -> (tempfile::TempDir, RootFs) {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::create_dir(dir.path().join("named")).unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("data/sub")).unwrap();
        fs::create_dir(root.join("data2")).unwrap();
        fs::write(root.join("data/sub/file"), "x").unwrap();
        symlink("/data", root.join("a")).unwrap();
        symlink("data", root.join("b")).unwrap();
        symlink("/", root.join("all")).unwrap();
        let opened = RootFs::open(&root).unwrap();
        (dir, opened)
    }

    fn mounted(
        root: &RootFs,
        dir: &Path,
        of_image: &[&str],
        options: &Options,
    ) -> Result<Vec<String>, ContainerError> {
        let of_image: Vec<String> = of_image.iter().map(ToString::to_string).collect();
        let places = Places {
            named: &dir.join("named"),
            own: &dir.join("own"),
        };
        let mounts = mounts(root, &of_image, options, &places, &Silent)?;
        Ok(mounts.iter().map(|it| it.target().to_owned()).collect())
    }

    #[test]
    fn volumes_that_are_one_directory_or_lie_in_another_are_one() {
        let (dir, root) = root();
        let of_image = [
            "/data/sub",
            "/b/sub",
            "/b",
            "/a",
            "/data",
            "/data2",
            "/none",
            "/none/",
        ];
        let all = mounted(&root, dir.path(), &of_image, &Options::default()).unwrap();
        assert_eq!(all, ["/none", "/a", "/data2"]);
        let copies: Vec<_> = (0..3)
            .map(|number| dir.path().join(format!("own/{number}/sub/file")))
            .collect();
        let copied = copies.iter().filter(|file| file.exists());
        assert_eq!(copied.count(), 1);
        assert!(!dir.path().join("own/3").exists());
    }

    #[test]
    fn what_was_asked_for_stands_for_the_image_s() {
        let (dir, root) = root();
        let options = Options {
            volumes: vec!["cache:/a".parse::<Volume>().unwrap()],
            ..Options::default()
        };
        // What is in it is the image's own, as it is where the names are the same.
        let all = mounted(&root, dir.path(), &["/data", "/data/sub"], &options).unwrap();
        assert_eq!(all, ["/a", "/data/sub"]);
        assert!(dir.path().join("named/cache/sub/file").exists());
    }

    fn names(dir: &Path) -> Vec<String> {
        let all = fs::read_dir(dir).unwrap();
        let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[test]
    fn a_named_volume_has_all_or_is_not_there() {
        let (dir, root) = root();
        let options = Options {
            volumes: vec!["cache:/data".parse::<Volume>().unwrap()],
            ..Options::default()
        };
        let named = dir.path().join("named");
        let places = Places {
            named: &named,
            own: &dir.path().join("own"),
        };
        let mounts = |progress: &dyn Progress| mounts(&root, &[], &options, &places, progress);
        let error = mounts(&Gone).unwrap_err();
        assert!(
            error.to_string().contains("copy the image's files"),
            "{error}"
        );
        assert_eq!(names(&named), [""; 0]);
        // Somebody was killed half way.
        fs::create_dir_all(named.join(".new/half")).unwrap();
        mounts(&Silent).unwrap();
        assert_eq!(names(&named), ["cache"]);
        assert_eq!(names(&named.join("cache")), ["sub"]);
        fs::create_dir(named.join(".new")).unwrap();
        let alone = lock(&named, FlockOperation::LockExclusive).unwrap();
        sweep(&named).unwrap();
        assert!(named.join(".new").exists(), "somebody is making one");
        drop(alone);
        sweep(&named).unwrap();
        assert_eq!(names(&named), ["cache"]);
        // One that is there is filled where it is: it may be somebody's.
        fs::create_dir(named.join("empty")).unwrap();
        let empty = File::open(named.join("empty")).unwrap();
        let options = Options {
            volumes: vec!["empty:/data".parse::<Volume>().unwrap()],
            ..Options::default()
        };
        super::mounts(&root, &[], &options, &places, &Gone).unwrap();
        assert!(!copy::is_empty(empty.as_fd()).unwrap());
    }

    #[test]
    fn the_root_by_another_name_is_no_volume() {
        let (dir, root) = root();
        let error = mounted(&root, dir.path(), &["/all"], &Options::default()).unwrap_err();
        assert!(error.to_string().contains("the root itself"), "{error}");
        let options = Options {
            volumes: vec!["cache:/all".parse().unwrap()],
            ..Options::default()
        };
        let error = mounted(&root, dir.path(), &[], &options).unwrap_err();
        assert!(error.to_string().contains("the root itself"), "{error}");
        assert!(!dir.path().join("own").exists());
        assert_eq!(names(&dir.path().join("named")), [""; 0]);
    }
}
