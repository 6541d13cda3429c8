//! By whose word a layer came by what it has before it is whole: a file of each layer.
//!
//! Where there is none nobody is trusted to have spoken, so that a first one may be lost in a crash
//! of the machine. One that is replaced or removed must not come back: it would say less than what
//! the layer has by then, and bytes survive that crash on their own. On ext4 and xfs nothing that
//! is synced later survives alone; on btrfs it may. So what is removed is so for good, and what is
//! replaced, as a start does, is [settled](Records::settle) before a layer is synced that is not whole.

use std::io;

use thaw_image::DiffId;

use super::{ArtifactRecord, Records, read, remove, sync_dir_of};

impl Records {
    /// Who spoke for what a layer has, once; `None` where that is not known.
    pub(crate) fn words(&self, diff_id: &DiffId) -> Option<Vec<ArtifactRecord>> {
        read(&self.words.join(diff_id.0.hex()))
    }

    /// Remembers who spoke for what a layer has.
    pub(crate) fn put_words(&self, diff_id: &DiffId, words: &[ArtifactRecord]) -> io::Result<()> {
        self.write_soon(&self.words.join(diff_id.0.hex()), &words)
    }

    /// Forgets who spoke for what a layer had that has nothing now.
    pub(crate) fn remove_words(&self, diff_id: &DiffId) {
        // What stays says too much, and not too little.
        self.forget_words(diff_id).ok();
    }

    pub(super) fn forget_words(&self, diff_id: &DiffId) -> io::Result<()> {
        let path = self.words.join(diff_id.0.hex());
        if path.exists() {
            remove(&path)?;
            sync_dir_of(&path)?;
        }
        Ok(())
    }
}
