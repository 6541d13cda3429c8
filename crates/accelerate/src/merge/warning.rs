//! What a merge leaves out, and says so.

use super::path::{MAX_PATH, shown};

/// Most warnings that are kept; the others are only counted.
const MOST: usize = 256;

/// Something of a layer that the tree does not have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// Number of the layer, 1 for the lowest.
    pub layer: usize,
    /// The path; only its beginning where it is longer than a tar's can be.
    pub path: Vec<u8>,
    /// What was left out, and why.
    pub kind: WarningKind,
}

/// What was left out, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum WarningKind {
    /// A character device 0:0: in an overlay it is a whiteout and cannot be seen.
    WhiteoutDevice,
    /// An xattr that overlayfs would obey instead of showing it.
    OverlayXattr(Vec<u8>),
    /// An xattr in a namespace that Linux does not have.
    UnknownXattr(Vec<u8>),
    /// An entry below a `.wh.` name.
    BelowWhiteout,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "layer {}, `{}`: ", self.layer, shown(&self.path))?;
        match &self.kind {
            WarningKind::WhiteoutDevice => {
                f.write_str("character device 0:0 left out: an overlay would not show it")
            }
            WarningKind::OverlayXattr(name) => {
                write!(
                    f,
                    "xattr `{}` left out: overlayfs would obey it",
                    shown(name)
                )
            }
            WarningKind::UnknownXattr(name) => {
                write!(
                    f,
                    "xattr `{}` left out: Linux has no such namespace",
                    shown(name)
                )
            }
            WarningKind::BelowWhiteout => f.write_str("left out: it lies below a whiteout"),
        }
    }
}

/// The warnings of a merge, in order: so many as somebody will read, and how many there were.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Warnings {
    kept: Vec<Warning>,
    total: usize,
}

impl Warnings {
    /// The first ones.
    #[must_use]
    pub fn kept(&self) -> &[Warning] {
        &self.kept
    }

    /// How many there were, those not kept included.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.total
    }

    pub(super) fn add(&mut self, layer: usize, path: &[u8], kind: WarningKind) {
        self.total += 1;
        if self.kept.len() < MOST {
            self.kept.push(Warning {
                layer,
                path: path[..path.len().min(MAX_PATH)].to_vec(),
                kind,
            });
        }
    }
}
