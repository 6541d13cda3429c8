//! Which container has which address of the bridge: a file under a lock.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::Subnet;
use crate::container::containers::is_locked;
use crate::container::state::{State, make_run_dir, replace};
use crate::container::{ContainerError, ContainerId};

/// The file. The lock is held as long as the value lives.
#[derive(Debug)]
pub(super) struct Leases {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
    table: Option<Table>,
}

/// What is in the file, once there is a subnet.
#[derive(Debug, Serialize, Deserialize)]
struct Table {
    subnet: Subnet,
    leases: BTreeMap<Ipv4Addr, Lease>,
    /// Why containers cannot reach beyond the host, where they cannot.
    #[serde(default)]
    warning: Option<String>,
    /// Whether the host forwarded no packets before there was a bridge.
    #[serde(default)]
    forwarded_not: bool,
}

/// Who has an address.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Lease {
    pub(super) id: ContainerId,
    /// The container's directory, where its state tells whether it lives.
    dir: PathBuf,
}

impl Lease {
    fn is_void(&self) -> bool {
        match State::read(&self.dir) {
            // Its monitor may be about to write that it lives, or takes away what it has here.
            Ok(state) => !state.is_live() && !is_locked(&self.dir),
            // Between two writes there is no moment without the file: so the container is gone.
            Err(ContainerError::File { source, .. }) => source.kind() == io::ErrorKind::NotFound,
            Err(_) => false,
        }
    }
}

impl Leases {
    /// Opens and locks the file of a bridge.
    pub(super) fn open(run_dir: &Path, bridge: &str) -> Result<Self, ContainerError> {
        let dir = make_run_dir(run_dir, "network")?;
        let lock_path = dir.join(format!("{bridge}.lock"));
        let lock = lock(&lock_path).map_err(ContainerError::file("lock", &lock_path))?;
        let path = file(run_dir, bridge);
        let table = match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|source| ContainerError::Damaged {
                    path: path.clone(),
                    source,
                })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(ContainerError::file("read", &path)(error)),
        };
        Ok(Self {
            path,
            lock_path,
            _lock: lock,
            table,
        })
    }

    /// Whether there is anything in the file of a bridge.
    pub(super) fn exist(run_dir: &Path, bridge: &str) -> bool {
        file(run_dir, bridge).exists()
    }

    /// The subnet in use: the one in the file as long as an address of it is leased, else
    /// `configured`, else a free one.
    pub(super) fn subnet(&mut self, configured: Option<Subnet>) -> Result<Subnet, ContainerError> {
        if let Some(table) = &self.table {
            let kept = configured.is_none_or(|subnet| subnet == table.subnet);
            if kept || !table.leases.is_empty() {
                return Ok(table.subnet);
            }
        }
        let chosen = configured.or_else(Subnet::choose);
        let subnet = chosen.ok_or_else(|| ContainerError::Network {
            action: "choose addresses for containers".to_owned(),
            message:
                "routes of the host overlap 10.188.0.0/16 to 10.219.0.0/16: configure a subnet"
                    .to_owned(),
        })?;
        self.table = Some(Table {
            subnet,
            leases: BTreeMap::new(),
            warning: None,
            forwarded_not: self.forwarded_not(),
        });
        Ok(subnet)
    }

    /// The subnet in use, if there is one.
    pub(super) fn current_subnet(&self) -> Option<Subnet> {
        self.table.as_ref().map(|table| table.subnet)
    }

    /// Why containers cannot reach beyond the host, where they cannot.
    pub(super) fn warning(&self) -> Option<String> {
        self.table.as_ref().and_then(|table| table.warning.clone())
    }

    /// Remembers that for later containers.
    pub(super) fn set_warning(&mut self, warning: Option<String>) -> Result<(), ContainerError> {
        match &mut self.table {
            Some(table) if table.warning != warning => {
                table.warning = warning;
                self.write()
            }
            _ => Ok(()),
        }
    }

    /// Writes down that the host forwards no packets.
    pub(super) fn note_no_forwarding(&mut self) -> Result<(), ContainerError> {
        if let Some(table) = &mut self.table {
            table.forwarded_not = true;
        }
        self.write()
    }

    /// Whether the host forwarded no packets before there was a bridge.
    pub(super) fn forwarded_not(&self) -> bool {
        self.table.as_ref().is_some_and(|table| table.forwarded_not)
    }

    /// Takes the first free address for a container; the same again where it has one.
    pub(super) fn take(
        &mut self,
        id: &ContainerId,
        dir: &Path,
    ) -> Result<Ipv4Addr, ContainerError> {
        let full = || ContainerError::Network {
            action: "get an address".to_owned(),
            message:
                "every address of the subnet is taken: remove containers, or configure a larger one"
                    .to_owned(),
        };
        let table = self.table.as_mut().ok_or_else(full)?;
        if let Some((address, _)) = table.leases.iter().find(|(_, lease)| lease.id == *id) {
            return Ok(*address);
        }
        let free = |address: &Ipv4Addr| !table.leases.contains_key(address);
        let address = table.subnet.addresses().find(free).ok_or_else(full)?;
        let lease = Lease {
            id: id.clone(),
            dir: dir.to_owned(),
        };
        table.leases.insert(address, lease);
        self.write()?;
        Ok(address)
    }

    /// Gives back the address of a container.
    pub(super) fn give_back(&mut self, id: &ContainerId) -> Result<(), ContainerError> {
        if let Some(table) = &mut self.table {
            table.leases.retain(|_, lease| lease.id != *id);
            self.write()?;
        }
        Ok(())
    }

    /// Leases of containers that do not live any more.
    pub(super) fn void(&self) -> Vec<ContainerId> {
        let leases = self.table.iter().flat_map(|table| table.leases.values());
        leases
            .filter(|lease| lease.is_void())
            .map(|lease| lease.id.clone())
            .collect()
    }

    /// How many addresses are leased.
    pub(super) fn len(&self) -> usize {
        self.table.as_ref().map_or(0, |table| table.leases.len())
    }

    /// Forgets everything, and leaves no file.
    pub(super) fn remove(mut self) -> Result<(), ContainerError> {
        self.table = None;
        for path in [&self.path, &self.lock_path] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(ContainerError::file("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn write(&self) -> Result<(), ContainerError> {
        let text =
            serde_json::to_vec_pretty(&self.table).map_err(|source| ContainerError::Damaged {
                path: self.path.clone(),
                source,
            })?;
        // It is gone after a power cut.
        replace(&self.path, &text, |_| Ok(()))
    }
}

fn file(run_dir: &Path, bridge: &str) -> PathBuf {
    run_dir.join("network").join(format!("{bridge}.json"))
}

/// The locked file at `path`. Whoever held the lock before may have removed the file with it: then
/// the next one is locked.
fn lock(path: &Path) -> io::Result<File> {
    loop {
        let file = File::create(path)?;
        flock(&file, FlockOperation::LockExclusive)?;
        let here = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let held = file.metadata()?;
        if (here.dev(), here.ino()) == (held.dev(), held.ino()) {
            return Ok(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_leaves_no_file_and_no_stale_lock() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Leases::open(dir.path(), "b").unwrap();
        let mut leases = open();
        leases.subnet(Some("10.1.0.0/29".parse().unwrap())).unwrap();
        leases.note_no_forwarding().unwrap();
        drop(leases);
        let leases = open();
        assert!(leases.forwarded_not());
        std::thread::scope(|scope| {
            // It waits for the lock, and must get the one of the new file.
            let next = scope.spawn(|| {
                let next = open();
                assert!(next.lock_path.exists());
                next.current_subnet()
            });
            leases.remove().unwrap();
            assert_eq!(next.join().unwrap(), None);
        });
        open().remove().unwrap();
        assert_eq!(fs::read_dir(dir.path().join("network")).unwrap().count(), 0);
    }

    #[test]
    fn a_lease_is_not_void_while_somebody_has_to_do_with_the_container() {
        let dir = tempfile::tempdir().unwrap();
        let settings = crate::container::Settings::default();
        let containers = crate::container::Containers::open(dir.path(), settings).unwrap();
        let new = crate::container::NewContainer {
            image: "image".to_owned(),
            options: crate::container::Options::default(),
        };
        let container = containers.create(new).unwrap();
        let mut leases = Leases::open(dir.path(), "b").unwrap();
        leases.subnet(Some("10.1.0.0/29".parse().unwrap())).unwrap();
        leases.take(container.id(), container.dir()).unwrap();
        assert!(leases.void().is_empty(), "who made it lives");
        let mut state = container.state().unwrap();
        let crate::container::Phase::Created { owner } = &mut state.phase else {
            unreachable!()
        };
        owner.start = 1;
        state.write(container.dir()).unwrap();
        let monitor = container.alone().unwrap();
        assert!(leases.void().is_empty(), "its monitor is about to start it");
        drop(monitor);
        assert_eq!(leases.void(), [container.id().clone()]);
    }

    #[test]
    fn addresses_are_given_once() {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("live");
        let id = || ContainerId::generate().unwrap();
        let (first, second) = (id(), id());
        let small = Some("10.1.0.0/29".parse().unwrap());
        let mut leases = Leases::open(dir.path(), "b").unwrap();
        leases.subnet(small).unwrap();
        let address = leases.take(&first, &live).unwrap();
        assert_eq!(address.to_string(), "10.1.0.2");
        assert_eq!(leases.take(&first, &live).unwrap(), address);
        drop(leases);
        let mut leases = Leases::open(dir.path(), "b").unwrap();
        assert_eq!(leases.take(&second, &live).unwrap().to_string(), "10.1.0.3");
        // Another subnet has to wait until this one is free.
        let other = Some("10.2.0.0/24".parse().unwrap());
        assert_eq!(leases.subnet(other).unwrap().to_string(), "10.1.0.0/29");
        leases.give_back(&first).unwrap();
        assert_eq!(leases.take(&id(), &live).unwrap(), address);
        for _ in 0..3 {
            leases.take(&id(), &live).unwrap();
        }
        assert!(leases.take(&id(), &live).is_err());
        assert_eq!(leases.void().len(), 5);
        for id in leases.void() {
            leases.give_back(&id).unwrap();
        }
        assert_eq!(leases.subnet(other).unwrap().to_string(), "10.2.0.0/24");
    }
}
