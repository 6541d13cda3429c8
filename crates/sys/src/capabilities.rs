//! What this kernel and this store can do, found out by trying: version numbers lie where
//! distributions backport, and the store's filesystem matters as much as the kernel.
//!
//! Probed once at start; every finding carries its evidence in words, for people.

mod probe_image;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::fanotify::Group;
use crate::{btf, mount};

/// One thing that a machine can or cannot do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ability {
    /// Whether it works here.
    pub available: bool,
    /// How we know, and if it does not work, what would help.
    pub evidence: String,
}

impl Ability {
    fn yes(evidence: impl Into<String>) -> Self {
        Self {
            available: true,
            evidence: evidence.into(),
        }
    }

    fn no(evidence: impl Into<String>) -> Self {
        Self {
            available: false,
            evidence: evidence.into(),
        }
    }
}

/// A kernel's release.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelVersion {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// The whole release as `uname -r` prints it.
    pub release: String,
}

impl KernelVersion {
    fn parse(release: &str) -> Self {
        let mut numbers = release
            .split(|c: char| !c.is_ascii_digit())
            .map(|digits| digits.parse().unwrap_or(0));
        Self {
            major: numbers.next().unwrap_or(0),
            minor: numbers.next().unwrap_or(0),
            release: release.to_owned(),
        }
    }
}

/// Which control group hierarchy is mounted at `/sys/fs/cgroup`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cgroup {
    /// None.
    None,
    /// One hierarchy per controller.
    V1,
    /// Controllers as in version 1, and a version 2 hierarchy without controllers.
    Hybrid,
    /// The unified hierarchy.
    V2,
}

/// What this machine can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// The running kernel.
    pub kernel: KernelVersion,
    /// Whether we are root in the first user namespace.
    pub root: Ability,
    /// Whether EROFS can be mounted in some way.
    pub erofs: Ability,
    /// Whether EROFS with 512-byte blocks and extra devices can be mounted from files.
    pub file_backed_erofs: Ability,
    /// Whether files of the store can raise pre-content events.
    pub pre_content_events: Ability,
    /// Whether FUSE filesystems can be served.
    pub fuse: Ability,
    /// Whether overlayfs is there.
    pub overlayfs: Ability,
    /// Whether loop devices can be made and, where EROFS cannot be mounted from files, whether it can
    /// be mounted from them.
    pub loop_devices: Ability,
    /// Whether user namespaces can be made.
    pub user_namespaces: Ability,
    /// The control group hierarchy.
    pub cgroup: Cgroup,
    /// Whether everything could be tried: what a store lacks that takes no files, because its disk is
    /// full, say, is not known.
    pub decided: bool,
}

impl Capabilities {
    /// Tries everything, with temporary files in the directory `store`. Leaves nothing behind.
    #[must_use]
    pub fn probe(store: &Path) -> Self {
        let uname = rustix::system::uname();
        let kernel = KernelVersion::parse(&uname.release().to_string_lossy());
        let takes_files = || probe_files(store).is_ok();
        let before = takes_files();
        let erofs = probe_filesystem("erofs", "CONFIG_EROFS_FS");
        let file_backed_erofs = probe_file_backed_erofs(store, &erofs);
        let pre_content_events = probe_events(store, &kernel);
        let loop_devices = probe_loop_devices(store, &erofs, &file_backed_erofs);
        Self {
            decided: before && takes_files(),
            root: probe_root(),
            pre_content_events,
            fuse: probe_device("/dev/fuse", "load the fuse module"),
            overlayfs: probe_filesystem("overlay", "CONFIG_OVERLAY_FS"),
            loop_devices,
            user_namespaces: probe_user_namespaces(),
            cgroup: probe_cgroup(),
            file_backed_erofs,
            erofs,
            kernel,
        }
    }

    /// Whether layouts can be mounted, from files or else from loop devices; if not, why, and what would
    /// help.
    #[must_use]
    pub fn layouts(&self) -> &Ability {
        match (self.erofs.available, self.file_backed_erofs.available) {
            (false, _) => &self.erofs,
            (true, true) => &self.file_backed_erofs,
            (true, false) => &self.loop_devices,
        }
    }

    /// Every ability with its name, in the order in which a report shows them.
    #[must_use]
    pub fn abilities(&self) -> [(&'static str, &Ability); 8] {
        [
            ("root", &self.root),
            ("erofs", &self.erofs),
            ("file-backed erofs", &self.file_backed_erofs),
            ("pre-content events", &self.pre_content_events),
            ("overlayfs", &self.overlayfs),
            ("fuse", &self.fuse),
            ("loop devices", &self.loop_devices),
            ("user namespaces", &self.user_namespaces),
        ]
    }
}

/// Whether an EROFS that was mounted from files in the directory `store` may read them directly, past their page
/// cache. Not among the [`Capabilities`], for nobody who starts something waits for it: the kernel's
/// description of itself has megabytes.
///
/// A kernel may free a request of such a mount while it is still used. The correction (February 2026)
/// counts who uses it: `ref` in `struct erofs_fileio_rq`, fs/erofs/fileio.c.
#[must_use]
pub fn direct_reads(store: &Path) -> Ability {
    if let Err(error) = read_directly(store) {
        let blocks = "blocks of 512 bytes cannot be read past the page cache";
        return Ability::no(format!("{blocks} in {}: {error}", store.display()));
    }
    match btf::has_member("erofs", "erofs_fileio_rq", "ref") {
        Ok(Some(true)) => {
            Ability::yes("files are read in blocks of 512 bytes past their page cache")
        }
        Ok(_) => Ability::no(
            "this kernel may free a request while it is used (corrected in Linux 7.0 and some before)",
        ),
        Err(error) => Ability::no(format!("the kernel does not say what it has: {error}")),
    }
}

/// An error with all its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn probe_root() -> Ability {
    if !rustix::process::geteuid().is_root() {
        return Ability::no("not running as root: mounts and pre-content events need it");
    }
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let words: Vec<_> = map.split_whitespace().collect();
    if words == ["0", "0", "4294967295"] {
        Ability::yes("running as root of the first user namespace")
    } else {
        Ability::no("root of a user namespace only: pre-content events need real root")
    }
}

fn probe_filesystem(kind: &'static str, option: &str) -> Ability {
    // Asking for a filesystem loads its module.
    match mount::probe(kind) {
        Ok(()) => Ability::yes(format!("the kernel opens {kind}")),
        Err(error) => Ability::no(format!(
            "{}; load the module, or use a kernel with {option}",
            chain(&error)
        )),
    }
}

fn probe_device(path: &str, help: &str) -> Ability {
    match File::options().read(true).write(true).open(path) {
        Ok(_) => Ability::yes(format!("{path} opens")),
        Err(error) => Ability::no(format!("{path}: {error}; {help}")),
    }
}

fn probe_file_backed_erofs(store: &Path, erofs: &Ability) -> Ability {
    if !erofs.available {
        return erofs.clone();
    }
    let (layout, device) = match probe_files(store) {
        Ok(files) => files,
        Err(error) => return Ability::no(format!("{}: {error}", store.display())),
    };
    match mount::try_file_backed_erofs(&layout.path, &[&device.path]) {
        Ok(()) => Ability::yes("an image with 512-byte blocks and a device mounts from files"),
        Err(error) => Ability::no(format!(
            "{}; needs Linux 6.12 with CONFIG_EROFS_FS_BACKED_BY_FILE, and a store on a disk's \
             filesystem",
            chain(&error)
        )),
    }
}

/// Reads one block directly, at an address that is a multiple of a block and of nothing more: EROFS asks
/// for pages' parts.
fn read_directly(store: &Path) -> std::io::Result<()> {
    const BLOCK: usize = 512;
    let scratch = Scratch::new(store, &[7; 2 * BLOCK])?;
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    let file = rustix::fs::open(&scratch.path, flags, Mode::empty())?;
    let mut space = [0; 4 * BLOCK];
    let odd = space.as_ptr().align_offset(2 * BLOCK) + BLOCK;
    let read = rustix::io::pread(&file, &mut space[odd..odd + BLOCK], BLOCK as u64)?;
    match read == BLOCK && space[odd..odd + BLOCK] == [7; BLOCK] {
        true => Ok(()),
        false => Err(std::io::Error::other("other bytes than were written")),
    }
}

fn probe_files(store: &Path) -> std::io::Result<(Scratch, Scratch)> {
    let layout = Scratch::new(store, &probe_image::layout())?;
    Ok((layout, Scratch::new(store, &probe_image::device())?))
}

fn probe_loop_devices(store: &Path, erofs: &Ability, file_backed: &Ability) -> Ability {
    let opens = probe_device("/dev/loop-control", "load the loop module");
    if !opens.available || !erofs.available || file_backed.available {
        return opens;
    }
    let (layout, device) = match probe_files(store) {
        Ok(files) => files,
        Err(error) => return Ability::no(format!("{}: {error}", store.display())),
    };
    match mount::try_erofs_on_loops(&layout.path, &[&device.path]) {
        Ok(()) => Ability::yes("an image with 512-byte blocks and a device mounts from them"),
        Err(error) => Ability::no(format!("{}; needs Linux 6.4", chain(&error))),
    }
}

fn probe_events(store: &Path, kernel: &KernelVersion) -> Ability {
    let tried = Group::new().map_err(|error| chain(&error));
    let marked = tried.and_then(|group| {
        let scratch = Scratch::new(store, b"probe").map_err(|error| error.to_string())?;
        let file = File::open(&scratch.path).map_err(|error| error.to_string())?;
        group.mark(&file).map_err(|error| chain(&error))
    });
    let release = &kernel.release;
    match marked {
        Ok(()) => Ability::yes(format!("a file in {} can be watched", store.display())),
        Err(reason) => Ability::no(format!("{reason} (here: Linux {release}, {store:?})")),
    }
}

fn probe_user_namespaces() -> Ability {
    let limit = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    match limit.trim().parse::<u64>() {
        Ok(0) => Ability::no("user.max_user_namespaces is 0"),
        Ok(limit) => Ability::yes(format!("user.max_user_namespaces is {limit}")),
        Err(_) => Ability::no("the kernel has no CONFIG_USER_NS"),
    }
}

fn probe_cgroup() -> Cgroup {
    // include/uapi/linux/magic.h
    const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let kind = |path: &str| {
        let status = rustix::fs::statfs(path).ok()?;
        u64::try_from(status.f_type).ok()
    };
    match kind("/sys/fs/cgroup") {
        Some(CGROUP2_SUPER_MAGIC) => Cgroup::V2,
        Some(TMPFS_MAGIC) if kind("/sys/fs/cgroup/unified") == Some(CGROUP2_SUPER_MAGIC) => {
            Cgroup::Hybrid
        }
        Some(TMPFS_MAGIC) => Cgroup::V1,
        _ => Cgroup::None,
    }
}

/// A file for a trial, removed by Drop.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new(store: &Path, bytes: &[u8]) -> std::io::Result<Self> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!(".probe-{}-{number}", std::process::id());
        let path = store.join(name);
        let mut file = File::options().write(true).create_new(true).open(&path)?;
        let scratch = Self { path };
        file.write_all(bytes)?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing else can be done about a probe file that will not go.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        let version = |text: &str| {
            let version = KernelVersion::parse(text);
            (version.major, version.minor)
        };
        assert_eq!(version("6.18.44-fc-v595"), (6, 18));
        assert_eq!(version("7.0"), (7, 0));
        assert_eq!(version("strange"), (0, 0));
    }

    #[test]
    fn this_machine_can_do_it_and_nothing_is_left() {
        let store = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let found = Capabilities::probe(store.path());
        for (name, ability) in found.abilities() {
            assert!(ability.available, "{name}: {}", ability.evidence);
        }
        assert_ne!(found.cgroup, Cgroup::None);
        assert!(found.decided);
        let direct = direct_reads(store.path());
        assert!(direct.available, "{}", direct.evidence);
        assert_eq!(fs::read_dir(store.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_store_that_takes_no_files_decides_nothing() {
        let found = Capabilities::probe(Path::new("/proc/self"));
        assert!(!found.decided && !found.pre_content_events.available);
        assert!(!direct_reads(Path::new("/proc/self")).available);
    }

    #[test]
    fn what_mounts_no_erofs_mounts_no_layout() {
        let no = |evidence: &str| Ability::no(evidence);
        let store = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let mut found = Capabilities::probe(store.path());
        assert!(found.layouts().available);
        found.file_backed_erofs = no("not from files");
        assert!(found.layouts().available, "loop devices do");
        found.loop_devices = no("not from loop devices");
        assert_eq!(found.layouts().evidence, "not from loop devices");
        found.erofs = no("no erofs");
        assert_eq!(found.layouts().evidence, "no erofs");
    }

    #[test]
    fn a_store_in_memory_needs_loop_devices() {
        let store = tempfile::tempdir().unwrap();
        mount::tmpfs(None, 0o700)
            .unwrap()
            .attach(store.path())
            .unwrap();
        let found = Capabilities::probe(store.path());
        let left = fs::read_dir(store.path()).unwrap().count();
        mount::unmount(store.path(), mount::Unmount::Lazy).unwrap();
        let (file, loops) = (&found.file_backed_erofs, &found.loop_devices);
        assert!(!file.available, "{}", file.evidence);
        assert!(loops.available, "{}", loops.evidence);
        assert_eq!(left, 0);
    }

    #[test]
    fn a_store_that_cannot_be_watched_is_found_out() {
        let found = Capabilities::probe(Path::new("/proc"));
        assert!(!found.pre_content_events.available);
        assert!(!found.file_backed_erofs.available);
    }
}
