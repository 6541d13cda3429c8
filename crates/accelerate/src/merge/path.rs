//! Paths as tars have them, and what they mean in a layer.

/// Most bytes of a path: what Linux takes in one call.
pub(crate) const MAX_PATH: usize = 4096;
/// Most bytes of one component.
const MAX_NAME: usize = 255;

/// Why bytes are not a path within a layer.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathError {
    /// No bytes at all.
    #[error("it is empty")]
    Empty,
    /// Over 4,096 bytes.
    #[error("it has {0} bytes, over the limit of {MAX_PATH}")]
    Long(usize),
    /// A component of over 255 bytes.
    #[error("it has a name of {0} bytes, over the limit of {MAX_NAME}")]
    LongName(usize),
    /// A zero byte.
    #[error("it has a zero byte in it")]
    Nul,
    /// `..`
    #[error("it climbs with `..`")]
    Climbs,
    /// A whiteout that names nothing, or the directory itself or its parent.
    #[error("it is a whiteout of nothing")]
    Whiteout,
}

/// A name in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place<'a> {
    /// The path of the directory, not normalised.
    pub(crate) parent: &'a [u8],
    /// One component.
    pub(crate) name: &'a [u8],
}

/// What the path of an entry says (OCI image-spec, "Whiteouts").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Meaning<'a> {
    /// The entry is the root directory.
    Root,
    /// The entry is this.
    Plain(Place<'a>),
    /// The lower layers' file or directory of this name is gone.
    Whiteout(Place<'a>),
    /// All that lower layers have in this directory is gone.
    Opaque(&'a [u8]),
    /// Other names that begin with `.wh.` twice: bookkeeping of AUFS.
    Ignored,
    /// Something below a whiteout: no tool writes that, and a `.wh.` name must not be seen.
    BelowWhiteout,
}

/// The components of a path: what is between slashes, without `.`.
pub(crate) fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
}

/// Checks that `path` is one that stays within its root.
pub(crate) fn check(path: &[u8]) -> Result<(), PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if path.len() > MAX_PATH {
        return Err(PathError::Long(path.len()));
    }
    if path.contains(&0) {
        return Err(PathError::Nul);
    }
    for name in components(path) {
        if name == b".." {
            return Err(PathError::Climbs);
        }
        if name.len() > MAX_NAME {
            return Err(PathError::LongName(name.len()));
        }
    }
    Ok(())
}

/// Parts a path into its last component and what is before it; `None` for the root.
pub(crate) fn split(path: &[u8]) -> Option<Place<'_>> {
    let mut rest = path;
    loop {
        let start = rest
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or(0, |slash| slash + 1);
        let (parent, name) = rest.split_at(start);
        if !name.is_empty() && name != b"." {
            return Some(Place { parent, name });
        }
        rest = parent.strip_suffix(b"/")?;
    }
}

/// Checks the path of an entry and says what it means.
pub(crate) fn meaning(path: &[u8]) -> Result<Meaning<'_>, PathError> {
    check(path)?;
    let Some(place) = split(path) else {
        return Ok(Meaning::Root);
    };
    for name in components(place.parent) {
        if name.starts_with(b".wh..wh.") {
            return Ok(Meaning::Ignored);
        }
        if name.starts_with(b".wh.") {
            return Ok(Meaning::BelowWhiteout);
        }
    }
    match place.name.strip_prefix(b".wh.") {
        None => Ok(Meaning::Plain(place)),
        Some(b".wh..opq") => Ok(Meaning::Opaque(place.parent)),
        Some(hidden) if hidden.starts_with(b".wh.") => Ok(Meaning::Ignored),
        Some(b"" | b"." | b"..") => Err(PathError::Whiteout),
        Some(name) => Ok(Meaning::Whiteout(Place {
            parent: place.parent,
            name,
        })),
    }
}

/// A path for messages: printable, and not longer than a line or two.
pub(crate) fn shown(path: &[u8]) -> String {
    const MOST: usize = 160;
    let cut = path.get(..MOST).unwrap_or(path);
    let dots = if path.len() > MOST { "..." } else { "" };
    format!("{}{dots}", cut.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place<'a>(parent: &'a str, name: &'a str) -> Place<'a> {
        Place {
            parent: parent.as_bytes(),
            name: name.as_bytes(),
        }
    }

    #[test]
    fn paths_mean() {
        for (path, expected) in [
            ("/", Meaning::Root),
            (".", Meaning::Root),
            ("././/", Meaning::Root),
            ("a", Meaning::Plain(place("", "a"))),
            ("/a", Meaning::Plain(place("/", "a"))),
            ("./a/./b//./", Meaning::Plain(place("./a/./", "b"))),
            ("a/.wh.b", Meaning::Whiteout(place("a/", "b"))),
            (".wh.b", Meaning::Whiteout(place("", "b"))),
            ("a/.wh..b", Meaning::Whiteout(place("a/", ".b"))),
            ("a/.wh..wh..opq", Meaning::Opaque(b"a/")),
            (".wh..wh..opq", Meaning::Opaque(b"")),
            (".wh..wh.plnk", Meaning::Ignored),
            (".wh..wh.plnk/1.2", Meaning::Ignored),
            ("a/.wh.b/c", Meaning::BelowWhiteout),
            ("a/.whb", Meaning::Plain(place("a/", ".whb"))),
            ("...", Meaning::Plain(place("", "..."))),
        ] {
            assert_eq!(meaning(path.as_bytes()), Ok(expected), "{path}");
        }
    }

    #[test]
    fn hostile_paths_are_refused() {
        let long_name = format!("a/{}", "x".repeat(256));
        let long_path = "x/".repeat(2049);
        for (path, expected) in [
            ("", PathError::Empty),
            ("..", PathError::Climbs),
            ("a/../b", PathError::Climbs),
            ("/../../etc/passwd", PathError::Climbs),
            ("a/..", PathError::Climbs),
            ("a\0b", PathError::Nul),
            (".wh.", PathError::Whiteout),
            ("a/.wh..", PathError::Whiteout),
            (".wh...", PathError::Whiteout),
            (&long_name, PathError::LongName(256)),
            (&long_path, PathError::Long(4098)),
        ] {
            assert_eq!(meaning(path.as_bytes()), Err(expected), "{path}");
        }
    }
}
