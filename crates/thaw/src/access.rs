//! Who may speak to the daemon, and of what.
//!
//! Root and the daemon's own user may do everything. Others are let in by `[socket]` in the
//! configuration, at a socket of its own: the one in the store lies behind a directory that only its
//! owner can enter. Who they are the kernel says ([`Peer`]). Whoever may change things can become root
//! by it; readers can ask what is there, and nothing of what they say is acted upon besides.

use std::fs::Permissions;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use thaw_image::ImageReference;
use thaw_node::container::{Settings, open_run_dir};
use thaw_sys::peer::{self, Peer};

use crate::config::Socket;
use crate::protocol::Request;

/// What somebody may ask of the daemon. More contains less.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Right {
    /// Nothing.
    Nothing,
    /// What is there.
    Read,
    /// Anything.
    Change,
}

/// Who has which right, by id.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Access {
    users: Vec<u32>,
    groups: Vec<u32>,
    read_users: Vec<u32>,
    read_groups: Vec<u32>,
    /// Where others than root ask.
    path: Option<PathBuf>,
}

impl Access {
    /// As it is configured; the names have to be known here.
    pub(crate) fn new(socket: Option<&Socket>) -> anyhow::Result<Self> {
        let Some(socket) = socket else {
            return Ok(Self::default());
        };
        let ids = |names: &[String], kind: &str, id: fn(&str) -> std::io::Result<u32>| {
            let ids = names.iter().map(|name| {
                let unknown = || format!("in [socket] of the configuration: the {kind} {name:?}");
                id(name).with_context(unknown)
            });
            ids.collect::<anyhow::Result<Vec<u32>>>()
        };
        Ok(Self {
            users: ids(&socket.users, "user", peer::user)?,
            groups: ids(&socket.groups, "group", peer::group)?,
            read_users: ids(&socket.read_users, "user", peer::user)?,
            read_groups: ids(&socket.read_groups, "group", peer::group)?,
            path: Some(socket.path.clone()),
        })
    }

    /// What the process at the other end may ask.
    pub(crate) fn right(&self, peer: &Peer) -> Right {
        let own = rustix::process::geteuid().as_raw();
        let is_in = |groups: &[u32]| peer.groups.iter().any(|group| groups.contains(group));
        if peer.uid == 0 || peer.uid == own || self.users.contains(&peer.uid) || is_in(&self.groups)
        {
            return Right::Change;
        }
        match self.read_users.contains(&peer.uid) || is_in(&self.read_groups) {
            true => Right::Read,
            false => Right::Nothing,
        }
    }

    /// Listens for others than root, where any are let in. Who can connect follows from who may ask:
    /// where all are of one group the socket is that group's, else everybody can, and hears that he may
    /// not.
    pub(crate) fn listen(&self) -> anyhow::Result<Option<UnixListener>> {
        let Some(path) = &self.path else {
            return Ok(None);
        };
        let cannot = || format!("cannot listen on {} (path of [socket])", path.display());
        if let Some(dir) = path.parent() {
            make_dir(dir, &Settings::default().run_dir).with_context(cannot)?;
        }
        remove_dead(path)?;
        let listener = UnixListener::bind(path).with_context(cannot)?;
        let (group, mode) = match self.only_group() {
            Some(group) => (Some(group), 0o660),
            None => (None, 0o666),
        };
        // Before anybody else can connect.
        std::os::unix::fs::chown(path, None, group).with_context(cannot)?;
        std::fs::set_permissions(path, Permissions::from_mode(mode)).with_context(cannot)?;
        Ok(Some(listener))
    }

    /// The socket of [`Access::listen`].
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The group that all who are let in are of.
    fn only_group(&self) -> Option<u32> {
        if !self.users.is_empty() || !self.read_users.is_empty() {
            return None;
        }
        let mut groups = self.groups.iter().chain(&self.read_groups);
        let first = *groups.next()?;
        groups.all(|group| *group == first).then_some(first)
    }
}

/// Makes the directory of the socket. Where it is the run directory, a container may have made it before, for root alone.
fn make_dir(dir: &Path, run_dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    match dir == run_dir {
        true => open_run_dir(dir),
        false => Ok(()),
    }
}

/// Removes the socket that a daemon which is gone has left, and nothing else.
fn remove_dead(path: &Path) -> anyhow::Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        bail!(
            "{} (path of [socket]) is there and is no socket",
            path.display()
        );
    }
    if UnixStream::connect(path).is_ok() {
        bail!(
            "somebody serves {} already: give [socket] of this store a path of its own",
            path.display()
        );
    }
    std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}

impl Request {
    /// What it takes to ask this.
    pub(crate) fn needs(&self) -> Right {
        match self {
            // A directory is read with the daemon's rights, which are more than a reader's.
            Self::Inspect { image } => match image.parse() {
                Ok(ImageReference::Layout { .. }) => Right::Change,
                Ok(ImageReference::Registry(_)) | Err(_) => Right::Read,
            },
            Self::Ps { .. }
            | Self::Images
            | Self::Mounts
            | Self::Metrics
            | Self::Explain { .. } => Right::Read,
            Self::Prepare { .. }
            | Self::Release { .. }
            | Self::Report { .. }
            | Self::Mount { .. }
            | Self::Unmount { .. }
            | Self::Pull { .. }
            | Self::Accelerate { .. }
            | Self::FromTraces { .. }
            | Self::Gc(_)
            | Self::Login { .. }
            | Self::Shutdown => Right::Change,
        }
    }
}

/// What somebody hears who may not ask that, and what to do about it.
pub(crate) fn refusal(peer: &Peer, right: Right) -> String {
    let who = format!("the user with id {}", peer.uid);
    match right {
        Right::Nothing => format!(
            "{who} may not speak to this daemon: run thaw as root, or have root add the user, or a group of \
             theirs, to [socket] in the configuration and start the daemon anew"
        ),
        Right::Read | Right::Change => format!(
            "{who} may only ask this daemon what is there (ps, images, inspect of images in registries, metrics, doctor --explain, \
             mount without arguments): run thaw as root, or have root add the user to `users`, or a \
             group of theirs to `groups`, of [socket] in the configuration"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(users: &[u32], groups: &[u32], read_users: &[u32], read_groups: &[u32]) -> Access {
        Access {
            users: users.to_vec(),
            groups: groups.to_vec(),
            read_users: read_users.to_vec(),
            read_groups: read_groups.to_vec(),
            path: None,
        }
    }

    fn right(access: &Access, uid: u32, groups: &[u32]) -> Right {
        access.right(&Peer {
            pid: 1,
            uid,
            groups: groups.to_vec(),
        })
    }

    #[test]
    fn the_most_that_one_is_given_counts() {
        let own = rustix::process::geteuid().as_raw();
        let all = access(&[5], &[50], &[6, 5], &[60]);
        for (uid, groups, wanted) in [
            (0, &[9][..], Right::Change),
            (own, &[9], Right::Change),
            (5, &[9], Right::Change),
            (7, &[9, 50], Right::Change),
            (7, &[60, 50], Right::Change),
            (6, &[9], Right::Read),
            (7, &[9, 60], Right::Read),
            (7, &[9], Right::Nothing),
            (50, &[5, 6], Right::Nothing),
        ] {
            assert_eq!(right(&all, uid, groups), wanted, "{uid} {groups:?}");
        }
        assert_eq!(right(&Access::default(), 7, &[0]), Right::Nothing);
    }

    #[test]
    fn others_reach_a_socket_in_the_run_directory_and_no_other_directory_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (run, other) = (dir.path().join("run"), dir.path().join("other"));
        let mode = |dir: &Path| std::fs::metadata(dir).unwrap().permissions().mode() & 0o777;
        for dir in [&run, &other] {
            std::fs::create_dir(dir).unwrap();
            std::fs::set_permissions(dir, Permissions::from_mode(0o700)).unwrap();
            make_dir(dir, &run).unwrap();
        }
        assert_eq!((mode(&run), mode(&other)), (0o711, 0o700));
    }

    #[test]
    fn a_socket_is_of_a_group_where_all_are_of_it() {
        assert_eq!(access(&[], &[50], &[], &[]).only_group(), Some(50));
        assert_eq!(access(&[], &[50], &[], &[50]).only_group(), Some(50));
        assert_eq!(access(&[], &[], &[], &[60]).only_group(), Some(60));
        assert_eq!(access(&[], &[50], &[], &[60]).only_group(), None);
        assert_eq!(access(&[5], &[50], &[], &[]).only_group(), None);
        assert_eq!(access(&[], &[50], &[6], &[]).only_group(), None);
    }
}
