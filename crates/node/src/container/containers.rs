//! The containers of one store: made, found, prepared, stopped, removed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{self, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use oci_spec::image::ImageConfiguration;
use rustix::fs::{FlockOperation, flock};
use thaw_cache::remove_tree;
use thaw_image::Progress;

use super::bundle::Bundle;
use super::cgroup::Cgroup;
use super::network::Bridge;
use super::options::{Network, Options, Signal};
use super::parse::ParseError;
use super::runtime::{RuncLike, Runtime};
use super::span::Spans;
use super::state::{Phase, ProcessId, Settings, State, Status};
use super::{ContainerError, ContainerId, id, parse, process, volumes};
use crate::source::chain;

/// For how long a container that was killed may take to be gone, and its monitor to write that down.
const PATIENCE: Duration = Duration::from_secs(10);

/// The directory of a container that is being made, until it has a state.
const NEW: &str = ".new";
/// What the directory of a container begins with that is being removed.
const GONE: &str = ".gone-";

/// All containers of a store.
#[derive(Clone, Debug)]
pub struct Containers {
    root: PathBuf,
    settings: Settings,
}

/// A container to be made.
#[derive(Clone, Debug)]
pub struct NewContainer {
    /// The image, as the user named it.
    pub image: String,
    /// What the user asked for.
    pub options: Options,
}

/// One container: a handle on its directory.
#[derive(Clone, Debug)]
pub struct Container {
    id: ContainerId,
    dir: PathBuf,
}

/// What [`Container::prepare`] did.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// How long it took.
    pub spans: Spans,
    /// What the user should know and what is no error.
    pub warnings: Vec<String>,
}

impl Containers {
    /// The containers below `root`, which is made if it is missing.
    ///
    /// # Errors
    /// [`ContainerError::File`].
    pub fn open(root: &Path, settings: Settings) -> Result<Self, ContainerError> {
        // Runtimes are given paths below it, and look from elsewhere.
        let root = path::absolute(root).map_err(ContainerError::file("find", root))?;
        for name in ["containers", "volumes"] {
            let dir = root.join(name);
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(&dir);
            made.map_err(ContainerError::file("make directory", &dir))?;
        }
        Ok(Self { root, settings })
    }

    /// Finds the OCI runtime for a container that is to be created, and has it read from disk in
    /// the background, while its image is still on its way.
    ///
    /// # Errors
    /// [`ContainerError::NoRuntime`] where there is none.
    pub fn expect(&self, options: &Options) -> Result<(), ContainerError> {
        runtime(&self.settings_for(options)).map(RuncLike::warm)
    }

    fn settings_for(&self, options: &Options) -> Settings {
        let mut settings = self.settings.clone();
        if options.runtime.is_some() {
            settings.runtime.clone_from(&options.runtime);
        }
        settings
    }

    /// Makes a container with a new id and a directory: nothing runs yet. The calling process
    /// is responsible for it until it is started: when that process ends before, the container
    /// counts as dead.
    ///
    /// # Errors
    /// [`ContainerError::NameTaken`], a bad name, or [`ContainerError::File`].
    pub fn create(&self, new: NewContainer) -> Result<Container, ContainerError> {
        let id = ContainerId::generate()?;
        let dir = self.dir().join(id.as_str());
        let mut settings = self.settings_for(&new.options);
        // Another one may be installed meanwhile, and they do not know each other's containers.
        if let Ok(found) = runtime(&settings) {
            settings.runtime = found.program().to_str().map(str::to_owned);
        }
        check_ports(&new.options)?;
        let _lock = self.lock()?;
        let others = self.list()?;
        let taken = |name: &str| others.iter().find(|other| other.name == name);
        let name = match &new.options.name {
            Some(name) => parse::name("container name", name)?,
            None => id::generate_name(|name| taken(name).is_some())?,
        };
        if let Some(other) = taken(&name) {
            let id = other.id.short().to_owned();
            return Err(ContainerError::NameTaken { name, id });
        }
        let unnamed = self.unnamed()?;
        fs::DirBuilder::new()
            .mode(0o711)
            .create(&unnamed)
            .map_err(ContainerError::file("make directory", &unnamed))?;
        let state = State {
            id: id.clone(),
            name,
            image: new.image,
            created: Timestamp::now(),
            phase: Phase::Created {
                owner: ProcessId::own(),
            },
            spans: Spans::default(),
            stop_signal: new.options.stop_signal.unwrap_or(Signal::TERM),
            options: new.options,
            settings,
            rootfs: None,
            endpoint: None,
            published: Vec::new(),
        };
        state.write(&unnamed)?;
        fs::rename(&unnamed, &dir).map_err(ContainerError::file("make directory", &dir))?;
        Ok(Container { id, dir })
    }

    /// Every container, oldest first. Directories without a readable state are left out.
    ///
    /// # Errors
    /// [`ContainerError::File`] when the directory cannot be read.
    pub fn list(&self) -> Result<Vec<State>, ContainerError> {
        let mut states: Vec<State> = self
            .ids()?
            .iter()
            .filter_map(|id| State::read(&self.dir().join(id.as_str())).ok())
            .collect();
        states.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(states)
    }

    /// Those without a readable state that nobody has to do with: a power cut may leave that.
    ///
    /// # Errors
    /// [`ContainerError::File`] when the directory cannot be read.
    pub fn unreadable(&self) -> Result<Vec<Container>, ContainerError> {
        let all = self.ids()?.into_iter().map(|id| self.get(id));
        let is_unreadable = |container: &Container| {
            State::read(&container.dir).is_err() && !is_locked(&container.dir)
        };
        Ok(all.filter(is_unreadable).collect())
    }

    /// The container with this name, or with an id that begins like this.
    ///
    /// # Errors
    /// [`ContainerError::Unknown`], [`ContainerError::Ambiguous`].
    pub fn find(&self, name: &str) -> Result<Container, ContainerError> {
        if let Some(state) = self.list()?.into_iter().find(|state| state.name == name) {
            return Ok(self.get(state.id));
        }
        let unknown = || ContainerError::Unknown(name.chars().take(96).collect());
        let mut matches: Vec<ContainerId> = self
            .ids()?
            .into_iter()
            .filter(|id| !name.is_empty() && id.as_str().starts_with(name))
            .collect();
        match (matches.pop(), matches.pop()) {
            (Some(id), None) => Ok(self.get(id)),
            (Some(_), Some(_)) => Err(ContainerError::Ambiguous(name.to_owned())),
            (None, _) => Err(unknown()),
        }
    }

    /// The container with this id, which may not exist.
    #[must_use]
    pub fn get(&self, id: ContainerId) -> Container {
        let dir = self.dir().join(id.as_str());
        Container { id, dir }
    }

    /// Takes away what containers left in the network that ended without their monitor, and puts back what others took
    /// away of it.
    ///
    /// # Errors
    /// [`ContainerError::Network`].
    pub fn reconcile(&self) -> Result<(), ContainerError> {
        Bridge::new(&self.settings).reconcile()
    }

    /// Whether there is a bridge that no container is connected to any more, of whichever store.
    ///
    /// # Errors
    /// [`ContainerError::Network`].
    pub fn network_is_unused(&self) -> Result<bool, ContainerError> {
        Bridge::new(&self.settings).is_unused()
    }

    /// Takes the bridge away, and what was set up for it, unless a container is connected. Whether the host goes on forwarding
    /// packets, because others may need that.
    ///
    /// # Errors
    /// [`ContainerError::Network`].
    pub fn remove_network(&self) -> Result<bool, ContainerError> {
        Bridge::new(&self.settings).remove()
    }

    fn ids(&self) -> Result<Vec<ContainerId>, ContainerError> {
        let dir = self.dir();
        let failed = |error: io::Error| ContainerError::file("list", &dir)(error);
        let mut ids = Vec::new();
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            ids.extend(name.to_str().and_then(|name| name.parse().ok()));
        }
        Ok(ids)
    }

    /// Where the next container is made: what somebody left there who was killed while they made one goes. Called with
    /// the lock.
    fn unnamed(&self) -> Result<PathBuf, ContainerError> {
        let unnamed = self.dir().join(NEW);
        remove_dir(&unnamed)?;
        Ok(unnamed)
    }

    /// What somebody left who was killed while they made a container or volume, or removed a container.
    ///
    /// # Errors
    /// [`ContainerError::File`] when the directories cannot be read.
    pub fn leftovers(&self) -> Result<Vec<PathBuf>, ContainerError> {
        let mut all = Vec::new();
        self.each_leftover(&mut |path| all.push(path.to_owned()))?;
        Ok(all)
    }

    /// Removes [leftovers](Self::leftovers), which may be large: no start waits for it. Returns those that cannot be removed.
    ///
    /// # Errors
    /// [`ContainerError::File`] when the directories cannot be read.
    pub fn sweep(&self) -> Result<Vec<PathBuf>, ContainerError> {
        let mut stay = Vec::new();
        self.each_leftover(&mut |path| {
            if let Err(error) = remove_dir(path) {
                tracing::warn!(path = %path.display(), error = chain(&error), "it is left behind");
                stay.push(path.to_owned());
            }
        })?;
        Ok(stay)
    }

    /// Nobody else works on them meanwhile.
    fn each_leftover(&self, found: &mut dyn FnMut(&Path)) -> Result<(), ContainerError> {
        let dir = self.dir();
        let lock = self.lock()?;
        let unnamed = dir.join(NEW);
        if unnamed.exists() {
            found(&unnamed);
        }
        drop(lock);
        volumes::each_leftover(&self.root.join("volumes"), found)?;
        let failed = |error: io::Error| ContainerError::file("list", &dir)(error);
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if !name.to_str().is_some_and(|name| name.starts_with(GONE)) {
                continue;
            }
            let path = dir.join(name);
            // Who removes a container has it locked until all of it is gone.
            let lock = try_lock(&path);
            if !matches!(lock, Ok(None)) {
                found(&path);
            }
        }
        Ok(())
    }

    fn dir(&self) -> PathBuf {
        self.root.join("containers")
    }

    fn lock(&self) -> Result<File, ContainerError> {
        let path = self.dir().join(".lock");
        let file = File::create(&path).map_err(ContainerError::file("open", &path))?;
        flock(&file, FlockOperation::LockExclusive).map_err(ContainerError::file("lock", &path))?;
        Ok(file)
    }
}

/// Removes a directory, which somebody else may be removing. What a container made in it may be of any depth.
pub(super) fn remove_dir(dir: &Path) -> Result<(), ContainerError> {
    Ok(remove_tree(dir)?)
}

/// Locks a directory itself; `None` where somebody else has it, or it is gone.
pub(super) fn try_lock(dir: &Path) -> Result<Option<File>, ContainerError> {
    match lock_dir(dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(lock) => Ok(Some(lock)),
        Err(ContainerError::File { source, .. })
            if matches!(
                source.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::NotFound
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether somebody has the directory locked, or that cannot be said.
pub(super) fn is_locked(dir: &Path) -> bool {
    dir.exists() && !matches!(try_lock(dir), Ok(Some(_)))
}

/// Whoever has waited for a directory that was removed finds nothing in it.
fn lock_dir(dir: &Path, how: FlockOperation) -> Result<File, ContainerError> {
    let file = File::open(dir).map_err(ContainerError::file("open", dir))?;
    loop {
        match flock(&file, how) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(ContainerError::file("lock", dir)(error)),
        }
    }
}

/// Only a bridge has ports to publish.
fn check_ports(options: &Options) -> Result<(), ParseError> {
    match options.publish.first() {
        Some(port) if options.net != Network::Bridge => {
            let text = port.container.to_string();
            let reason = "only a container on the bridge (--net bridge) publishes ports";
            Err(ParseError::new("port", &text, reason))
        }
        _ => Ok(()),
    }
}

impl Container {
    /// The container whose directory this is.
    ///
    /// # Errors
    /// [`ContainerError::File`], [`ContainerError::Damaged`].
    pub fn open(dir: &Path) -> Result<Self, ContainerError> {
        Ok(Self {
            id: State::read(dir)?.id,
            dir: dir.to_owned(),
        })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Its directory in the store, the bundle at the same time.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is known of it now.
    ///
    /// # Errors
    /// [`ContainerError::Unknown`] where it is gone, [`ContainerError::Damaged`].
    pub fn state(&self) -> Result<State, ContainerError> {
        State::read(&self.dir).map_err(|error| match error {
            ContainerError::File { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ContainerError::Unknown(self.id.short().to_owned())
            }
            error => error,
        })
    }

    /// Whether anything of it may still run, or somebody has to do with it: its monitor, from before the start until the end is
    /// written down.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.state().is_ok_and(|state| state.is_live()) || is_locked(&self.dir)
    }

    /// Whether somebody has begun to run it, and it was not only made. So, too, where that cannot be said.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        let made = self.state().map(|state| state.phase);
        let is_made = matches!(made, Ok(Phase::Created { .. }));
        !(is_made && matches!(try_lock(&self.dir), Ok(Some(_))))
    }

    /// Its last state, where it was begun, has ended, and nobody is at work on it any more.
    #[must_use]
    pub fn ended(&self) -> Option<State> {
        let state = self.state().ok()?;
        let is_made = matches!(state.phase, Phase::Created { .. });
        let ended = !is_made && !state.is_live() && matches!(try_lock(&self.dir), Ok(Some(_)));
        ended.then_some(state)
    }

    /// Writes the bundle for the root filesystem mounted at `rootfs`, and sets up the network
    /// meanwhile. The calling process becomes responsible for the container. Volumes are filled as long as
    /// that is wanted.
    ///
    /// # Errors
    /// Any; nothing is left in the network then.
    pub fn prepare(
        &self,
        rootfs: &Path,
        image: &ImageConfiguration,
        progress: &dyn Progress,
    ) -> Result<Prepared, ContainerError> {
        let rootfs = &path::absolute(rootfs).map_err(ContainerError::file("find", rootfs))?;
        let mut state = self.state()?;
        let bridge = Bridge::new(&state.settings);
        if state.options.net.has_bridge() {
            let mut endpoint = bridge.lease(&self.id, &self.dir)?;
            endpoint.isolated = state.options.net == Network::Isolated;
            state.endpoint = Some(endpoint);
        }
        let prepared = self.write_bundle(rootfs, image, &state, &bridge, progress);
        let prepared = prepared.and_then(|prepared| {
            if state.options.stop_signal.is_none()
                && let Some(signal) = process::stop_signal(image)?
            {
                state.stop_signal = signal;
            }
            state.phase = Phase::Created {
                owner: ProcessId::own(),
            };
            state.rootfs = Some(rootfs.to_owned());
            state.write(&self.dir)?;
            Ok(prepared)
        });
        if prepared.is_err()
            && state.endpoint.is_some()
            && let Err(error) = bridge.release(&self.id)
        {
            tracing::warn!(container = %self.id.short(), %error, "network is left behind");
        }
        prepared
    }

    fn write_bundle(
        &self,
        rootfs: &Path,
        image: &ImageConfiguration,
        state: &State,
        bridge: &Bridge,
        progress: &dyn Progress,
    ) -> Result<Prepared, ContainerError> {
        let endpoint = state.endpoint.as_ref();
        let bundle = Bundle {
            id: &self.id,
            dir: &self.dir,
            volumes: &self.volumes(),
            rootfs,
            image,
            options: &state.options,
            endpoint,
            progress,
        };
        let mut spans = Spans::default();
        let (network, way_out, written) = thread::scope(|scope| {
            let network = scope.spawn(|| {
                let begin = Instant::now();
                let done = endpoint.map_or(Ok(()), |endpoint| bridge.attach(&self.id, endpoint));
                (done, begin.elapsed())
            });
            let way_out = scope.spawn(|| match endpoint {
                Some(endpoint) if endpoint.warning.is_none() => {
                    bridge.keep_way_out(endpoint.subnet)
                }
                _ => Ok(endpoint.and_then(|endpoint| endpoint.warning.clone())),
            });
            let written = spans.measure("bundle", || bundle.write());
            (network.join(), way_out.join(), written)
        });
        let mut warnings = written?;
        let panicked = |_| ContainerError::Network {
            action: "set up the network".to_owned(),
            message: "the thread panicked".to_owned(),
        };
        let (network, took) = network.map_err(panicked)?;
        network?;
        warnings.extend(way_out.map_err(panicked)??);
        if endpoint.is_some() {
            spans.push("network", took);
        }
        Ok(Prepared { spans, warnings })
    }

    /// Asks the container to end, waits for `timeout`, then kills it. Returns when it is gone and
    /// its end is written down. One that does not run is no error.
    ///
    /// # Errors
    /// [`ContainerError::Stuck`], and what the runtime says.
    pub fn stop(&self, timeout: Duration) -> Result<(), ContainerError> {
        let state = self.state()?;
        if !matches!(state.phase, Phase::Running { .. }) || !state.is_live() {
            return Ok(());
        }
        self.send(&state, state.stop_signal)?;
        if !self.wait_for_end(timeout)? {
            self.send(&state, Signal::KILL)?;
            if !self.wait_for_end(PATIENCE)? {
                return Err(ContainerError::Stuck(state.name));
            }
        }
        Ok(())
    }

    /// Sends a signal to the container's first process.
    ///
    /// # Errors
    /// [`ContainerError::NotRunning`], and what the runtime says.
    pub fn kill(&self, signal: Signal) -> Result<(), ContainerError> {
        let state = self.state()?;
        if !matches!(state.phase, Phase::Running { .. }) || !state.is_live() {
            return Err(ContainerError::NotRunning(state.name));
        }
        self.send(&state, signal)
    }

    /// Removes the container and everything that is its own. Its root filesystem must be unmounted
    /// by whoever mounted it.
    ///
    /// # Errors
    /// [`ContainerError::StillRunning`] unless `force` is set, which kills it first.
    pub fn remove(&self, force: bool) -> Result<(), ContainerError> {
        let begin = Instant::now();
        let alone = loop {
            let known = self.finish(force)?;
            if let Some(alone) = try_lock(&self.dir)? {
                break alone;
            }
            // Its monitor is about to start it, or writes down how it ended.
            if begin.elapsed() >= PATIENCE {
                let name = known.map_or_else(|| self.id.short().to_owned(), |state| state.name);
                return Err(ContainerError::Stuck(name));
            }
            thread::sleep(Duration::from_millis(5));
        };
        // A monitor that was killed leaves what it has started.
        if let Some(state) = self.finish(force)? {
            self.clean_up(&state)?;
        }
        // From now on it is none, also if we are killed before all of it is gone.
        let gone = self.dir.with_file_name(format!("{GONE}{}", self.id));
        fs::rename(&self.dir, &gone).map_err(ContainerError::file("remove", &self.dir))?;
        remove_dir(&gone)?;
        drop(alone);
        Ok(())
    }

    /// Kills what runs. `None` where nothing is known of it any more: the directory is all there is.
    fn finish(&self, force: bool) -> Result<Option<State>, ContainerError> {
        let state = match self.state() {
            Ok(state) => state,
            Err(ContainerError::Damaged { .. }) if force => return Ok(None),
            Err(ContainerError::Unknown(_)) if force && self.dir.exists() => return Ok(None),
            Err(error) => return Err(error),
        };
        if matches!(state.phase, Phase::Running { .. }) && state.is_live() {
            if !force {
                return Err(ContainerError::StillRunning(state.name));
            }
            // It may end between the two.
            let _ = self.send(&state, Signal::KILL);
            if !self.wait_for_end(PATIENCE)? {
                return Err(ContainerError::Stuck(state.name));
            }
        }
        Ok(Some(state))
    }

    /// Waits until nobody else starts, watches or removes the container: a monitor does from before the
    /// start until the end is written down. Over with the value.
    pub(super) fn alone(&self) -> Result<File, ContainerError> {
        lock_dir(&self.dir, FlockOperation::LockExclusive)
    }

    /// Takes away what lies outside the directory: the runtime's state, control groups, network.
    pub(super) fn clean_up(&self, state: &State) -> Result<(), ContainerError> {
        let deleted = match runtime(&state.settings) {
            Ok(runtime) => runtime.delete(&self.id),
            // The container has ended: one that cannot be asked any more keeps nothing else from going.
            Err(error @ ContainerError::NoRuntime(_)) => {
                tracing::warn!(container = %self.id.short(), %error, "what the runtime knows is left behind");
                Ok(())
            }
            Err(error) => Err(error),
        };
        if state.endpoint.is_some() {
            Bridge::new(&state.settings).release(&self.id)?;
        }
        deleted
    }

    fn send(&self, state: &State, signal: Signal) -> Result<(), ContainerError> {
        let sent = runtime(&state.settings)?.kill(&self.id, signal);
        // What is frozen takes no signal: with version 1 of control groups not even SIGKILL.
        if let Some(cgroup) = Cgroup::of(&self.id.cgroup())
            && let Err(error) = cgroup.thaw()
        {
            tracing::debug!(container = %self.id, %error, "it cannot be thawed");
        }
        // It may have ended in between, which is what was wanted.
        match &state.phase {
            Phase::Running { init, .. } if !init.is_alive() => Ok(()),
            _ => sent,
        }
    }

    /// Waits until the container is gone and that is written down. False after `timeout`.
    fn wait_for_end(&self, timeout: Duration) -> Result<bool, ContainerError> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.state().map(|state| state.status()) {
                Ok(Status::Exited { .. } | Status::Dead) | Err(ContainerError::Unknown(_)) => {
                    return Ok(true);
                }
                Ok(_) => {}
                Err(error) => return Err(error),
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn volumes(&self) -> PathBuf {
        let root = self.dir.parent().and_then(Path::parent);
        root.unwrap_or(&self.dir).join("volumes")
    }
}

/// The runtime of these settings.
pub(super) fn runtime(settings: &Settings) -> Result<RuncLike, ContainerError> {
    let root = settings.run_dir.join("runtime");
    RuncLike::find(settings.runtime.as_deref(), &root)
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Created => f.write_str("created"),
            Self::Running => f.write_str("running"),
            Self::Exited { code } => write!(f, "exited ({code})"),
            Self::Dead => f.write_str("dead"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_half_made_or_half_removed_goes() {
        let root = tempfile::tempdir().unwrap();
        let containers = Containers::open(root.path(), Settings::default()).unwrap();
        let new = || NewContainer {
            image: "image".to_owned(),
            options: Options::default(),
        };
        let made = containers.create(new()).unwrap();
        let names = || {
            let all = fs::read_dir(root.path().join("containers")).unwrap();
            let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name != ".lock").collect::<Vec<_>>()
        };
        assert_eq!(names(), [made.id().as_str()]);
        let left = [NEW, ".gone-abc"].map(|name| root.path().join("containers").join(name));
        for dir in &left {
            fs::create_dir_all(dir.join("writable/etc")).unwrap();
        }
        let next = containers.create(new()).unwrap();
        made.remove(true).unwrap();
        let next = next.id().as_str();
        let mut all = names();
        all.sort();
        assert_eq!(all, [".gone-abc", next], "a start waits for no removal");
        fs::create_dir(&left[0]).unwrap();
        let mut found = containers.leftovers().unwrap();
        found.sort();
        assert_eq!(found, [left[1].clone(), left[0].clone()]);
        let removing = try_lock(&left[1]).unwrap();
        assert_eq!(containers.leftovers().unwrap(), [left[0].clone()]);
        assert!(containers.sweep().unwrap().is_empty());
        assert!(left[1].exists(), "somebody removes it");
        drop(removing);
        assert!(containers.sweep().unwrap().is_empty());
        assert_eq!(names(), [next]);
    }

    #[test]
    fn a_leftover_of_any_depth_goes_and_one_that_stays_stops_no_other() {
        use rustix::fs::{Mode, OFlags, mkdirat, openat};
        // In memory: on a disk it takes a minute.
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let containers = Containers::open(root.path(), Settings::default()).unwrap();
        let [first, deep, last] = [".gone-a", ".gone-b", ".gone-c"].map(|name| {
            let dir = root.path().join("containers").join(name);
            fs::create_dir(&dir).unwrap();
            dir
        });
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut here = File::open(&deep).unwrap();
        for _ in 0..20_000 {
            mkdirat(&here, "d", Mode::RWXU).unwrap();
            here = openat(&here, "d", flags, Mode::empty()).unwrap().into();
        }
        // Nothing is removed where something is mounted.
        let mount = |arguments: &[&str]| {
            let mut command = std::process::Command::new(arguments[0]);
            command.args(&arguments[1..]);
            assert!(command.status().unwrap().success(), "{arguments:?}");
        };
        let busy = [&first, &last].map(|dir| dir.to_str().unwrap());
        for dir in busy {
            mount(&["mount", "--bind", dir, dir]);
        }
        let swept = thread::Builder::new().stack_size(2 << 20);
        let swept = swept.spawn(move || containers.sweep().unwrap());
        let swept = swept.unwrap().join();
        for dir in busy {
            mount(&["umount", dir]);
        }
        assert_eq!(swept.unwrap().len(), 2);
        assert!(!deep.exists());
    }
}
