//! Who else than root may speak to the daemon: the table `[socket]`.

use std::path::{Path, PathBuf};

use anyhow::bail;
use serde::{Deserialize, Serialize};

/// `[socket]`: where others than root ask, and what they may. Users and groups are names or numbers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Socket {
    /// Where the daemon listens for them.
    pub(crate) path: PathBuf,
    /// Who may do everything.
    pub(crate) users: Vec<String>,
    /// Whose members may do everything.
    pub(crate) groups: Vec<String>,
    /// Who may ask what is there.
    pub(crate) read_users: Vec<String>,
    /// Whose members may ask what is there.
    pub(crate) read_groups: Vec<String>,
}

impl Default for Socket {
    fn default() -> Self {
        Self {
            path: "/run/thaw/thaw.sock".into(),
            users: Vec::new(),
            groups: Vec::new(),
            read_users: Vec::new(),
            read_groups: Vec::new(),
        }
    }
}

impl Socket {
    /// The same, where it makes sense; a path is taken from `base` on.
    pub(super) fn checked(self, base: &Path) -> anyhow::Result<Self> {
        let lists = [
            &self.users,
            &self.groups,
            &self.read_users,
            &self.read_groups,
        ];
        if lists.iter().all(|list| list.is_empty()) {
            bail!("[socket] lets nobody in: it wants users, groups, read-users or read-groups");
        }
        Ok(Self {
            path: base.join(&self.path),
            ..self
        })
    }
}
