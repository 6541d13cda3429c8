//! Overlays: the newest interface takes a directory at a time, the oldest all of them in one page.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::mount as new;

use super::{Context, Error, MAX_STRING, Mount, read_only};

/// Most lower directories of an overlay (`OVL_MAX_STACK`).
pub const MAX_LOWER: usize = 500;
/// Most bytes of the options of mount(2), of whatever page size.
const MAX_OPTIONS: usize = 4095;
/// What would make a file of an image name another one, whatever the kernel's defaults are. Nothing
/// here needs it.
const OFF: [(&str, &str); 2] = [("index", "off"), ("metacopy", "off")];

/// The directories of an overlay.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    /// What the mount table shows as its source; empty: `overlay`.
    pub source: PathBuf,
    /// Read-only layers, the uppermost first.
    pub lower: Vec<PathBuf>,
    /// Where writes go, and an empty directory beside it for the kernel's work; `None` for a
    /// read-only overlay (which needs two lower layers), whose device nodes and setuid files have no
    /// power.
    pub upper: Option<(PathBuf, PathBuf)>,
    /// Whether to leave out syncs of the upper filesystem (`volatile`): for what nobody needs
    /// after a crash.
    pub volatile: bool,
}

impl Overlay {
    fn source(&self) -> &OsStr {
        match self.source.as_os_str() {
            source if source.is_empty() || source.len() > MAX_STRING => OsStr::new("overlay"),
            source => source,
        }
    }

    fn error(&self, source: io::Error, log: &str) -> Error {
        Error::Setup {
            kind: "overlay",
            step: format!("{} lower directories", self.lower.len()),
            log: log.to_owned(),
            source,
        }
    }
}

/// Mounts an overlay at `target`.
///
/// # Errors
/// [`Error::Setup`] with the kernel's words.
pub fn overlay(overlay: &Overlay, target: &Path) -> Result<(), Error> {
    if overlay.lower.len() > MAX_LOWER {
        let limit = format!(": an overlay takes at most {MAX_LOWER}");
        return Err(overlay.error(io::Error::from_raw_os_error(libc::E2BIG), &limit));
    }
    // A kernel that does not know the newer way writes a complaint into its log at each try.
    static IS_OLD: AtomicBool = AtomicBool::new(false);
    if IS_OLD.load(Ordering::Relaxed) {
        return by_string(overlay, target);
    }
    match by_layer(overlay) {
        Ok(mount) => mount.attach(target),
        // Before 6.7 there is no `lowerdir+`; before 6.13 no path may be over 255 bytes.
        Err(Error::Setup { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
            by_string(overlay, target)?;
            IS_OLD.store(true, Ordering::Relaxed);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn by_layer(overlay: &Overlay) -> Result<Mount, Error> {
    let context = Context::new("overlay")?;
    context.string("source", overlay.source())?;
    for lower in &overlay.lower {
        set_directory(&context, "lowerdir+", lower)?;
    }
    if let Some((upper, work)) = &overlay.upper {
        set_directory(&context, "upperdir", upper)?;
        set_directory(&context, "workdir", work)?;
    }
    for (key, value) in OFF {
        context.string(key, OsStr::new(value))?;
    }
    if overlay.volatile {
        context.flag("volatile")?;
    }
    context.create()?;
    context.mount(attributes(overlay))
}

fn attributes(overlay: &Overlay) -> new::MountAttrFlags {
    match overlay.upper {
        Some(_) => new::MountAttrFlags::empty(),
        None => read_only(),
    }
}

fn set_directory(context: &Context, key: &str, path: &Path) -> Result<(), Error> {
    if path.as_os_str().len() <= MAX_STRING {
        return context.string(key, path.as_os_str());
    }
    let held = open(path)?;
    new::fsconfig_set_fd(&context.fd, key, &held)
        .map_err(|error| context.error(format!("{key}={}", path.display()), error))
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| Error::Open {
        path: path.to_owned(),
        source: error.into(),
    })
}

/// All options in one page, as kernels before 6.7 want them. The directories are held open and named by the
/// numbers of their descriptors, from a thread whose working directory is `/proc/self/fd`: five bytes for
/// each, whatever its path.
fn by_string(overlay: &Overlay, target: &Path) -> Result<(), Error> {
    let lower = overlay.lower.iter().map(|path| open(path));
    let lower = lower.collect::<Result<Vec<_>, _>>()?;
    let upper = overlay.upper.as_ref();
    let upper = upper.map(|(upper, work)| Ok((open(upper)?, open(work)?)));
    let upper = upper.transpose()?;
    let numbers: Vec<String> = lower.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let mut options = format!("lowerdir={}", numbers.join(":"));
    if let Some((upper, work)) = &upper {
        let (upper, work) = (upper.as_raw_fd(), work.as_raw_fd());
        options.push_str(&format!(",upperdir={upper},workdir={work}"));
    }
    for (key, value) in OFF {
        options.push_str(&format!(",{key}={value}"));
    }
    if overlay.volatile {
        options.push_str(",volatile");
    }
    if options.len() > MAX_OPTIONS {
        let log = ": before Linux 6.7 their names have to fit into a page";
        return Err(overlay.error(io::Error::from_raw_os_error(libc::E2BIG), log));
    }
    let target = std::path::absolute(target).map_err(|error| overlay.error(error, ""))?;
    let mounted = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("overlay".into());
        let mount = || mount_in_descriptors(overlay, &target, &options);
        match thread.spawn_scoped(scope, mount)?.join() {
            Ok(mounted) => mounted,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    mounted.map_err(|source| overlay.error(source, ""))
}

/// Mounts with paths that are numbers of descriptors. For a thread of its own: it loses its working
/// directory.
fn mount_in_descriptors(overlay: &Overlay, target: &Path, options: &str) -> io::Result<()> {
    // SAFETY: it takes no memory of ours; from here on the working directory is this thread's alone.
    if unsafe { libc::unshare(libc::CLONE_FS) } < 0 {
        return Err(io::Error::last_os_error());
    }
    rustix::process::chdir("/proc/self/fd")?;
    let options = CString::new(options)?;
    let flags = match overlay.upper {
        Some(_) => new::MountFlags::empty(),
        None => new::MountFlags::RDONLY | new::MountFlags::NODEV | new::MountFlags::NOSUID,
    };
    new::mount(
        overlay.source(),
        target,
        "overlay",
        flags,
        options.as_c_str(),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::mount::{Unmount, unmount};

    /// Mounts `layers` directories, each with a file of its own, by the way of older kernels.
    fn old_way(layers: usize) -> Result<usize, Error> {
        // Long names: only their descriptors' numbers count.
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("d,:\\\\".repeat(40));
        fs::create_dir(&dir).unwrap();
        let make = |name: String| {
            let path = dir.join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let lower: Vec<PathBuf> = (0..layers).map(|n| make(format!("lower-{n}"))).collect();
        for (number, path) in lower.iter().enumerate() {
            fs::write(path.join(format!("file-{number}")), b"x").unwrap();
        }
        let (upper, work, target) = (
            make("upper".into()),
            make("work".into()),
            make("target".into()),
        );
        let before = std::env::current_dir().unwrap();
        let overlay = Overlay {
            source: "/what/it/is".into(),
            lower,
            upper: Some((upper.clone(), work)),
            volatile: true,
        };
        by_string(&overlay, &target)?;
        fs::write(target.join("written"), b"y").unwrap();
        let seen = fs::read_dir(&target).unwrap().count();
        let table = crate::mount::mount_table().unwrap();
        let entry = table.iter().find(|entry| entry.target == target).unwrap();
        assert_eq!(entry.source, "/what/it/is");
        unmount(&target, Unmount::Now).unwrap();
        assert!(upper.join("written").exists());
        assert_eq!(std::env::current_dir().unwrap(), before);
        Ok(seen)
    }

    #[test]
    fn an_older_kernel_takes_many_layers_in_one_page() {
        assert_eq!(old_way(130).unwrap(), 131);
    }

    #[test]
    fn too_many_layers_are_refused_in_words() {
        let overlay_ = Overlay {
            lower: vec!["/".into(); MAX_LOWER + 1],
            ..Overlay::default()
        };
        let error = overlay(&overlay_, Path::new("/nowhere")).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("501 lower directories: an overlay takes at most 500"),
            "{said}"
        );
    }
}
