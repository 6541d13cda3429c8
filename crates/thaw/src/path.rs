//! Paths as the mount table shows them, by which the next daemon knows its own.

use std::io;
use std::path::{Path, PathBuf};

/// From the root directory on, and without symbolic links or `..` as far as it exists.
///
/// # Errors
/// An empty path, or one that leads through what is no directory, or may not be looked at.
pub(crate) fn real(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    for ancestor in absolute.ancestors() {
        let real = match ancestor.canonicalize() {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let rest = absolute.strip_prefix(ancestor).unwrap_or(Path::new(""));
        // One component after the other: an empty rest adds no slash.
        return Ok(rest.components().fold(real, |path, part| path.join(part)));
    }
    Ok(absolute)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_as_far_as_there_is_something() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        fs::create_dir_all(dir.join("there/deep")).unwrap();
        symlink("there", dir.join("link")).unwrap();
        fs::write(dir.join("file"), "").unwrap();
        let real = |path: &str| real(&dir.join(path)).unwrap();
        assert_eq!(real("link"), dir.join("there"));
        assert_eq!(real("link/deep/../new/store"), dir.join("there/new/store"));
        assert_eq!(real("there/"), dir.join("there"));
        assert!(
            !real("there/")
                .as_os_str()
                .as_encoded_bytes()
                .ends_with(b"/")
        );
        assert!(super::real(&dir.join("file/below")).is_err());
        assert!(super::real(Path::new("")).is_err());
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!(super::real(Path::new("new")).unwrap(), here.join("new"));
    }
}
