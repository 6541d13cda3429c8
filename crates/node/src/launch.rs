//! A container that this process starts itself, under a monitor of its own.

use std::path::PathBuf;
use std::process::{Child, Command};

use thaw_image::Digest;
use thaw_mount::begin_with_our_first_limit;

use crate::Node;
use crate::container::{Container, monitor};
use crate::error::NodeError;
use crate::reports::PreparedContainer;
use crate::settings::ImageWish;
use crate::timing::Timing;

/// A container that runs.
#[derive(Debug)]
pub struct Launched {
    /// How it was made.
    pub prepared: PreparedContainer,
    /// Its handle.
    pub container: Container,
    /// Its first process, and how the start went.
    pub started: monitor::Started,
    /// Ends with the container: whoever launched it waits for it.
    pub monitor: Child,
}

impl Node {
    /// The manifest that a reference names. One that was resolved here before is not asked for
    /// again, unless the wish says so.
    ///
    /// # Errors
    /// [`NodeError`] where there is no such image.
    pub fn manifest(&self, wish: &ImageWish) -> Result<Digest, NodeError> {
        let resolved = self.resolve(wish, &Timing::default())?;
        self.remember(&resolved)?;
        Ok(resolved.image.digest)
    }

    /// The container with this id, where there is one.
    #[must_use]
    pub fn container(&self, id: &str) -> Option<Container> {
        self.containers.find(id).ok()
    }

    /// Containers whose names begin like this: ids and directories.
    #[must_use]
    pub fn containers_named(&self, prefix: &str) -> Vec<(String, PathBuf)> {
        let all = self.containers.list().unwrap_or_default();
        let named = all.into_iter().filter(|it| it.name.starts_with(prefix));
        named
            .map(|state| {
                let dir = self.containers.get(state.id.clone()).dir().to_owned();
                (state.id.to_string(), dir)
            })
            .collect()
    }

    /// Starts a container that [`Node::prepare`] has made. When it has ended, [`Node::release`] takes
    /// it away.
    ///
    /// # Errors
    /// [`NodeError`]; the container is still to be released then.
    pub fn run(&self, prepared: PreparedContainer) -> Result<Launched, NodeError> {
        let container = Container::open(&prepared.dir)?;
        let mut program = Command::new(&self.settings.program);
        begin_with_our_first_limit(&mut program);
        // A runtime would hand the daemon's service manager on to the container.
        program.env_remove("NOTIFY_SOCKET");
        program
            .arg("--root")
            .arg(&self.settings.root)
            .args(&self.settings.arguments)
            .arg("--quiet")
            .arg("monitor")
            .arg(container.dir());
        let (started, monitor) = monitor::detach(&container, &mut program)?;
        Ok(Launched {
            prepared,
            container,
            started,
            monitor,
        })
    }
}
