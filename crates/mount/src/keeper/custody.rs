//! What a service manager holds, so that daemon and keeper may die together where no monitor lives:
//! the event group or FUSE connection, and the tar of each layer that is attached.
//!
//! It is a [`Keepsake`](super::Keepsake) that nobody has to take out of a process: the manager gives
//! it to the next daemon that it starts. One that cannot begin denies what waits
//! ([`Keepsake::given`](super::Keepsake::given)). The manager itself answers no reader: as long as it
//! cannot execute the program, they wait.
//!
//! Of each layer there is one descriptor under the layer's name, held before the layer is served and let go
//! when it is released; so there are never more of them than layers attached. The source alone would
//! do for a read to be never wrong. But whoever has no tar that raises no events can serve none,
//! so its images would be lost. That is what becomes of layers that a full manager does not hold.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use thaw_image::DiffId;

use super::source::Source;

/// Who holds descriptors beyond the death of daemon and keeper, and gives them to the next daemon.
pub trait Custodian: fmt::Debug + Send + Sync {
    /// Holds a duplicate of `fd` under `name`, beside what is held under that name.
    fn hold(&self, name: &str, fd: BorrowedFd<'_>);

    /// Lets go what is held under `name`.
    fn let_go(&self, name: &str);

    /// What was held when this process began, with names; nothing the second time. It stays held.
    fn take(&self) -> Vec<(String, OwnedFd)>;
}

/// The name of the event group or FUSE connection.
const SOURCE: &str = "source";

/// A custodian, where there is one, and what it has.
#[derive(Clone, Debug)]
pub(crate) struct Custody(Option<Arc<dyn Custodian>>);

impl Custody {
    pub(crate) fn with(custodian: Option<&Arc<dyn Custodian>>) -> Self {
        Self(custodian.map(Arc::clone))
    }

    /// What a daemon before us left.
    pub(crate) fn take(&self) -> Vec<(String, OwnedFd)> {
        self.0.as_ref().map(|it| it.take()).unwrap_or_default()
    }

    /// Has exactly this held from now on; `left` are the names of what was.
    pub(crate) fn begin<'a>(
        &self,
        left: &[String],
        source: &Source,
        layers: impl Iterator<Item = (DiffId, BorrowedFd<'a>)>,
    ) {
        let Some(custodian) = &self.0 else { return };
        // It may be that of a keeper that ended before.
        left.iter().for_each(|name| custodian.let_go(name));
        custodian.hold(SOURCE, source.as_fd());
        layers.for_each(|(layer, tar)| self.hold(&layer, tar));
    }

    /// Before a layer is served.
    pub(crate) fn hold(&self, layer: &DiffId, tar: BorrowedFd<'_>) {
        if let Some(custodian) = &self.0 {
            custodian.hold(&layer.0.hex(), tar);
        }
    }

    /// After it was let go.
    pub(crate) fn let_go(&self, layer: &DiffId) {
        if let Some(custodian) = &self.0 {
            custodian.let_go(&layer.0.hex());
        }
    }

    /// The keeper has ended, with nothing to serve.
    pub(crate) fn end(&self) {
        if let Some(custodian) = &self.0 {
            custodian.let_go(SOURCE);
        }
    }
}
