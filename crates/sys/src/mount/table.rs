//! The mount table (proc_pid_mountinfo(5)): what is mounted where, also by processes that are gone.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::Error;

/// One mount of this process's namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountEntry {
    /// Where it is mounted.
    pub target: PathBuf,
    /// The filesystem's name, such as `erofs`.
    pub kind: String,
    /// What is mounted: a device, a file, or any word.
    pub source: OsString,
    /// The superblock's options.
    pub options: OsString,
    /// The superblock's device number, major and minor.
    pub device: (u32, u32),
}

impl MountEntry {
    /// The file or directory that is mounted: the source, or what lies behind it if that is a loop
    /// device (`Documentation/ABI/testing/sysfs-block`).
    #[must_use]
    pub fn file(&self) -> PathBuf {
        let (major, minor) = self.device;
        let device = format!("/sys/dev/block/{major}:{minor}/loop/backing_file");
        let Ok(mut path) = fs::read(device) else {
            return PathBuf::from(&self.source);
        };
        path.pop_if(|last| *last == b'\n');
        OsString::from_vec(path).into()
    }
}

/// The mounts that this process sees, in the order in which they were made.
///
/// # Errors
/// [`Error::Table`].
pub fn mount_table() -> Result<Vec<MountEntry>, Error> {
    let bytes = fs::read("/proc/self/mountinfo").map_err(Error::Table)?;
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| parse(line).ok_or_else(|| Error::Table(io::ErrorKind::InvalidData.into())))
        .collect()
}

/// `36 35 98:0 /root /target rw,noatime master:1 - ext3 /dev/root rw,errors=continue`, where the
/// words before the dash vary in number.
fn parse(line: &[u8]) -> Option<MountEntry> {
    let mut words = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(words.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let target = unescape(words.nth(1)?);
    words.find(|word| *word == b"-")?;
    Some(MountEntry {
        target: target.into(),
        kind: String::from_utf8_lossy(words.next()?).into_owned(),
        source: unescape(words.next()?),
        options: unescape(words.next()?),
        device: (major.parse().ok()?, minor.parse().ok()?),
    })
}

/// Undoes the octal escapes of space, tab, newline and backslash.
fn unescape(word: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .first_chunk::<3>()
            .filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        if let Some([a, b, c]) = octal {
            let value = u32::from(a - b'0') * 64 + u32::from(b - b'0') * 8 + u32::from(c - b'0');
            out.push(u8::try_from(value & 0xff).unwrap_or(0));
            rest = &tail[3..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let line = br"36 35 98:7 /mnt1 /a\040b\134c rw,noatime master:1 shared:2 - ext3 /dev/x\011y rw,errors=continue";
        let entry = parse(line).unwrap();
        assert_eq!(entry.target, PathBuf::from(r"/a b\c"));
        assert_eq!((entry.kind.as_str(), entry.device), ("ext3", (98, 7)));
        assert_eq!(entry.source, "/dev/x\ty");
        assert_eq!(entry.options, "rw,errors=continue");
    }

    #[test]
    fn other_lines_are_not() {
        for line in ["", "36 35 98:7 / /a rw", "36 35 987 / /a rw - a b c"] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
        assert_eq!(unescape(br"\04"), r"\04");
    }

    #[test]
    fn the_root_is_in_the_table() {
        let table = mount_table().unwrap();
        assert!(table.iter().any(|entry| entry.target == *"/"));
    }
}
