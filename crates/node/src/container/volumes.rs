//! Volumes become bind mounts: paths of the host, named volumes of the store, and fresh directories that live as
//! long as the container, where one was asked for and for each VOLUME of the image that nothing else covers.
//!
//! A new volume begins with what the image has at its place, as users of Docker expect. VOLUMEs that lie in one
//! another, or are one directory by several names, are one volume: what they have is copied once. A named volume
//! stays, and half of what the image has would be taken for all of it later: it has its name when it is whole.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::syncfs;
use thaw_image::{Progress, Silent};

use super::copy;
use super::options::{Options, VolumeSource};
use super::parse::{self, ParseError};
use super::rootfs::RootFs;
use super::spec::Mount;
use super::{
    ContainerError,
    containers::{remove_dir, try_lock},
};

/// What the directory of a named volume begins with that is being made. (No name begins with a dot.)
const NEW: &str = ".new-";
/// How often it is looked whether somebody else has made it.
const POLL: Duration = Duration::from_millis(20);

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
    // Those of the image by the places that they have in it: a mount of the user's may hide the symbolic links to them.
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
        let target = match place.as_deref().and_then(Path::to_str) {
            Some(place) if !place.is_empty() => format!("/{place}"),
            _ => target,
        };
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

/// Has each mount lie on top of those above it in the tree, whatever order they were asked in and however they were named.
pub(super) fn sorted(root: &RootFs, mounts: Vec<Mount>) -> Result<Vec<Mount>, ContainerError> {
    let mut placed = Vec::new();
    for mount in mounts {
        placed.push((root.depth(mount.target())?, mount));
    }
    placed.sort_by_key(|(depth, _)| *depth);
    Ok(placed.into_iter().map(|(_, mount)| mount).collect())
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

fn refuse_root(root: &RootFs, what: &'static str, target: &str) -> Result<(), ContainerError> {
    let place = root.place(target)?;
    if place.is_some_and(|place| place.as_os_str().is_empty()) {
        let reason = "it leads to the root itself, which cannot be mounted over";
        return Err(ParseError::new(what, target, reason).into());
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
    refuse_root(root, what, target)?;
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

/// [`fill`] for the volume of this name. Who comes second would take half of it for all, and waits.
fn fill_named(
    root: &RootFs,
    target: &str,
    volumes: &Path,
    name: &str,
    progress: &dyn Progress,
) -> Result<PathBuf, ContainerError> {
    let place = Place {
        path: volumes.join(name),
        new: volumes.join(format!("{NEW}{name}")),
    };
    if place.is_done()? {
        refuse_root(root, "volume", target)?;
        return Ok(place.path);
    }
    let new = place.lock(progress)?;
    if place.exists()? {
        // An empty one may be in use, so it cannot be another directory; that nobody waits any more is no reason to
        // leave half in it.
        let filled = fill(root, "volume", target, &place.path, &Silent);
        remove_dir(&place.new)?;
        return filled.map(|()| place.path);
    }
    fill(root, "volume", target, &place.new, progress).inspect_err(|_| {
        // What cannot be removed now is removed later.
        let _ = remove_dir(&place.new);
    })?;
    // After a power cut, the name must not stand for empty files.
    let synced = match copy::is_empty(new.as_fd()) {
        Ok(false) => syncfs(&new).map_err(io::Error::from),
        other => other.map(drop),
    };
    synced.map_err(ContainerError::file("sync volume", &place.new))?;
    let named = fs::rename(&place.new, &place.path);
    named.map_err(ContainerError::file("make volume", &place.path))?;
    Ok(place.path)
}

/// A named volume, and where it is made. Who makes it has the latter locked; it is there, too, while an empty volume is filled.
struct Place {
    path: PathBuf,
    new: PathBuf,
}

impl Place {
    fn exists(&self) -> Result<bool, ContainerError> {
        let exists = self.path.try_exists();
        exists.map_err(ContainerError::file("open volume", &self.path))
    }

    /// Whether it has all that it will begin with. Asked in this order: who fills it is at it before anything is in it.
    fn is_done(&self) -> Result<bool, ContainerError> {
        if !self.exists()? {
            return Ok(false);
        }
        let volume = File::open(&self.path);
        let empty = volume.and_then(|volume| copy::is_empty(volume.as_fd()));
        let empty = empty.map_err(ContainerError::file("list volume", &self.path))?;
        Ok(!empty && !self.new.exists())
    }

    /// Makes the directory where it is made, which nobody else uses as long as the value lives. Waits for that while it is wanted.
    fn lock(&self, progress: &dyn Progress) -> Result<File, ContainerError> {
        let failed = |error: io::Error| ContainerError::file("make volume", &self.new)(error);
        loop {
            match fs::DirBuilder::new().mode(0o755).create(&self.new) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed(error));
                }
                _ => {}
            }
            let Some(lock) = try_lock(&self.new)? else {
                copy::wanted(progress).map_err(failed)?;
                thread::sleep(POLL);
                continue;
            };
            // Who had it before has given it its name, or removed it.
            let is_here = |here: fs::Metadata| Ok(here.ino() == lock.metadata()?.ino());
            if !fs::symlink_metadata(&self.new)
                .and_then(is_here)
                .unwrap_or(false)
            {
                continue;
            }
            if copy::is_empty(lock.as_fd()).map_err(failed)? {
                return Ok(lock);
            }
            // Somebody was killed half way.
            remove_dir(&self.new)?;
        }
    }
}

/// What somebody left who was killed while they made a named volume.
pub(super) fn each_leftover(
    volumes: &Path,
    found: &mut dyn FnMut(&Path),
) -> Result<(), ContainerError> {
    let failed = |error: io::Error| ContainerError::file("list", volumes)(error);
    for entry in fs::read_dir(volumes).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if !name.to_str().is_some_and(|name| name.starts_with(NEW)) {
            continue;
        }
        let path = volumes.join(name);
        let lock = try_lock(&path);
        if !matches!(lock, Ok(None)) {
            found(&path);
        }
    }
    Ok(())
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
        let mounts = sorted(root, mounts(root, &of_image, options, &places, &Silent)?)?;
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
        assert_eq!(all, ["/none", "/data", "/data2"]);
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

    #[test]
    fn a_mount_comes_after_those_that_it_lies_in_by_whatever_name() {
        let (dir, root) = root();
        fs::create_dir_all(dir.path().join("root/run/app")).unwrap();
        fs::create_dir(dir.path().join("root/var")).unwrap();
        symlink("/run", dir.path().join("root/var/run")).unwrap();
        let mounted = |volumes: [&str; 2], of_image: &[&str]| {
            let options = Options {
                volumes: volumes.map(|it| it.parse().unwrap()).to_vec(),
                ..Options::default()
            };
            mounted(&root, dir.path(), of_image, &options).unwrap()
        };
        // The user's is not hidden by the image's.
        let all = mounted(["state:/run/app/data", "x:/var"], &["/var/run/app"]);
        assert_eq!(all, ["/var", "/run/app", "/run/app/data"]);
        let all = mounted(["state:/run/app/deep/data", "x:/var/run/app/deep"], &[]);
        assert_eq!(all, ["/var/run/app/deep", "/run/app/deep/data"]);
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
        fs::create_dir_all(named.join(".new-cache/half")).unwrap();
        mounts(&Silent).unwrap();
        assert_eq!(names(&named), ["cache"]);
        assert_eq!(names(&named.join("cache")), ["sub"]);
        // One that is there is filled where it is: it may be somebody's.
        fs::create_dir(named.join("empty")).unwrap();
        let empty = File::open(named.join("empty")).unwrap();
        let options = Options {
            volumes: vec!["empty:/data".parse::<Volume>().unwrap()],
            ..Options::default()
        };
        super::mounts(&root, &[], &options, &places, &Gone).unwrap();
        assert!(!copy::is_empty(empty.as_fd()).unwrap());
        assert!(!named.join(".new-empty").exists());
    }

    #[test]
    fn who_makes_a_volume_holds_up_those_who_want_it_and_nobody_else() {
        let (dir, root) = root();
        let volumes = dir.path().join("named");
        let fill =
            |name, progress: &dyn Progress| fill_named(&root, "/data", &volumes, name, progress);
        let whole = fill("whole", &Silent).unwrap();
        // Somebody makes one, and fills another where it is.
        let place = |name: &str| Place {
            path: volumes.join(name),
            new: volumes.join(format!("{NEW}{name}")),
        };
        let (new, old) = (place("new"), place("old"));
        let making = [&new, &old].map(|place| place.lock(&Silent).unwrap());
        fs::create_dir_all(old.path.join("half")).unwrap();
        fs::create_dir(new.new.join("half")).unwrap();
        assert_eq!(fill("whole", &Gone).unwrap(), whole);
        fill("another", &Silent).unwrap();
        for name in ["new", "old"] {
            let error = fill(name, &Gone).unwrap_err();
            let error = std::error::Error::source(&error).unwrap().to_string();
            assert!(error.contains("nobody waits"), "{error}");
        }
        let mut left = Vec::new();
        each_leftover(&volumes, &mut |path| left.push(path.to_owned())).unwrap();
        assert!(left.is_empty(), "{left:?}");
        thread::scope(|scope| {
            let waiting = scope.spawn(|| fill("new", &Silent).unwrap());
            thread::sleep(Duration::from_millis(100));
            assert!(!waiting.is_finished());
            fs::rename(&new.new, &new.path).unwrap();
            drop(making);
            assert_eq!(names(&waiting.join().unwrap()), ["half"]);
        });
        each_leftover(&volumes, &mut |path| left.push(path.to_owned())).unwrap();
        assert_eq!(left, [old.new]);
    }

    #[test]
    fn of_many_who_want_a_new_volume_all_get_a_whole_one() {
        let (dir, root) = root();
        for number in 0..200 {
            fs::write(dir.path().join(format!("root/data/{number}")), "x").unwrap();
        }
        let volumes = dir.path().join("named");
        for round in 0..20 {
            let name = &format!("volume{round}");
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let made = fill_named(&root, "/data", &volumes, name, &Silent).unwrap();
                        assert_eq!(names(&made).len(), 201);
                    });
                }
                scope.spawn(|| {
                    each_leftover(&volumes, &mut |path| remove_dir(path).unwrap()).unwrap();
                });
            });
        }
        assert_eq!(names(&volumes).len(), 20);
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
